//! The seccomp filter for instances and agents.
//!
//! | file | its one job |
//! |---|---|
//! | `filter` | the system calls that are refused |
//! | `dispatch` | finds the rule of a system call in a few steps |

mod dispatch;
mod filter;

pub use filter::{Filter, Network};
