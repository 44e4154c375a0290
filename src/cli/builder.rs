//! `rei builder` and `rei builder-probe`, which only Nix starts: the builders of the sandboxed checks and of the probe that tests
//! the sandbox. They get all their inputs from the derivation's environment.

/// `rei builder`, `rei builder-probe` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {}
