//! `rei rollback`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei rollback`: roll back to Previous, or to a generation, at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The profile generation to restore; without it, the recorded Previous
    #[arg(long, value_name = "GEN")]
    to: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, or there is no version to restore.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let generation = ask(global, async |it| it.rollback(args.to).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "generation": generation }))?);
    }
    ui.result(&format!("generation {generation} is current"))?;
    ui.hint("rei status");
    Ok(())
}
