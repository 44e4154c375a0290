//! The sandbox of a process. The rules are prepared before the process exists, and applied between clone and exec
//! without a helper program.
//!
//! | file | its one job |
//! |---|---|
//! | [`sandbox`] | the rules, and a builder for them |
//! | [`instance`] | the sandbox of an instance, from `[isolation]` |
//! | [`user`] | the user of an instance |
//!
//! If the kernel or the supervisor's rights do not allow a restriction, it is reported by [`Sandbox::missing`], never
//! silently left out.

pub mod instance;
pub mod sandbox;
pub mod user;

pub use instance::{InstancePaths, may_execute, why_readable};
pub use sandbox::{Sandbox, SandboxBuilder, SandboxError};
pub use user::{User, UserError, group_named};
