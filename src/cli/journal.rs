//! `rei journal verify`, `rei journal export` and `rei journal accept`.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::args::Global;
use super::connect::ask;
use super::error::CommandError;
use super::ui::Ui;
use crate::config::Config;
use crate::interface::operations::Trust;
use crate::journal::{Reader, Verified, head_beside};

/// `rei journal`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that no record was changed or lost, from the first to the last
    Verify(VerifyArgs),
    /// Print the records, each as one line of JSON
    Export(ExportArgs),
    /// Decide which version is Active, if `rei status` says that the journal is behind reality
    Accept(AcceptArgs),
}

/// The journal that the command reads.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The journal's directory; without it, the directory of the runtime in rei.toml
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// `rei journal verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    which: Which,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// `rei journal export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// The first record to print
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    from: u64,
}

/// `rei journal accept`.
#[derive(Debug, clap::Args)]
pub struct AcceptArgs {
    /// reality: the version that serves is Active; journal: the journal's Active is restored
    #[arg(value_name = "WHAT", value_enum)]
    what: What,
    /// The reason, for the record
    #[arg(short, long, value_name = "TEXT", default_value = "an operator decided so")]
    reason: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What an operator trusts.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// The version that serves is Active
    Reality,
    /// The journal's Active is restored
    Journal,
}

impl Which {
    fn directory(&self, global: &Global) -> Result<PathBuf, CommandError> {
        Ok(match &self.directory {
            Some(directory) => directory.clone(),
            None => Config::load(&global.config)?.state.journal(),
        })
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no journal, it is damaged, the supervisor refuses, or the output cannot be written.
pub fn run(command: &Command, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    match command {
        Command::Verify(args) => verify(args, global, ui),
        Command::Export(args) => {
            let mut out = std::io::BufWriter::new(ui.json_lines());
            let exported = Reader::open(&args.which.directory(global)?)?.export(&mut out, args.from);
            // If a record is damaged, the records before it are still printed.
            out.flush()?;
            drop(out);
            let verified = exported?;
            unfinished(&verified, ui);
            Ok(())
        }
        Command::Accept(args) => accept(args, global, ui),
    }
}

fn accept(args: &AcceptArgs, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let trust = match args.what {
        What::Reality => Trust::Reality,
        What::Journal => Trust::Journal,
    };
    let generation = ask(global, async |it| it.settle(trust, Some(args.reason.clone())).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "generation": generation }))?);
    }
    ui.result(&match (args.what, generation) {
        (_, 0) => "no version was ever installed; rei builds the first one".to_owned(),
        (What::Reality, generation) => format!("generation {generation} is Active"),
        (What::Journal, _) => "the journal's Active is restored".to_owned(),
    })?;
    ui.hint("rei status");
    Ok(())
}

fn verify(args: &VerifyArgs, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let directory = args.which.directory(global)?;
    let reader = Reader::open(&directory)?;
    let verified = reader.verify_against(&head_beside(&directory))?;
    if args.json {
        ui.json(&verified)?;
    } else {
        let span = match (verified.first_at, verified.last_at) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        };
        let count = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (records, segments) = (count(verified.records, "record"), count(verified.segments, "segment"));
        ui.result(&format!("the journal of {} is whole: {records} in {segments}{span}", verified.runtime))?;
        ui.result(&format!("head {}", verified.head))?;
    }
    if reader.writer().is_none() {
        unfinished(&verified, ui);
    }
    Ok(())
}

fn unfinished(verified: &Verified, ui: &mut Ui) {
    if verified.unfinished_bytes > 0 {
        let bytes = verified.unfinished_bytes;
        ui.warning(&format!("the last line is incomplete ({bytes} bytes): the next `rei run` removes it"));
    }
}
