//! The append-only record from which every state can be rebuilt.
//!
//! A journal is a directory:
//!
//! | file | holds |
//! |---|---|
//! | `SEQ.jsonl` | a segment: a header line, then one record a line; named by its first sequence number |
//! | `snapshots/SEQ.json` | the state after record SEQ, so that a start reads only what follows |
//! | `lock` | the pid of the supervisor that writes, under `flock` |
//!
//! Each line has `prev`, the SHA-256 in hex of the whole line before it (without its newline), across segments; and
//! last of all `sum`, the first 16 hex digits of the SHA-256 of what stands before `,"sum"`, so that a flipped bit in the
//! very last line is seen too. A record is on disk before [`Journal::append`] returns.
//!
//! How far it went is kept in a second place too, the sealed head: see `head`. Without it, a journal that lost its last
//! records would look whole.
//!
//! Damage is never guessed around. Only a last line that a crash cut short is taken off, and that is told. Snapshots
//! are a cache: a bad one is passed over, and that is told as well.

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
pub use head::{Standing, head_beside};
pub use line::{FORMAT_MAJOR, FORMAT_MINOR, RECORD_BYTES_MAX, Record};
pub use reader::{Reader, Verified};
pub use reserve::Reserve;
pub use segment::Cut;
pub use writer::{Journal, Limits, Meta, Opened};
