//! What instances print: read by a process of its own, the logger, so that nobody waits for a supervisor that is away.
//!
//! An instance writes both streams into one pipe. The logger reads every pipe always, into two files that take turns and
//! into a memory that the supervisor shares. It outlives the supervisor, and it does not matter whether that one hangs, is
//! stopped or has died. What cannot be written, because it comes too fast or the disk does not take it, is dropped and
//! counted; it is never waited for.
//!
//! | file | its one job |
//! |---|---|
//! | `pipe` | what an instance writes into |
//! | `lines` | what is kept of it: a rate, lines of a bounded length |
//! | `memory` | the last of it and the counts, shared between logger and supervisor |
//! | `files` | the two files that take turns |
//! | `writer` | a thread that writes files, so that reading never waits for a disk |
//! | `server` | the logger's process |
//! | `client` | a supervisor's side |
//! | `handover` | a logger that nobody can reach makes way |

mod client;
mod files;
mod handover;
mod lines;
mod memory;
mod pipe;
mod server;
mod writer;

pub use client::{Log, LogError, Logger};
pub use files::tail_of;
pub use handover::end_lost_loggers;
pub use lines::{BURST_BYTES, LINE_BYTES_MAX, RATE_BYTES_PER_S};
pub use memory::{LogStats, MEMORY_BYTES};
pub use pipe::{PIPE_BYTES, pipe, reopen};
pub use server::{logger_main, serve};
