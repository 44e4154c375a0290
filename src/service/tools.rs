//! What the supervisor's parts work with. Shared, and replaced as a whole when the configuration is read again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, mpsc};

use super::in_use::InUse;
use super::sources::Sources;
use crate::config::Config;
use crate::interface::operations::StateStatus;
use crate::nix::{self, Builder, Nix, Profile, Progress, Refusal, Roots};
use crate::preflight::Means;
use crate::redact::Secrets;
use crate::source::Mirror;
use crate::state::paths::Paths;
use crate::validation;

/// The root that keeps the builder of sandboxed checks.
const BUILDER_ROOT: &str = "builder";

/// Everything that slow work needs.
pub struct Tools {
    /// The configuration.
    pub config: Config,
    /// Where rei.toml is: golden runs and blueprints are beside it.
    pub config_path: PathBuf,
    /// The state directory's map.
    pub paths: Paths,
    /// Nix and the builder, asked for when they are needed.
    pub lazy_nix: LazyNix,
    /// The runtime's source.
    pub mirror: Mirror,
    /// The files of commits in the store.
    pub sources: Sources,
    /// What may not be swept away.
    pub in_use: InUse,
    /// What the state directory takes.
    pub measured: Measured,
    /// The profile.
    pub profile: Profile,
    /// The garbage collector's roots.
    pub roots: Roots,
    /// What must not be stored or handed on.
    pub secrets: Secrets,
}

/// Nix, and the builder that it was proved with. A machine whose Nix does not answer still has a runtime that must be
/// taken over and perhaps rolled back, so nothing but work that builds waits for it. Clones share what was found.
#[derive(Clone, Default)]
pub struct LazyNix {
    nix: Arc<OnceCell<Nix>>,
    builder: Arc<OnceCell<PathBuf>>,
}

/// What the state directory took when it was looked at last. Clones share it.
#[derive(Clone, Default)]
pub struct Measured {
    last: Arc<Mutex<Option<StateStatus>>>,
    /// Held by who sweeps: one after another.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Measured {
    /// The last measurement; `None` before the first.
    pub fn get(&self) -> Option<StateStatus> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a measurement.
    pub fn set(&self, measured: StateStatus) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
    }
}

impl Tools {
    /// Nix.
    ///
    /// # Errors
    /// When it is not there or does not answer; the next call asks again.
    pub async fn nix(&self) -> crate::nix::Result<&Nix> {
        let locate = async {
            let variables: Vec<_> = std::env::vars_os().collect();
            let nix = Nix::locate_in(&self.paths.nix_home(), variables).await?;
            Ok(nix.allow_import_from_derivation(self.config.validation.allow_import_from_derivation))
        };
        self.lazy_nix.nix.get_or_try_init(|| locate).await
    }

    /// What validation works with.
    ///
    /// # Errors
    /// As [`Self::nix`].
    pub async fn means(&self, progress: Option<mpsc::Sender<Progress>>) -> nix::Result<validation::Means<'_>> {
        Ok(validation::Means { nix: self.nix().await?, jobs: Self::jobs(), progress })
    }

    /// The rei program in the store: the builder of sandboxed checks. The first call proves the sandbox with it.
    ///
    /// # Errors
    /// When no sandbox can be had: then nothing may be judged. The next call tries again.
    pub async fn builder(&self) -> Result<&Path, Refusal> {
        let prove = async {
            let nix = self.nix().await.map_err(Refusal::Nix)?;
            let proof = nix::prove(nix, &Builder::this_program()?, &self.paths.private()).await?;
            self.roots.add(nix, BUILDER_ROOT, &proof.builder).await.map_err(Refusal::Nix)?;
            Ok(proof.builder)
        };
        self.lazy_nix.builder.get_or_try_init(|| prove).await.map(PathBuf::as_path)
    }

    /// Builds at once: all processors but one, which the runtime keeps.
    pub fn jobs() -> usize {
        std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1))
    }
}

/// A start asks its questions with what the supervisor works with.
impl Means for Arc<Tools> {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn file(&self) -> &Path {
        &self.config_path
    }

    fn mirror(&self) -> Option<&Mirror> {
        Some(&self.mirror)
    }

    fn nix(&self) -> impl Future<Output = nix::Result<&Nix>> + Send {
        Tools::nix(self)
    }

    fn builder(&self) -> impl Future<Output = Result<&Path, Refusal>> + Send {
        Tools::builder(self)
    }

    fn scratch(&self) -> PathBuf {
        self.paths.private()
    }

    fn may_build(&self) -> bool {
        // Evolutions build.
        false
    }
}
