//! The other side of the sandbox: rei as the builder of a check.
//!
//! Here judge and judged share a machine of nothing but processes: the judge is process 1 of a PID namespace without
//! network. So it
//! - is not dumpable, and holds the expected answers in memory only;
//! - starts the judged in a Landlock domain of its own, which can read its closure and write one empty directory;
//! - runs Active and the candidate one after the other, never at once, with every process of the one gone before the
//!   other begins;
//! - ends every other process before it writes its word, so that nothing can reach the output.
//!
//! | file | its one job |
//! |---|---|
//! | `main` | the program: job in, verdict out |
//! | `job` | what Nix passed: the spec and the store paths |
//! | `instance` | one judged process tree: sockets, start, readiness, end |
//! | `confine` | the child between fork and exec: descriptors, Landlock, exec |
//! | `ready` | the configured probes |
//! | `error` | why a check could not be run |
//! | `notify` | what the judged says by `sd_notify` |
//! | `judge` | control, boot, golden and reproduction |

mod confine;
mod error;
mod instance;
mod job;
mod judge;
mod main;
mod notify;
mod ready;

pub(crate) use error::Infrastructure;
pub use main::builder_main;
