//! `rei show`.

/// `rei show ID`: an evolution, incident, candidate or report, with its evidence.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As in `rei history`: evo_0001, inc_0001, cand_0001, val_0001
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
