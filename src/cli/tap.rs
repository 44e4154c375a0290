//! `rei tap`, which only rei starts: relays a share of the connections, with and without a supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::daemon::give_back;
use crate::tap::tap_main;

/// `rei tap` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state directory, by which a supervisor recognises its taps
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
}

/// Runs the tap on standard input. The process must have only one thread.
pub fn run(_: &Args) -> ExitCode {
    // Gives back memory that only the parsing of the arguments needed.
    give_back();
    tap_main()
}
