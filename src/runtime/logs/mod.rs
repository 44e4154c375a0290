//! What instances print: read by a process of its own, the logger, so that nobody waits for a supervisor that is away.
//!
//! An instance writes both streams into one pipe. The logger reads every pipe always, into two files that take turns and
//! into a memory that the supervisor shares. It outlives the supervisor, and it does not matter whether that one hangs, is
//! stopped or has died. What cannot be written, because it comes too fast or the disk does not take it, is dropped and
//! counted, but for its end, which is kept; it is never waited for. Where the logger itself is away or hangs, the
//! supervisor, or else the keeper, stands in: it reads so much that the instance can go on, and drops and counts that.
//!
//! | file | its one job |
//! |---|---|
//! | `pipe` | what an instance writes into, and how full it is |
//! | `lines` | what is kept of it: a rate, lines of a bounded length |
//! | `memory` | the last of it and the counts, shared by logger, supervisor and keeper |
//! | `files` | the two files that take turns |
//! | `writer` | a thread that writes files, so that reading never waits for a disk |
//! | `server` | the logger's process |
//! | `source` | one instance's log in it |
//! | `client` | a supervisor's side |
//! | `handover` | a logger that nobody can reach, or that hangs, makes way |
//! | `relief` | a pipe that nobody reads: seen, and emptied |

mod client;
mod files;
mod handover;
mod lines;
mod memory;
mod pipe;
mod relief;
mod server;
mod source;
mod writer;

pub use client::{Log, LogError, Logger};
pub use files::tail_of;
pub use handover::end_loggers;
pub use lines::{BURST_BYTES, LINE_BYTES_MAX, RATE_BYTES_PER_S};
pub use memory::{LogStats, MEMORY_BYTES, Memory, StandIn};
pub use pipe::{MEMORY_SUFFIX, PIPE_BYTES, PIPE_PREFIX, pipe, reopen};
pub use relief::{Unread, Watch, relieve};
pub use server::{logger_main, serve};
