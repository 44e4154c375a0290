//! `rei history`.

use super::args::Global;
use super::connect::{ask_or_read_journal, look, walk};
use super::error::CommandError;
use super::ui::Ui;
use super::view;
use crate::history::History;
use crate::interface::operations::{HISTORY_LIMIT, HISTORY_LIMIT_MAX};

/// `rei history`: evolutions and maintenance records, newest first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = HISTORY_LIMIT,
          value_parser = clap::value_parser!(u64).range(1..=HISTORY_LIMIT_MAX))]
    limit: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers and there is no journal.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let entries = ask_or_read_journal(
        global,
        ui,
        async |it| it.history(Some(args.limit)).await,
        |paths| Ok(walk(paths, History::last(limit))?.entries()),
    )?;
    if args.json {
        ui.json(&serde_json::json!({ "entries": entries }))?;
    } else if entries.is_empty() {
        ui.status("there is no history yet");
    } else {
        ui.result(&view::history(&entries, look(ui)))?;
    }
    Ok(())
}
