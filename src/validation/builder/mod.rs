//! The other side of the sandbox: rei as the builder of a check.
//!
//! Here the judge and the version that it judges share a PID namespace without network, and the judge is its process 1.
//! So it
//! - is not dumpable, and holds the expected answers in memory only;
//! - starts the version in a Landlock domain of its own, which can read its closure and write one empty directory;
//! - runs Active and the candidate one after the other, never at once; every process of the one is gone before the
//!   other begins;
//! - ends every other process before it writes its verdict, so that nothing can reach the output.
//!
//! | file | its one job |
//! |---|---|
//! | `main` | the program: job in, verdict out |
//! | `job` | what Nix passed: the spec and the store paths |
//! | `instance` | one judged process tree: sockets, start, readiness, end |
//! | `tree` | what all process trees have in common: variables, output, end |
//! | `confine` | the child between fork and exec: descriptors, Landlock, exec |
//! | `ready` | the configured probes |
//! | `state` | the first content of an instance's state directory |
//! | `error` | why a check could not be run |
//! | `notify` | what the judged says by `sd_notify` |
//! | `judge` | which check the job asks for |
//! | `checks` | one file for each kind of check |
//! | `replay` | asks a version the exchanges of a golden run |
//! | `outcome` | what a check found |

mod checks;
mod confine;
mod error;
mod instance;
mod job;
mod judge;
mod main;
mod notify;
mod outcome;
mod ready;
mod replay;
mod state;
mod tree;

pub(crate) use error::Infrastructure;
pub use main::builder_main;
