//! The output of instances. A separate process, the logger, reads it, so that instances do not block while there is no
//! supervisor.
//!
//! An instance writes both streams into one pipe. The logger always reads every pipe, and writes into two rotating
//! files and into a memory file that it shares with the supervisor. It outlives the supervisor, and does not depend on
//! whether the supervisor hangs, is stopped or has died. Output that cannot be written, because it is too fast or the
//! disk refuses it, is dropped and counted; only its end is kept. The logger never waits for the disk. If the logger
//! itself is gone or hangs, the supervisor, or else the keeper, is the fallback reader: it drains just enough that the
//! instance does not block, and counts what it drops.
//!
//! | file | its one job |
//! |---|---|
//! | `pipe` | the pipe of an instance, and its fill level |
//! | `lines` | limits the rate and the length of lines |
//! | `memory` | the newest output and the counters, shared by logger, supervisor and keeper |
//! | `shared` | a file in memory that two processes share |
//! | `files` | the two rotating files |
//! | `writer` | a thread that writes files, so that reading never waits for a disk |
//! | `server` | the process of the logger |
//! | `source` | the log of one instance in the logger |
//! | `counts` | counts the requests of an access log, for the supervisor |
//! | `client` | the supervisor's side |
//! | `handover` | stops a logger that is unreachable or hangs |
//! | `unread` | detects and drains a pipe that no process reads |

mod client;
mod counts;
mod files;
mod handover;
mod lines;
mod memory;
mod pipe;
mod server;
mod shared;
mod source;
mod unread;
mod writer;

pub use client::{CountingLogger, Log, LogError, Logger};
pub use files::tail_of;
pub use handover::stop_loggers;
pub use lines::{BURST_BYTES, LINE_BYTES_MAX, RATE_BYTES_PER_S};
pub use memory::{FallbackReader, LogStats, MEMORY_BYTES, Memory};
pub use pipe::{MEMORY_SUFFIX, PIPE_BYTES, PIPE_PREFIX, pipe, reopen};
pub use server::{logger_main, serve};
pub use unread::{PipeWatch, Unread, drain_excess};
