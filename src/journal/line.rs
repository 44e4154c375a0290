//! One line of a journal: how it is written and verified.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::digest;
use crate::time::Timestamp;

/// The major format. rei refuses a journal with a higher one, because it could not even follow its chain.
pub const FORMAT_MAJOR: u32 = 1;
/// The minor format, which grows with each addition to the bodies of records. rei reads a journal with a higher one up
/// to the first record whose body it does not know. Each segment names the format in which it was written.
///
/// | minor | addition |
/// |---|---|
/// | 0 | the first format |
/// | 1 | reasons are data instead of sentences |
/// | 2 | entries have the phase of the lifecycle; it decides about draining, findings by slot, and retries of a plan |
/// | 3 | the stage of a canary in which the candidate is asked what users ask |
pub const FORMAT_MINOR: u32 = 3;

/// Maximum size of a record, in bytes. A report with many details has some ten thousand.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Number of hex digits of `sum`. 64 bits are enough to detect accidental changes.
const SUM_DIGITS: usize = 16;
/// The text before the digits of `sum`.
const SUM_KEY: &str = ",\"sum\":\"";
/// The text after the digits of `sum`.
const SUM_END: &str = "\"}";

/// An event, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<B> {
    /// The number of the record, counted from 1.
    pub seq: u64,
    /// The time of the event.
    pub at: Timestamp,
    /// SHA-256 of the previous line, in hex.
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
    /// The time when the segment was created.
    pub(super) created: Timestamp,
    /// The sequence number of its first record.
    pub(super) first: u64,
    /// SHA-256 of the last line of the previous segment; zeros in the first segment.
    pub(super) prev: String,
}

/// The value of [`Header::journal`].
pub(super) const MAGIC: &str = "rei-journal";

/// SHA-256 in hex, which links the lines.
pub(super) type Hash = String;

/// The `prev` of the very first line.
pub(super) fn genesis() -> Hash {
    "0".repeat(64)
}

/// SHA-256 of `bytes` in hex.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    digest::sha256(bytes)
}

/// Encodes a header or record as a line with its newline.
///
/// # Errors
/// If it cannot be written as JSON, or is larger than [`RECORD_BYTES_MAX`].
pub(super) fn seal(content: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(content).map_err(Error::Encode)?;
    if line.len() > RECORD_BYTES_MAX {
        return Err(Error::TooLarge { bytes: line.len(), max: RECORD_BYTES_MAX });
    }
    // The sum is inserted before the closing brace.
    line.pop();
    let sum = hash(&line);
    line.extend_from_slice(SUM_KEY.as_bytes());
    line.extend_from_slice(&sum.as_bytes()[..SUM_DIGITS]);
    line.extend_from_slice(SUM_END.as_bytes());
    line.push(b'\n');
    Ok(line)
}

/// True if the line (without its newline) has a valid `sum`.
pub(super) fn is_sealed(line: &[u8]) -> bool {
    let tail = SUM_KEY.len() + SUM_DIGITS + SUM_END.len();
    let Some((content, tail)) = line.len().checked_sub(tail).map(|at| line.split_at(at)) else { return false };
    let sum = tail.strip_prefix(SUM_KEY.as_bytes()).and_then(|tail| tail.strip_suffix(SUM_END.as_bytes()));
    sum.is_some_and(|sum| sum == &hash(content).as_bytes()[..SUM_DIGITS])
}

/// Parses a record, without checking its `sum`: see [`is_sealed`].
pub(super) fn record<B: DeserializeOwned>(line: &[u8]) -> serde_json::Result<Record<B>> {
    serde_json::from_slice(line)
}

/// The fields of a record that belong to the chain, parsed without its body.
#[derive(Deserialize)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) at: Timestamp,
}

/// Parses `major.minor`; `None` if the text has another form.
pub(super) fn version(format: &str) -> Option<(u32, u32)> {
    let (major, minor) = format.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The format of this rei.
pub(super) fn format() -> String {
    format!("{FORMAT_MAJOR}.{FORMAT_MINOR}")
}
