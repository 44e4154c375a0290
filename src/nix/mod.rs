//! Drives the Nix programs.
