//! `rei demo`.

use tokio::signal::unix::{SignalKind, signal};

use super::args::runtime;
use super::error::{CommandError, Kind};
use super::ui::{Role, Ui};
use crate::demo::Error;
use crate::demo::story::{self, Play};
use crate::demo::tell::{Page, Part, Teller};

/// `rei demo`: a whole story on a runtime of its own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use no colour
    #[arg(long)]
    pub plain: bool,
    /// Keep the directory with the repositories, the log and the state
    #[arg(long)]
    pub keep: bool,
}

/// The story is the command's result.
struct Told<'u> {
    ui: &'u mut Ui,
    plain: bool,
}

impl Page for Told<'_> {
    fn line(&mut self, text: &str) -> std::io::Result<()> {
        self.ui.result(text)
    }

    fn paint(&self, part: Part, text: &str) -> String {
        let role = match part {
            Part::Heading => Role::Heading,
            Part::Faint => Role::Faint,
            Part::Good => Role::Good,
            Part::Bad => Role::Bad,
            Part::Typed => Role::Hint,
        };
        if self.plain { text.to_owned() } else { self.ui.paint(role, text) }
    }
}

/// Plays the demo.
///
/// # Errors
/// When the machine cannot play it, or a fact of the story does not come true.
pub fn run(args: &Args, ui: &mut Ui) -> Result<(), CommandError> {
    let this = std::env::current_exe()?;
    let play = Play { runtime: this.with_file_name("rei-demo-runtime"), rei: this, keep: args.keep };
    let mut page = Told { ui, plain: args.plain };
    let mut teller = Teller::new(&mut page);
    let played = runtime()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let interrupted = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        story::play(&play, &mut teller, interrupted).await
    });
    played.map_err(|error: Error| {
        let mut failure = CommandError::of(Kind::Failed, &error, error.hint());
        failure.page = error.log().map(|log| format!("The end of the supervisor's log:\n{log}"));
        failure
    })
}
