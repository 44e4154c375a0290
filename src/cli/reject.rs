//! `rei reject`.

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;

/// `rei reject ID`: end an evolution and quarantine its candidate, or close an incident.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The evolution, or its candidate or report, or an open incident, as in `rei status`: evo_0001
    #[arg(value_name = "ID")]
    id: String,
    /// The reason, for the record
    #[arg(short, long, value_name = "TEXT", default_value = "an operator rejected it")]
    reason: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, or no evolution or incident of that name can be rejected.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let evolution_id = ask(global, async |it| it.reject(args.id.clone(), args.reason.clone()).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "evolution_id": evolution_id }))?);
    }
    ui.result(&format!("{} is rejected", args.id))?;
    Ok(())
}
