//! `rei builder`, which nobody but Nix starts: the builder of sandboxed checks. It takes all from the derivation's
//! environment.

/// `rei builder` (hidden).
#[derive(Debug, clap::Args)]
pub struct Args {}
