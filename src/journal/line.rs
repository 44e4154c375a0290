//! One line of a journal: how it is written, and how it is known to be as it was written.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::digest;
use crate::time::Timestamp;

/// A program refuses a journal with a higher one: it could not even follow the chain.
pub const FORMAT_MAJOR: u32 = 1;
/// Grows with each addition to the bodies of records. A program follows a journal with a higher one up to the first record
/// whose body it does not understand. Each segment says by which it was written.
///
/// | minor | what it added |
/// |---|---|
/// | 0 | the first |
/// | 1 | reasons are data, no sentences |
/// | 2 | the lifecycle decides about draining, about findings by slot, and about the retries of a plan |
pub const FORMAT_MINOR: u32 = 2;

/// The largest record, in bytes: a report with many details has some ten thousand.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Hex digits of `sum`: 64 bits tell accidents apart.
const SUM_DIGITS: usize = 16;
/// What stands before the digits of `sum`.
const SUM_KEY: &str = ",\"sum\":\"";
/// What stands behind them.
const SUM_END: &str = "\"}";

/// One event and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<B> {
    /// Counts the records from 1.
    pub seq: u64,
    /// When the event happened.
    pub at: Timestamp,
    /// SHA-256 of the line before, in hex.
    pub prev: String,
    /// The event.
    pub body: B,
}

/// The first line of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// `rei-journal`.
    pub(super) journal: String,
    /// `major.minor`.
    pub(super) format: String,
    /// The runtime's name.
    pub(super) runtime: String,
    /// When the segment was begun.
    pub(super) created: Timestamp,
    /// The sequence number of its first record.
    pub(super) first: u64,
    /// SHA-256 of the last line of the segment before; zeros in the first segment.
    pub(super) prev: String,
}

/// The word in [`Header::journal`].
pub(super) const MAGIC: &str = "rei-journal";

/// SHA-256 in hex: the link of the chain.
pub(super) type Hash = String;

/// The link of the very first line.
pub(super) fn genesis() -> Hash {
    "0".repeat(64)
}

/// SHA-256 of `bytes` in hex.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    digest::sha256(bytes)
}

/// Writes a header or record as a line with its newline.
///
/// # Errors
/// When it cannot be JSON or is larger than [`RECORD_BYTES_MAX`].
pub(super) fn seal(content: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(content).map_err(Error::Encode)?;
    if line.len() > RECORD_BYTES_MAX {
        return Err(Error::TooLarge { bytes: line.len(), max: RECORD_BYTES_MAX });
    }
    // The closing brace gives way to the sum.
    line.pop();
    let sum = hash(&line);
    line.extend_from_slice(SUM_KEY.as_bytes());
    line.extend_from_slice(&sum.as_bytes()[..SUM_DIGITS]);
    line.extend_from_slice(SUM_END.as_bytes());
    line.push(b'\n');
    Ok(line)
}

/// Whether the line (without its newline) is as [`seal`] wrote it.
pub(super) fn is_sealed(line: &[u8]) -> bool {
    let tail = SUM_KEY.len() + SUM_DIGITS + SUM_END.len();
    let Some((content, tail)) = line.len().checked_sub(tail).map(|at| line.split_at(at)) else { return false };
    let sum = tail.strip_prefix(SUM_KEY.as_bytes()).and_then(|tail| tail.strip_suffix(SUM_END.as_bytes()));
    sum.is_some_and(|sum| sum == &hash(content).as_bytes()[..SUM_DIGITS])
}

/// Reads a record; the seal is left to [`is_sealed`].
pub(super) fn record<B: DeserializeOwned>(line: &[u8]) -> serde_json::Result<Record<B>> {
    serde_json::from_slice(line)
}

/// The chain's part of a record, read without its body.
#[derive(Deserialize)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) at: Timestamp,
}

/// `major.minor` of `format`; `None` when it is neither.
pub(super) fn version(format: &str) -> Option<(u32, u32)> {
    let (major, minor) = format.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Our own format.
pub(super) fn format() -> String {
    format!("{FORMAT_MAJOR}.{FORMAT_MINOR}")
}
