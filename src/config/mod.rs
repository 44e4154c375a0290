//! `rei.toml`: what an operator wants, checked whole before anything starts.
//!
//! [`types`] is the valid form that the rest of the house uses; it has no way to be wrong. `parse` reads a file into it
//! and reports every mistake in one go, with line, column and a hint. The defaults are in `rei.toml` beside this file
//! and nowhere else: the parser reads them from there, and `rei init` writes that file.

mod duration;
mod load;
mod parse;
mod problem;
mod reload;
mod secrets;
mod section;
pub mod template;
pub mod types;
mod value;

#[cfg(test)]
mod tests;

pub use duration::{format_duration, parse_duration};
pub use load::{FILE_BYTES_MAX, LoadError, Place};
pub use problem::{Problem, render};
pub use reload::{Change, When, diff};
pub use types::*;
