//! Why a supervisor cannot start, and what the operator can do next.

use std::path::PathBuf;

use super::executor::GaveUp;
use crate::blueprint::library;
use crate::config::LoadError;
use crate::interface::socket::SocketError;
use crate::journal;
use crate::nix;
use crate::preflight;
use crate::report::chain;
use crate::runtime::keeper::StoreError;
use crate::runtime::logs::LogError;
use crate::runtime::table::TableError;
use crate::runtime::traffic::OpenError;

/// Why the supervisor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// rei.toml is invalid.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Blueprints that rei.toml names cannot be used.
    #[error("{}", lines(.0))]
    Blueprints(Vec<library::Error>),
    /// A directory or file of the state directory failed.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The operating system refuses something that this process needs.
    #[error("cannot {act}")]
    Process {
        /// What was tried.
        act: &'static str,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The listening sockets cannot be watched.
    #[error("cannot watch the listening sockets")]
    Alarm(#[source] std::io::Error),
    /// The journal cannot be used.
    #[error("cannot use the journal")]
    Journal(#[from] journal::Error),
    /// The instance table cannot be used.
    #[error("cannot use the table of instances")]
    Table(#[from] TableError),
    /// Nix cannot be used.
    #[error("cannot use Nix")]
    Nix(#[from] nix::Error),
    /// A prerequisite of the first version is missing.
    #[error(transparent)]
    Preflight(#[from] preflight::Refused),
    /// The runtime's repository cannot be used.
    #[error("cannot use the source")]
    Source(#[from] crate::source::Error),
    /// The listeners cannot be opened.
    #[error("cannot listen")]
    Listen(#[from] OpenError),
    /// An instance of an earlier supervisor has the listeners, and rei may not copy them from it.
    #[error(
        "cannot listen: process {pid}, an instance of an earlier supervisor, has the listeners, and rei may not copy them \
         from it ({why})"
    )]
    Held {
        /// The process of the instance.
        pid: u32,
        /// The error of the operating system.
        why: String,
        /// The listener that could not be opened.
        #[source]
        source: OpenError,
    },
    /// The keeper cannot be started or reached.
    #[error("cannot start or reach the keeper of the listening sockets")]
    Keeper(#[from] StoreError),
    /// No process can read the output of instances.
    #[error("cannot start or reach the logger, which reads the output of instances")]
    Logger(#[from] LogError),
    /// A socket of the supervisor cannot be opened.
    #[error("cannot serve {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: SocketError,
    },
    /// The system has no number for the operators' group.
    #[error("cannot find the operators' group {name:?}")]
    Operators {
        /// `state.operators`.
        name: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The first version does not serve, so there is nothing to supervise.
    #[error("there is nothing to supervise: {}", .0.reason)]
    GaveUp(GaveUp),
}

fn lines(errors: &[library::Error]) -> String {
    errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("\n")
}

impl StartError {
    /// The operator's next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Blueprints(errors) => errors.first().and_then(library::Error::hint),
            Self::File { .. } => Some("set [state] directory in rei.toml to a directory that you can write".to_owned()),
            Self::Journal(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Nix(error) => error.hint(),
            Self::Preflight(refused) => refused.hint.clone(),
            Self::Source(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Held { pid, .. } => Some(format!(
                "run rei as root, or as the user of process {pid} with `sysctl kernel.yama.ptrace_scope=0`; or end the \
                 process: kill {pid}"
            )),
            Self::Keeper(error) => error.hint(),
            Self::Logger(_) => None,
            Self::Socket { source, .. } => source.hint(),
            Self::Operators { name, .. } => {
                Some(format!("create the group (groupadd --system {name}), or remove state.operators from rei.toml"))
            }
            Self::GaveUp(gave_up) => Some(gave_up.hint.clone()),
            Self::Process { .. } | Self::Alarm(_) => None,
        }
    }
}
