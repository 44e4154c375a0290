//! `rei demo`.

use tokio::signal::unix::{SignalKind, signal};

use super::args::runtime;
use super::error::{CommandError, Kind};
use super::ui::{Role, Ui};
use crate::demo::Error;
use crate::demo::narrator::{Narrator, Page, Part};
use crate::demo::story::{self, Play};

/// `rei demo`: a whole story on its own small runtime.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use no colour
    #[arg(long)]
    pub plain: bool,
    /// Keep the directory with the repositories, the log and the state
    #[arg(long)]
    pub keep: bool,
}

/// Prints the story as the command's result.
struct StoryPage<'u> {
    ui: &'u mut Ui,
    plain: bool,
}

impl Page for StoryPage<'_> {
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
/// If the machine cannot run the demo, or a fact of the story does not happen.
pub fn run(args: &Args, ui: &mut Ui) -> Result<(), CommandError> {
    let this = std::env::current_exe()?;
    let play = Play { runtime: this.with_file_name("rei-demo-runtime"), rei: this, keep: args.keep };
    let mut page = StoryPage { ui, plain: args.plain };
    let mut narrator = Narrator::new(&mut page);
    let played = runtime()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let interrupted = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        story::play(&play, &mut narrator, interrupted).await
    });
    played.map_err(|error: Error| {
        let mut failure = CommandError::of(Kind::Failed, &error, error.hint());
        failure.page = error.log().map(|log| format!("The end of the supervisor's log:\n{log}"));
        failure
    })
}
