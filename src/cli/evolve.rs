//! `rei evolve`.

/// `rei evolve`: ask for an evolution.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to become; without it, the head of the followed ref
    #[arg(long, value_name = "REV")]
    pub rev: Option<String>,
    /// The blueprint to use; without it, the one for upgrades
    #[arg(long, value_name = "NAME")]
    pub blueprint: Option<String>,
    /// Wait until it has ended
    #[arg(long)]
    pub wait: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
