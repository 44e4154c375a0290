//! `rei run`.

/// `rei run`: supervise the runtime in the foreground; SIGHUP re-reads the file.
#[derive(Debug, clap::Args)]
pub struct Args {}
