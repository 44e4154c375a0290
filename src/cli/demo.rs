//! `rei demo`.

use std::path::PathBuf;

/// `rei demo`: a whole story on a runtime of its own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to play it; kept afterwards. Without it, a temporary directory that is removed
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}
