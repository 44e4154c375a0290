//! `rei status`.

/// `rei status`: Active, Candidate, Previous, the phase and what it waits for, health, open incidents.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on showing it as it changes
    #[arg(short, long)]
    pub watch: bool,
    /// Print the result as JSON; with --watch, one object a line
    #[arg(long)]
    pub json: bool,
}
