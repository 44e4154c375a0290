//! `rei logger`, which nobody but rei starts: reads what instances print, with and without a supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::runtime::logs::logger_main;
use crate::service::give_back;

/// `rei logger` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the logs are
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
}

/// Runs the logger on standard input; the process still has one thread.
pub fn run(args: &Args) -> ExitCode {
    // It was needed to read the arguments, and is not needed to read pipes.
    give_back();
    logger_main(&args.directory)
}
