//! `rei keeper`, which nobody but rei starts: holds the listeners while no supervisor runs.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::runtime::keeper::{IDLE_MAX, keeper_main};

/// `rei keeper` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The socket on which the listeners are handed back
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

/// Runs the keeper; the process still has one thread.
pub fn run(args: &Args) -> ExitCode {
    keeper_main(&args.socket, IDLE_MAX)
}
