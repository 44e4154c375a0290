//! What Landlock lets a process reach: the rules, and the lists of what nearly every program may read.
//!
//! Three kinds of processes are confined, each with a profile of its own that is made of these parts: an instance
//! (`runtime::isolation`), an agent (`blueprint::confine`), and a version that is judged (`validation::builder`). How a
//! process is made and when it takes the rules is each one's own affair.
//!
//! | file | its one job |
//! |---|---|
//! | `domain` | the rules: which paths, how, and which TCP ports |
//! | `readable` | what nearly every program may read, run and write |

mod domain;
mod readable;

pub use domain::{Access, Domain, PathError, Tcp, kernel_abi};
pub use landlock::{ABI, RulesetError};
pub use readable::{DEVICES, MACHINE_FACTS, NAME_SERVICES, OPTIONAL_PROGRAMS, PROGRAMS, SYSTEM_FILES};
