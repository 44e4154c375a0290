//! `rei reexec`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei reexec`: replace the supervisor's program in place after an upgrade of rei; the runtime and its sockets stay.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, or the supervisor refuses.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.reexec().await)?;
    ui.result("the supervisor now runs the installed program")?;
    Ok(())
}
