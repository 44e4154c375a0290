//! `rei history`.

/// `rei history`: evolutions and incidents, newest first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
