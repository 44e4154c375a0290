//! What a process may do: the rules are made before it, and put on between clone and exec without a helper program.
//!
//! | file | its one job |
//! |---|---|
//! | [`sandbox`] | the rules: a builder |
//! | [`instance`] | the rules of an instance, from `[isolation]` |
//! | [`user`] | the user that an instance runs as |
//!
//! What the kernel or the supervisor's rights do not allow is named by [`Sandbox::missing`], never left out silently.

pub mod instance;
pub mod sandbox;
pub mod user;

pub use instance::{InstancePaths, why_readable};
pub use sandbox::{Sandbox, SandboxBuilder, SandboxError};
pub use user::{User, UserError, group_named};
