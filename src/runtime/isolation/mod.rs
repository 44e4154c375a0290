//! What a process may do: the rules are made before it, and put on between clone and exec without a helper program.
//!
//! | file | its one job |
//! |---|---|
//! | [`sandbox`] | the rules: a builder for instances and agent stages alike |
//! | [`instance`] | the rules of an instance, from `[isolation]` |
//! | [`seccomp`] | the system calls that Landlock leaves open |
//! | `dispatch` | finds the rule of a system call in a few steps |
//! | [`user`] | the user that an instance runs as |
//!
//! What the kernel or the supervisor's rights do not allow is named by [`Sandbox::missing`], never left out silently.

mod dispatch;
pub mod instance;
pub mod sandbox;
pub mod seccomp;
pub mod user;

pub use instance::InstancePaths;
pub use sandbox::{Sandbox, SandboxBuilder, SandboxError};
pub use user::{User, UserError, group_named};
