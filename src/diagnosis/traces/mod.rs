//! Parses stack traces in log text, also in the fields of JSON logs. Pure, with limits, in one pass.
//!
//! Each language is a row of `table`, and has one file: the form of its first line, the form of its frames, and a
//! function that reads a trace from its first line on. A row that recognises a beginning takes all lines that it has
//! examined; a row that does not has examined a limited number of lines. So no log can be crafted to make this slow.

mod assertion;
mod cpp;
mod dotnet;
mod elixir;
mod erlang;
mod find;
mod glibc;
mod go;
mod go_race;
mod java;
mod json;
mod language;
mod lines;
mod node;
mod php;
mod python;
mod ruby;
mod rust;
mod sanitizer;
mod scan;
mod table;
#[cfg(test)]
mod tests;

pub use find::{FRAMES_MAX, TEXT_BYTES_MAX, TRACES_MAX, parse};
pub(super) use find::{Found, find};
pub(super) use table::is_library;
