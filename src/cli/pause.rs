//! `rei pause`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei pause`: begin no evolution until `rei resume`; the runtime is kept alive as before.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When nobody answers.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    ask(global, async |it| it.pause().await)?;
    ui.result("no evolution begins until `rei resume`; the runtime is kept alive")?;
    Ok(())
}
