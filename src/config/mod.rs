//! `rei.toml`: what an operator wants, checked whole before anything starts.
//!
//! [`types`] is the valid form that the rest of the house uses; it has no way to be wrong. `parse` reads a file into it
//! and reports every mistake in one go, with line, column and a hint.

pub mod types;

pub use types::*;
