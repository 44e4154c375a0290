//! The runtime's git repository: mirror, followed ref, isolated workspaces.
//!
//! | file | its one job |
//! |---|---|
//! | `git.rs` | builds and starts every git command |
//! | `parse.rs` | pure functions that parse git's output |
//! | `mirror.rs` | the private bare copy: the followed ref, the kept commits |
//! | `commits.rs` | queries about its commits |
//! | `submodules.rs` | fetches the submodules that a tree pins |
//! | `address.rs` | where the repository of a submodule is |
//! | `gaps.rs` | content that a commit only names: submodules and Git LFS pointers |
//! | `export.rs` | writes the files of a commit byte for byte |
//! | `keep.rs` | removes commits that are not needed, and packs the mirror |
//! | `turns.rs` | coordinates work with the mirror and its packing |
//! | `locks.rs` | removes lock files of a git that was killed |
//! | `borrow.rs` | uses objects of other repositories on this machine |
//! | `places.rs` | finds the directory of a repository's refs and objects |
//! | `follow.rs` | watches the followed ref for a new commit |
//! | `workspace.rs` | a new repository with one commit; commits its changed files in the mirror |
//! | `harvest.rs` | copies the files of a workspace to a place that the agent cannot change |
//!
//! This module never writes to the operator's own repository. No git command of rei uses a `.git` that an agent could
//! have changed.

mod address;
mod borrow;
mod commits;
mod error;
mod export;
mod follow;
mod gaps;
mod git;
mod harvest;
mod keep;
mod locks;
mod mirror;
mod parse;
mod places;
mod submodules;
mod turns;
mod workspace;

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod submodules_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::{Error, GIT_VERSION_MIN};
pub use export::Exported;
pub use follow::Follower;
pub use gaps::{Gap, GapKind, listed, with_gaps};
pub use git::git_version;
pub(crate) use harvest::read_bounded;
pub use mirror::Mirror;
pub use parse::{Described, ObjectId, Subject, TreeFile};
pub use workspace::{Applied, Author, Taken, Workspace, remove_dir};
