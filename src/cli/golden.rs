//! `rei golden`.

use std::path::PathBuf;

/// `rei golden`: recorded exchanges with known-good answers.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the golden runs
    List(ListArgs),
    /// Replay golden runs against an address
    Replay(ReplayArgs),
    /// Make a golden run of a recording
    Import(ImportArgs),
}

/// `rei golden list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `rei golden replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The runs to replay; without them, all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// The address to ask; without it, that of the runtime
    #[arg(long, value_name = "ADDRESS")]
    pub against: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `rei golden import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The name of the new run; without it, that of the file
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}
