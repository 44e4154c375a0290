//! `rei lift`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei lift CONTENT`: release content from quarantine, so that it may be built, judged and promoted again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The candidate, git tree or store path, as in `rei show quarantine`
    #[arg(value_name = "CONTENT")]
    content: String,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, or the content is not in quarantine.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.lift_quarantine(args.content.clone()).await)?;
    ui.result(&format!("{} is released from quarantine", args.content))?;
    Ok(())
}
