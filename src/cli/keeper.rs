//! `rei keeper`, which nobody but rei starts: holds the listeners while no supervisor runs.

use std::path::PathBuf;

/// `rei keeper` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The socket on which the listeners are handed back
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
}
