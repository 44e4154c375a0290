//! Requests as the lines of the runtime's access log show them. Pure.
//!
//! | file | its one job |
//! |---|---|
//! | `rules` | the form of the lines, and which keys have what |
//! | `fields` | what a line says about a request |
//! | `combined` | reads the lines of nginx and Apache |
//! | `keyed` | reads lines with keys: JSON and logfmt |
//! | `duration` | reads a duration, whose unit can be in the key or in the value |
//! | `tally` | cuts output into lines, and counts them |

mod combined;
mod duration;
mod fields;
mod keyed;
mod rules;
mod tally;
#[cfg(test)]
mod tests;

pub use rules::Rules;
pub use tally::{LINE_BYTES_MAX, Tally};
