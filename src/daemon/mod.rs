//! The things that a process has only once: its start, signals, the service manager, orphans, its memory and its end.
//!
//! | file | its one job |
//! |---|---|
//! | `start` | from rei.toml to a running daemon |
//! | `process` | the loop of the process, around the loop of its service |
//! | `signals` | the signals of the operating system, and the service manager |
//! | `reexec` | replaces the program in the same process |
//! | `scheduling` | restores the scheduling of rei's threads after another process changed it |
//! | `memory` | gives memory back that only the start and evolutions needed |

mod memory;
mod process;
mod reexec;
mod scheduling;
mod signals;
mod start;

pub use memory::give_back;
pub use start::supervise;
