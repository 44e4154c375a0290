//! What the answers to questions need.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::nix::{self, Nix, Refusal};
use crate::source::Mirror;

/// What the answers to questions need. The supervisor passes its own means, so that nothing is done twice. `rei check`
/// makes means in a temporary directory.
pub trait Means: Send + Sync + 'static {
    /// The configuration; `None` if the file is wrong. Then only the questions about the machine are asked.
    fn config(&self) -> Option<&Config>;

    /// The file.
    fn file(&self) -> &Path;

    /// The copy of the repository; `None` without a configuration.
    fn mirror(&self) -> Option<&Mirror>;

    /// Nix.
    fn nix(&self) -> impl Future<Output = nix::Result<&Nix>> + Send;

    /// The builder, after its test that the sandbox isolates.
    fn builder(&self) -> impl Future<Output = Result<&Path, Refusal>> + Send;

    /// A directory in which a question may make files for a test.
    fn scratch(&self) -> PathBuf;

    /// Whether the package may be built.
    fn may_build(&self) -> bool;
}
