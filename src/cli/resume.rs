//! `rei resume`.

/// `rei resume`: begin evolutions again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Why, for the record
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}
