//! `rei stop`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei stop`: end the runtime, then the supervisor.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When nobody answers or the supervisor refuses.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.stop().await)?;
    ui.result("the runtime and its supervisor end")?;
    Ok(())
}
