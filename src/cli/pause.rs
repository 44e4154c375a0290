//! `rei pause`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei pause`: start no evolution until `rei resume`; rei still keeps the runtime alive.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.pause().await)?;
    ui.result("no evolution starts until `rei resume`; rei still keeps the runtime alive")?;
    Ok(())
}
