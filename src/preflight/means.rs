//! What questions are answered with.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::nix::{self, Nix, Refusal};
use crate::source::Mirror;

/// What questions are answered with. The supervisor gives what it works with itself, so that nothing is found out twice;
/// `rei check` makes some in a directory that goes with it.
pub trait Means: Send + Sync + 'static {
    /// The configuration; `None` if the file is wrong. Then only the machine is looked at.
    fn config(&self) -> Option<&Config>;

    /// The file.
    fn file(&self) -> &Path;

    /// The copy of the repository; `None` without a configuration.
    fn mirror(&self) -> Option<&Mirror>;

    /// Nix.
    fn nix(&self) -> impl Future<Output = nix::Result<&Nix>> + Send;

    /// The builder that has proved that a sandbox holds.
    fn builder(&self) -> impl Future<Output = Result<&Path, Refusal>> + Send;

    /// A directory in which files may be made to try something.
    fn scratch(&self) -> PathBuf;

    /// Whether the package may be built.
    fn may_build(&self) -> bool;
}
