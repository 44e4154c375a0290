//! The runtime's git repository: mirror, followed ref, isolated workspaces.
//!
//! | file | its one job |
//! |---|---|
//! | `git.rs` | one builder and one spawn for every git command |
//! | `parse.rs` | what git prints, read by pure functions |
//! | `mirror.rs` | the private bare copy: followed ref, kept commits |
//! | `commits.rs` | questions about its commits |
//! | `export.rs` | the files of a commit, written byte for byte |
//! | `keep.rs` | what the mirror keeps, and when it is packed |
//! | `turns.rs` | who works with the mirror, and who waits |
//! | `locks.rs` | lock files of a git that was killed |
//! | `borrow.rs` | objects that other repositories of this machine have |
//! | `places.rs` | where a repository keeps its refs and objects |
//! | `follow.rs` | has the ref moved? |
//! | `workspace.rs` | a fresh repository with one commit, and the way back into the mirror |
//! | `harvest.rs` | the files of a workspace, copied out of an agent's reach |
//!
//! Nothing here writes to the operator's own repository, and no git command of rei ever runs with a `.git` that an
//! agent could have touched.

mod borrow;
mod commits;
mod error;
mod export;
mod follow;
mod git;
mod harvest;
mod keep;
mod locks;
mod mirror;
mod parse;
mod places;
mod turns;
mod workspace;

#[cfg(test)]
mod export_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::{Error, GIT_VERSION_MIN};
pub use export::Exported;
pub use follow::Follower;
pub use git::git_version;
pub(crate) use harvest::read_bounded;
pub use mirror::Mirror;
pub use parse::{Described, ObjectId, Subject, TreeFile};
pub use workspace::{Applied, Author, Taken, Workspace, remove_dir};
