//! `rei show`.

use super::args::Global;
use super::connect::{ask, ask_or_read_journal, look, walk};
use super::error::CommandError;
use super::ui::Ui;
use super::{Kind, view};
use crate::history::History;
use crate::interface::operations::OperationsError;
use crate::state::objects;

/// `rei show ID`: an evolution, incident, context, candidate, report or record, with its evidence.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An id from `rei history`: evo_0001, inc_0001, ctx_0001, cand_0001, val_0001, rec_0001; or `quarantine`
    #[arg(value_name = "ID")]
    id: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The word that `ID` can be instead of an id.
const QUARANTINE: &str = "quarantine";

/// Runs the command.
///
/// # Errors
/// If no supervisor answers and there is no journal, or no object has that id.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    if args.id == QUARANTINE {
        return quarantine(args, global, ui);
    }
    let shown = ask_or_read_journal(
        global,
        ui,
        async |it| it.show(args.id.clone()).await,
        |paths| {
            let history = walk(paths, History::of(&args.id))?;
            let absent = OperationsError::NotFound { id: args.id.clone() };
            let not_found = || CommandError::of(Kind::Refused, &absent, absent.hint());
            history.show(|id| objects::read(paths, id)).ok_or_else(not_found)
        },
    )?;
    if args.json {
        ui.json(&shown)?;
    } else {
        ui.result(&view::show(&shown, look(ui)))?;
    }
    Ok(())
}

fn quarantine(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let entries = ask(global, async |it| it.quarantine().await)?;
    if args.json {
        ui.json(&serde_json::json!({ "entries": entries }))?;
    } else if entries.is_empty() {
        ui.status("the quarantine is empty");
    } else {
        ui.result(&view::quarantine(&entries, look(ui)))?;
        ui.hint("rei lift CONTENT releases one: a candidate, tree or store path");
    }
    Ok(())
}
