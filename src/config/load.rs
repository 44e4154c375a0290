//! Reading a `rei.toml` from disk, with the few facts of the machine that it depends on.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Config;
use super::problem::Problem;

/// The largest file that is read, in bytes: a thousand times what a large one needs.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// The directory and the owner of a file: all that its meaning depends on besides its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory that relative paths begin at; absolute.
    pub directory: PathBuf,
    /// Whether rei is root.
    pub root: bool,
    /// `$XDG_STATE_HOME`, or `~/.local/state`; `None` if neither is known.
    pub state_home: Option<PathBuf>,
}

impl Place {
    /// The place of `file` for this process.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        let file = std::path::absolute(file)?;
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Self {
            directory: file.parent().unwrap_or(Path::new("/")).to_owned(),
            root: nix::unistd::geteuid().is_root(),
            state_home: absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state"))),
        })
    }
}

/// Why a file gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It has mistakes.
    #[error("{path} has {} to put right", count(problems.len()))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text, to quote from.
        text: String,
        /// All mistakes.
        problems: Vec<Problem>,
    },
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 mistake".to_owned() } else { format!("{problems} mistakes") }
}

impl LoadError {
    /// The mistakes of the file for a log: one line of text each, with the line number.
    pub fn mistakes(&self) -> Vec<String> {
        match self {
            Self::Invalid { problems, .. } => {
                problems.iter().map(|problem| format!("line {}: {}", problem.line, problem.message)).collect()
            }
            Self::Read { .. } | Self::TooLarge { .. } | Self::NotText { .. } => Vec::new(),
        }
    }

    /// What the user can do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Some(
                "`rei init` writes a rei.toml for the flake in this directory, or name another file by --config FILE"
                    .to_owned(),
            ),
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::IsADirectory => {
                Some("name a file in this directory by --config FILE".to_owned())
            }
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("the user that runs rei must be able to read it".to_owned())
            }
            Self::Read { .. } | Self::Invalid { .. } => None,
            Self::TooLarge { .. } | Self::NotText { .. } => Some("name a rei.toml by --config FILE".to_owned()),
        }
    }
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// When it cannot be read, or with all its mistakes.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        let path = || file.to_owned();
        let read = |source| LoadError::Read { path: path(), source };
        let mut bytes = Vec::new();
        let bound = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        std::fs::File::open(file).map_err(read)?.take(bound).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(LoadError::TooLarge { path: path() });
        }
        let text = String::from_utf8(bytes).map_err(|_| LoadError::NotText { path: path() })?;
        let place = Place::of(file).map_err(read)?;
        Self::from_toml(&text, &place).map_err(|problems| LoadError::Invalid { path: path(), text, problems })
    }
}
