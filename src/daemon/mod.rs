//! What a process has once: its start, signals, the service manager, orphans, its memory and its end.
//!
//! | file | its one job |
//! |---|---|
//! | `start` | from rei.toml to a running daemon |
//! | `process` | the loop of the process, around the loop of its service |
//! | `signals` | what the operating system asks, and the service manager |
//! | `reexec` | another program in the same process |
//! | `standing` | how the kernel runs rei's threads, restored after somebody changed it |
//! | `memory` | memory that the start and evolutions needed is given back |

mod memory;
mod process;
mod reexec;
mod signals;
mod standing;
mod start;

pub use memory::give_back;
pub use start::supervise;
