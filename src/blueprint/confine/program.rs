//! A program and what it may, and why it was not run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::redact::Secrets;

/// A program and what it may.
#[derive(Clone, Debug)]
pub struct Confined {
    /// The program: a path, or a name that is looked up in `PATH` of `env`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// All of its variables.
    pub env: BTreeMap<OsString, OsString>,
    /// Where it starts.
    pub dir: PathBuf,
    /// Directories it may write, all that is below them.
    pub write: Vec<PathBuf>,
    /// Paths it may read, besides the system's programs.
    pub read: Vec<PathBuf>,
    /// A directory of which it may see only what is in `write` and `read`.
    pub hide: PathBuf,
    /// Whether it may use the network.
    pub network: bool,
    /// Memory of its processes together, in bytes; none of them can have more.
    pub memory_bytes: u64,
    /// How long it may run.
    pub timeout: Duration,
    /// What is kept of each output stream, in bytes: the end, as that is where an answer is.
    pub output_bytes: usize,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// What is taken out of its output before anything else is done with it.
    pub secrets: Secrets,
}

/// Why a program was not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot confine it.
    #[error("this kernel has no Landlock, without which no agent is run")]
    NoLandlock,
    /// There is no such program.
    #[error("there is no program {}", program.display())]
    NoProgram {
        /// The program.
        program: PathBuf,
    },
    /// It is one of the files that it is to change.
    #[error("{} belongs to the workspace", program.display())]
    OwnProgram {
        /// The program.
        program: PathBuf,
    },
    /// The fence could not be made.
    #[error("cannot make the fence for {}: {what}", program.display())]
    Fence {
        /// The program.
        program: PathBuf,
        /// Which part.
        what: String,
    },
    /// It could not be started inside the fence.
    #[error("cannot start {} inside its fence", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its end could not be awaited.
    #[error("lost {} while it ran", program.display())]
    Lost {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoLandlock => "boot with lsm=landlock,... (Linux 5.13 or newer): cat /sys/kernel/security/lsm".into(),
            Self::NoProgram { program } => format!("install {} or give its full path in rei.toml", program.display()),
            Self::OwnProgram { .. } => "agents and commands belong to the operator: install it outside the tree".into(),
            Self::Start { program, source } if source.raw_os_error() == Some(libc::EACCES) => {
                format!("the agent's own user must be able to run it: chmod -R o+rX {}", program.display())
            }
            Self::Start { source, .. } if matches!(source.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                "a filter around rei refuses the fence: the unit's SystemCallFilter, or a container's profile, must have \
                 seccomp, landlock_restrict_self, unshare and mount"
                    .into()
            }
            Self::Fence { .. } | Self::Start { .. } | Self::Lost { .. } => return None,
        })
    }
}
