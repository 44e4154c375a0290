//! The append-only record from which every state can be rebuilt.
//!
//! A journal is a directory:
//!
//! | file | content |
//! |---|---|
//! | `SEQ.jsonl` | a segment: a header line, then one record per line; SEQ is its first sequence number |
//! | `snapshots/SEQ.json` | the state after record SEQ, so that a start reads only the records after it |
//! | `lock` | the pid of the supervisor that writes the journal, under `flock` |
//!
//! Each line has `prev`, the SHA-256 in hex of the whole previous line (without its newline), also across segments. Its
//! last field is `sum`, the first 16 hex digits of the SHA-256 of everything before `,"sum"`, so that a flipped bit in
//! the very last line is detected, too. When [`Journal::append`] returns, the record is on disk.
//!
//! The last position is also stored in a second place, the sealed head (see `head`). Otherwise a journal that lost its
//! last records would look complete.
//!
//! Damage is an error; nothing is guessed. Only an incomplete last line after a crash is removed, and this is reported.
//! Snapshots are a cache: a damaged one is skipped, and this is reported, too.

mod error;
mod head;
mod line;
mod lock;
mod reader;
mod reserve;
mod segment;
mod snapshot;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Error, Place};
pub use head::{HeadStatus, head_beside};
pub use line::{FORMAT_MAJOR, FORMAT_MINOR, RECORD_BYTES_MAX, Record};
pub use reader::{Reader, Verified};
pub use reserve::Reserve;
pub use segment::TornLine;
pub use writer::{Journal, Limits, Meta, Opened};
