//! What the supervisor's parts work with. Shared, and replaced as a whole when the configuration is read again.

use std::path::PathBuf;

use super::paths::Paths;
use crate::config::Config;
use crate::nix::{FlakeRef, Nix, Profile, Roots};
use crate::source::{Mirror, ObjectId};

/// Everything that slow work needs.
pub struct Tools {
    /// The configuration.
    pub config: Config,
    /// Where rei.toml is: golden runs and blueprints are beside it.
    pub config_path: PathBuf,
    /// The state directory's map.
    pub paths: Paths,
    /// Nix.
    pub nix: Nix,
    /// The rei program in the store: the builder of sandboxed checks. The sandbox was proved with it.
    pub builder: PathBuf,
    /// The runtime's source.
    pub mirror: Mirror,
    /// The profile.
    pub profile: Profile,
    /// The garbage collector's roots.
    pub roots: Roots,
}

impl Tools {
    /// The flake at a commit that `reference` holds in the mirror.
    ///
    /// # Errors
    /// When it cannot be named.
    pub fn flake(&self, commit: &ObjectId, reference: &str) -> crate::nix::Result<FlakeRef> {
        let flake = FlakeRef::git(self.mirror.git_dir(), commit.as_str())?;
        Ok(flake.on_ref(reference).in_dir(&self.config.runtime.dir))
    }

    /// Builds at once: all processors but one, which the runtime keeps.
    pub fn jobs() -> usize {
        std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1))
    }
}
