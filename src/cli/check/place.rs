//! The means of `rei check`: the configuration of the file, and a temporary directory.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use crate::config::Config;
use crate::nix::{self, Builder, Nix, Refusal, prove};
use crate::preflight::Means;
use crate::source::{self, Mirror};

/// Where the supervisor has its copy of the repository, below the state directory.
const MIRROR: &str = "source/mirror.git";

/// A configuration, and a directory of this process alone. The directory is removed with this value.
pub struct Place {
    file: PathBuf,
    config: Option<Config>,
    dir: PathBuf,
    mirror: Option<Mirror>,
    nix: OnceCell<Nix>,
    builder: OnceCell<PathBuf>,
    build: bool,
}

impl Place {
    /// Makes the directory. `config` is `None` if the file is wrong.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(file: &Path, config: Option<Config>, build: bool) -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("rei-check-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let (nix, builder) = (OnceCell::new(), OnceCell::new());
        Ok(Self { file: file.to_owned(), config, dir, mirror: None, nix, builder, build })
    }

    /// Names the copy of the repository.
    ///
    /// # Errors
    /// When `runtime.ref` cannot be a ref.
    pub fn open_mirror(&mut self) -> Result<(), source::Error> {
        if let Some(config) = &self.config {
            let mirror = Mirror::at(&self.dir, &config.runtime.source, &config.runtime.r#ref)?;
            self.mirror = Some(
                mirror.with_submodules(config.runtime.submodules).borrowing(&[config.state.directory.join(MIRROR)]),
            );
        }
        Ok(())
    }
}

impl Means for Place {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    async fn nix(&self) -> nix::Result<&Nix> {
        let locate = async {
            let import = self.config.as_ref().is_some_and(|config| config.validation.allow_import_from_derivation);
            let variables: Vec<_> = std::env::vars_os().collect();
            let nix = Nix::locate_in(&self.dir.join("nix"), variables).await?;
            Ok(nix.allow_import_from_derivation(import))
        };
        self.nix.get_or_try_init(|| locate).await
    }

    async fn builder(&self) -> Result<&Path, Refusal> {
        let prove = async {
            let nix = self.nix().await.map_err(Refusal::Nix)?;
            Ok(prove(nix, &Builder::this_program()?, &self.dir).await?.builder)
        };
        self.builder.get_or_try_init(|| prove).await.map(PathBuf::as_path)
    }

    fn scratch(&self) -> PathBuf {
        self.dir.clone()
    }

    fn may_build(&self) -> bool {
        self.build
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is small, and in a temporary directory.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
