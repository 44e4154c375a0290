//! `rei reject`.

/// `rei reject ID`: end an evolution; its candidate is quarantined.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The evolution, as in `rei status`: evo_0001
    #[arg(value_name = "ID")]
    pub id: String,
    /// Why, for the record
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}
