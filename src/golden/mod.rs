//! Golden runs: recorded exchanges with known-good answers.
//!
//! | file | its one job |
//! |---|---|
//! | `format` | `NAME.golden.jsonl`: a header, then one exchange a line; read, written, listed |
//! | `normalise` | what of an answer does not count, as the run's author says |
//! | `facets` | an answer as a tree of small facts, each with a path |
//! | `compare` | recorded against candidate, minus what differs between two answers of Active (noise). Pure |
//! | `replay` | asks an instance everything a run asks |
//! | `record` | makes runs: from a live server, from a list of requests |
//! | `har` | makes runs: from an HTTP archive of a browser or a proxy |
//!
//! A run is the operator's: the judge alone reads it, in a place that the judged cannot see.

mod compare;
mod credentials;
mod facets;
mod format;
mod har;
mod normalise;
mod record;
mod replay;
#[cfg(test)]
mod tests;

pub use compare::{Divergence, Noise, compare, diff};
pub use credentials::{TakenOut, take_out};
pub use facets::Facets;
pub use format::{
    EXCHANGES_MAX, Error, Exchange, Expected, FILE_BYTES_MAX, GoldenRun, Header, Headers, Listed, SUFFIX, Writer, list,
    read, verify,
};
pub use har::from_har;
pub use normalise::{Normaliser, Normalisers};
pub use record::{RecordError, parse_requests, record};
pub use replay::{Answer, REQUEST_TIMEOUT, replay};
