//! The values that all parts of the supervisor share. They are replaced as a whole when the configuration is read
//! again.

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

/// The values that jobs need.
pub struct Tools {
    /// The configuration.
    pub config: Config,
    /// The path of rei.toml. Golden runs and blueprints are in the same directory.
    pub config_path: PathBuf,
    /// The paths of the state directory.
    pub paths: Paths,
    /// Nix and the builder, located when they are needed.
    pub lazy_nix: LazyNix,
    /// The runtime's source.
    pub mirror: Mirror,
    /// The files of commits in the store.
    pub sources: Sources,
    /// The files that a sweep must not remove.
    pub in_use: InUse,
    /// The measured size of the state directory.
    pub measured: Measured,
    /// The profile.
    pub profile: Profile,
    /// The garbage collector's roots.
    pub roots: Roots,
    /// The secrets that must not be stored or passed on.
    pub secrets: Secrets,
}

/// Nix, and the builder with which its sandbox was proved. If Nix does not answer, the machine still has a runtime that
/// must be taken over and perhaps rolled back, so only work that builds waits for Nix. Clones share the result.
#[derive(Clone, Default)]
pub struct LazyNix {
    nix: Arc<OnceCell<Nix>>,
    builder: Arc<OnceCell<PathBuf>>,
}

/// The size of the state directory at the last measurement. Clones share it.
#[derive(Clone, Default)]
pub struct Measured {
    last: Arc<Mutex<Option<StateStatus>>>,
    /// Locked by the task that sweeps, so that only one sweeps at a time.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Measured {
    /// The last measurement; `None` before the first.
    pub fn get(&self) -> Option<StateStatus> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores a measurement.
    pub fn set(&self, measured: StateStatus) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
    }
}

impl Tools {
    /// Locates Nix.
    ///
    /// # Errors
    /// When Nix is missing or does not answer. The next call tries again.
    pub async fn nix(&self) -> crate::nix::Result<&Nix> {
        let locate = async {
            let variables: Vec<_> = std::env::vars_os().collect();
            let nix = Nix::locate_in(&self.paths.nix_home(), variables).await?;
            Ok(nix.allow_import_from_derivation(self.config.validation.allow_import_from_derivation))
        };
        self.lazy_nix.nix.get_or_try_init(|| locate).await
    }

    /// The tools that validation needs.
    ///
    /// # Errors
    /// As [`Self::nix`].
    pub async fn means(&self, progress: Option<mpsc::Sender<Progress>>) -> nix::Result<validation::Means<'_>> {
        Ok(validation::Means { nix: self.nix().await?, jobs: Self::jobs(), progress })
    }

    /// The rei program in the store: the builder of sandboxed checks. The first call proves the sandbox with it.
    ///
    /// # Errors
    /// When Nix cannot give a working sandbox. No candidate may then be judged. The next call tries again.
    pub async fn builder(&self) -> Result<&Path, Refusal> {
        let prove = async {
            let nix = self.nix().await.map_err(Refusal::Nix)?;
            let proof = nix::prove(nix, &Builder::this_program()?, &self.paths.private()).await?;
            self.roots.add(nix, BUILDER_ROOT, &proof.builder).await.map_err(Refusal::Nix)?;
            Ok(proof.builder)
        };
        self.lazy_nix.builder.get_or_try_init(|| prove).await.map(PathBuf::as_path)
    }

    /// The number of parallel builds: all processors but one, which is left to the runtime.
    pub fn jobs() -> usize {
        std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1))
    }
}

/// The checks before a start use the values of the supervisor.
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
        // The checks of a start build nothing, because evolutions do.
        false
    }
}
