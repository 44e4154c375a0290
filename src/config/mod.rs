//! `rei.toml`: what an operator wants, checked whole before anything starts.
//!
//! [`types`] is the valid form that all other modules use; it has no way to be wrong. `parse` reads a file into it and
//! reports every mistake in one go, with line, column and a hint.
//!
//! Each key is described once, in `options.toml`: its type, its default, when a change of it takes effect, and its
//! sentence. `REI_BLESS=1 cargo test --lib config` makes `rei.toml` beside it and `docs/options.md` from that, and a test
//! keeps them equal. The parser has its defaults from `rei.toml`, which `rei init` writes; `reload` and the NixOS module
//! read the descriptions themselves.

mod duration;
mod load;
mod options;
mod parse;
mod problem;
mod reload;
mod secrets;
mod section;
mod sources;
pub mod template;
pub mod types;
mod value;

#[cfg(test)]
mod options_tests;
#[cfg(test)]
mod tests;

pub use duration::{format_duration, parse_duration};
pub use load::{FILE_BYTES_MAX, LoadError, Place};
pub use options::When;
pub use problem::{Problem, render};
pub use reload::{Change, diff};
pub use sources::*;
pub use types::*;
