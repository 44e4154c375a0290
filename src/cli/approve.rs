//! `rei approve`.

/// `rei approve ID`: let a candidate that waits for it go on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The evolution, as in `rei status`: evo_0001
    #[arg(value_name = "ID")]
    pub id: String,
    /// Why, for the record
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}
