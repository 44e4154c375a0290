//! `rei approve`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei approve ID`: approve an evolution that waits for an operator.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The evolution, or its candidate or report, as in `rei status`: evo_0001
    #[arg(value_name = "ID")]
    id: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, or no evolution of that name waits.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let evolution_id = ask(global, async |it| it.approve(args.id.clone()).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "evolution_id": evolution_id }))?);
    }
    ui.result(&format!("{evolution_id} is approved"))?;
    ui.hint("rei status --watch");
    Ok(())
}
