//! Why a supervisor cannot start, and the next step.

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

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// rei.toml is not right.
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
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system refuses this process something that it needs.
    #[error("cannot {act}")]
    Process {
        /// What was tried.
        act: &'static str,
        /// What the system said.
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
    /// Something is missing without which there would be nothing to serve.
    #[error(transparent)]
    Preflight(#[from] preflight::Refused),
    /// The runtime's repository cannot be used.
    #[error("cannot use the source")]
    Source(#[from] crate::source::Error),
    /// The listeners cannot be opened.
    #[error("cannot listen")]
    Listen(#[from] OpenError),
    /// An instance of an earlier supervisor has the listeners, and they may not be taken from it.
    #[error(
        "cannot listen: the instance with process {pid}, of an earlier supervisor, has the sockets and may not be asked for them ({why})"
    )]
    Held {
        /// Its process.
        pid: u32,
        /// What the system said.
        why: String,
        /// What could not be opened.
        #[source]
        source: OpenError,
    },
    /// The keeper cannot be had.
    #[error("cannot have a keeper of the listening sockets")]
    Keeper(#[from] StoreError),
    /// Nobody can read what instances print.
    #[error("cannot have a logger of what instances print")]
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
    /// The operators' group has no number.
    #[error("cannot find the operators' group {name:?}")]
    Operators {
        /// `state.operators`.
        name: String,
        /// What the system said.
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
    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Blueprints(errors) => errors.first().and_then(library::Error::hint),
            Self::File { .. } => Some("set [state] directory in rei.toml to one that you can write".to_owned()),
            Self::Journal(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Nix(error) => error.hint(),
            Self::Preflight(refused) => refused.hint.clone(),
            Self::Source(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Held { pid, .. } => Some(format!(
                "run rei as root, or as the user of process {pid} with `sysctl kernel.yama.ptrace_scope=0`; or end it: kill {pid}"
            )),
            Self::Keeper(error) => error.hint(),
            Self::Logger(_) => None,
            Self::Socket { source, .. } => source.hint(),
            Self::Operators { name, .. } => {
                Some(format!("make it (groupadd --system {name}), or leave state.operators out"))
            }
            Self::GaveUp(gave_up) => Some(gave_up.hint.clone()),
            Self::Process { .. } | Self::Alarm(_) => None,
        }
    }
}
