//! Confines one program: an agent, or a command that handles an agent's files.
//!
//! | fence | prevents | if not available |
//! |---|---|---|
//! | Landlock | writing outside its workspace and private directories; reading more than the system's programs and its inputs | the program is not run |
//! | own user | access to rei's files and processes, if rei is root | runs as rei's own user |
//! | PID namespace | surviving its stage; seeing or signalling other processes | its guard inherits and kills the processes that it leaves; it can see the names of other processes |
//! | mount namespace | seeing the state directory at all | Landlock only |
//! | network namespace | any network but its own loopback, unless the operator allows it | Landlock refuses TCP, and the seccomp filter refuses every socket that is not local |
//! | seccomp | joining the service's listeners; and system calls that no agent needs: modules, mounts, keys, io_uring, tracing | the program is not run |
//! | limits | too much memory (per process), too many processes, too large files, too much time or output | |
//! | checks, four a second | too much memory (all processes), a full disk | |
//!
//! Not prevented: memory in files that no process has mapped; the use of free disk space in its workspace (a limit is
//! checked when its files are committed); and, if the network is allowed, connections to any address. Local sockets
//! with a path can be connected to if their permissions allow it; Linux 7.1 and later can refuse that, too.
//!
//! | file | its one job |
//! |---|---|
//! | `program` | a program and its permissions |
//! | `confined` | runs it to its end |
//! | `fence` | prepares the confinement that this machine supports, before the fork |
//! | `child` | the child between fork and exec |
//! | `excess` | limits the total use of memory and disk |

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
