//! `rei rollback`.

/// `rei rollback`: go back to Previous, or to a generation, at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The profile generation to go back to; without it, the recorded Previous
    #[arg(long, value_name = "GEN")]
    pub to: Option<u64>,
    /// Why, for the record
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}
