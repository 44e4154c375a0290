//! `rei builder` and `rei builder-probe`, which nobody but Nix starts: the builders of sandboxed checks and of the proof
//! that the sandbox holds. They take all from the derivation's environment.

/// `rei builder`, `rei builder-probe` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {}
