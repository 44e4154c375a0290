//! `rei resume`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei resume`: start evolutions again, and forget spent budgets.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.resume().await)?;
    ui.result("evolutions may start again")?;
    Ok(())
}
