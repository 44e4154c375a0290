//! Parses stack traces in log text: Rust, Go, Python, Java and Node. Pure, with limits, in one pass.
//!
//! Each language has one file with one function, which examines the lines from a given one on and takes some of them or
//! none. A parser that recognises a beginning takes all lines that it has examined. So no line is examined twice, and a
//! log cannot be crafted to make this slow.

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
