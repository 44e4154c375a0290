//! `rei logger`, which only rei starts: reads the output of instances, with and without a supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::daemon::give_back;
use crate::runtime::logs::logger_main;

/// `rei logger` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the logs
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
}

/// Runs the logger on standard input. The process must have only one thread.
pub fn run(args: &Args) -> ExitCode {
    // Gives back memory that only the parsing of the arguments needed.
    give_back();
    logger_main(&args.directory)
}
