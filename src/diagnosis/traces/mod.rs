//! Stack traces out of log text: Rust, Go, Python, Java and Node. Pure, bounded, one pass.
//!
//! Each language has one file with one function that looks at the lines from one on and either takes some of them or
//! none. A parser that recognises a beginning takes all lines that it looked at, so that no line is looked at twice and
//! a log made to be slow is not.

mod find;
mod go;
mod java;
mod node;
mod python;
mod rust;
#[cfg(test)]
mod tests;

pub use find::{FRAMES_MAX, TEXT_BYTES_MAX, TRACES_MAX, parse};
pub(super) use find::{Found, find};
