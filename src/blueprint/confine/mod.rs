//! One program in a fence: an agent, or a command that handles an agent's files.
//!
//! | fence | keeps it from | where it is missing |
//! |---|---|---|
//! | Landlock | writing outside its workspace and private directories, reading more than the system's programs and what it was given | refused to run |
//! | own user | rei's files and processes, where rei is root | rei's own user, as a plain user |
//! | PID namespace | outliving its stage, seeing or signalling other processes | its guard inherits what it leaves behind and kills that; it can see other processes' names |
//! | mount namespace | seeing the state directory at all | Landlock alone |
//! | network namespace | any network but its own loopback, unless the operator allows it | Landlock refuses TCP, and the filter every socket but local ones |
//! | seccomp | a place among the service's listeners, and what no agent needs: modules, mounts, keys, io_uring, tracing | refused to run |
//! | limits | memory (each process), processes, file size, time, output | |
//! | looks, four a second | memory (all processes), the last of the disk | |
//!
//! Not fenced: memory in files that no process has mapped, the disk that its workspace takes while there is enough (a bound
//! is checked when its files are taken), and, with the network allowed, where it connects to. Local sockets with a path name can be connected to where
//! their permissions allow it; Linux 7.1 and later refuse that too.
//!
//! | file | its one job |
//! |---|---|
//! | `program` | a program and what it may |
//! | `confined` | it is run to its end |
//! | `fence` | what the machine can give, planned before the fork |
//! | `child` | between fork and exec |
//! | `excess` | what it takes of the machine all in all |

mod child;
mod confined;
mod excess;
mod fence;
mod program;
#[cfg(test)]
mod tests;

pub use confined::{Ended, PATH, Stopped, give_to_agent};
pub use excess::Excess;
pub use fence::{Fences, agent_user};
pub use program::{Confined, Error};
