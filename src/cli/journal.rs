//! `rei journal verify` and `rei journal export`.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::args::Global;
use super::error::CommandError;
use super::ui::Ui;
use crate::config::Config;
use crate::journal::{Reader, Verified};

/// `rei journal`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that every record is as it was written, from the first to the last
    Verify(VerifyArgs),
    /// Print the records, one line of JSON each
    Export(ExportArgs),
}

/// Which journal.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The journal's directory; without it, that of the runtime in rei.toml
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

impl Which {
    fn reader(&self, global: &Global) -> Result<Reader, CommandError> {
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => Config::load(&global.config)?.state.journal(),
        };
        Ok(Reader::open(&directory)?)
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no journal, it is damaged, or the output cannot be written.
pub fn run(command: &Command, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    match command {
        Command::Verify(args) => verify(args, global, ui),
        Command::Export(args) => {
            let mut out = std::io::BufWriter::new(ui.json_lines());
            let exported = args.which.reader(global)?.export(&mut out, args.from);
            // What is sound is printed also where damage follows.
            out.flush()?;
            drop(out);
            let verified = exported?;
            unfinished(&verified, ui);
            Ok(())
        }
    }
}

fn verify(args: &VerifyArgs, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let reader = args.which.reader(global)?;
    let verified = reader.verify()?;
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
        ui.warning(&format!("the last line is not whole ({bytes} bytes): the next `rei run` takes it off"));
    }
}
