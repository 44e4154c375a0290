//! A confined program with its permissions, and the errors of running it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::redact::Secrets;

/// A program with its permissions.
#[derive(Clone, Debug)]
pub struct Confined {
    /// The program: a path, or a name that is looked up in the `PATH` of `env`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its complete environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Directories that it may write, with everything below them.
    pub write: Vec<PathBuf>,
    /// Paths that it may read, in addition to the system's programs.
    pub read: Vec<PathBuf>,
    /// A directory in which it sees only the paths of `write` and `read`.
    pub hide: PathBuf,
    /// True if it may use the network.
    pub network: bool,
    /// Memory limit of all its processes together, and of each single process, in bytes.
    pub memory_bytes: u64,
    /// Its timeout.
    pub timeout: Duration,
    /// How much of the end of each output stream is kept, in bytes. The answer is at the end.
    pub output_bytes: usize,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// The secrets that are removed from its output before anything else is done with it.
    pub secrets: Secrets,
}

/// Why a program could not be run.
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
    /// The program is in a directory that it may change.
    #[error("{} is inside the workspace", program.display())]
    OwnProgram {
        /// The program.
        program: PathBuf,
    },
    /// The confinement could not be prepared.
    #[error("cannot prepare the sandbox for {}: {what}", program.display())]
    Fence {
        /// The program.
        program: PathBuf,
        /// What failed.
        what: String,
    },
    /// It could not be started in the sandbox.
    #[error("cannot start {} in its sandbox", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// Waiting for its exit failed.
    #[error("cannot wait for {} to exit", program.display())]
    Lost {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoLandlock => "boot with lsm=landlock,... (Linux 5.13 or newer): cat /sys/kernel/security/lsm".into(),
            Self::NoProgram { program } => format!("install {} or give its full path in rei.toml", program.display()),
            Self::OwnProgram { .. } => "agents and commands belong to the operator: install it outside the tree".into(),
            Self::Start { program, source } if source.raw_os_error() == Some(libc::EACCES) => {
                format!("the agent's own user must be able to run it: chmod -R o+rX {}", program.display())
            }
            Self::Start { source, .. } if matches!(source.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                "a seccomp filter of the systemd unit or the container blocks the sandbox: allow the system calls \
                 seccomp, landlock_restrict_self, unshare and mount"
                    .into()
            }
            Self::Fence { .. } | Self::Start { .. } | Self::Lost { .. } => return None,
        })
    }
}
