//! Why the demo could not be played to its end.

use std::path::PathBuf;
use std::time::Duration;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ctrl-C, or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// The runtime's program is not where it should be.
    #[error("the demo's runtime {} is not there", path.display())]
    NoRuntime {
        /// Where it should be.
        path: PathBuf,
    },
    /// The runtime's program needs libraries, which no sandbox of the demo has.
    #[error("the demo's runtime {} is not linked statically", path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
    },
    /// Nix cannot be used.
    #[error("cannot use Nix")]
    Nix(#[from] crate::nix::Error),
    /// A file or directory.
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
    /// A program could not be run.
    #[error("cannot run a program of the demo")]
    Command {
        /// Why.
        #[source]
        source: crate::command::Error,
    },
    /// A program failed.
    #[error("{what}: {said}")]
    Told {
        /// What was tried.
        what: String,
        /// What it said.
        said: String,
    },
    /// The supervisor ended.
    #[error("the supervisor ended by itself ({how})")]
    Ended {
        /// Its exit status.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// The supervisor did not answer, or with an error.
    #[error("the supervisor did not do what it was asked")]
    Silent(#[from] crate::interface::client::ClientError<crate::interface::operations::OperationsError>),
    /// Something did not happen in time.
    #[error("{what} did not come within {bound:?} ({stand})")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// Where the supervisor stood.
        stand: String,
        /// The end of its log.
        log: String,
    },
    /// Something else happened than should.
    #[error("{what}")]
    Unexpected {
        /// What happened.
        what: String,
    },
    /// The golden run could not be recorded.
    #[error("cannot record the golden run")]
    Golden(#[from] crate::golden::RecordError),
    /// The golden run could not be written.
    #[error("cannot write the golden run")]
    GoldenFile(#[from] crate::golden::Error),
    /// The story could not be printed.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// A fact that is not as it should be.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into() }
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRuntime { .. } => "build both programs: cargo build --release --bins".into(),
            Self::NotStatic { .. } => "build it as .cargo/config.toml says: cargo build --release --bins".into(),
            Self::Nix(error) => return error.hint(),
            Self::Command { source: crate::command::Error::Start { program, .. } } if program.ends_with("git") => {
                "install git: apt-get install git".into()
            }
            Self::Ended { .. } | Self::Late { .. } => "play it again with --keep and look at rei.log".into(),
            _ => return None,
        })
    }

    /// The end of the supervisor's log, where it tells more.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Ended { log, .. } | Self::Late { log, .. } => Some(log).filter(|log| !log.is_empty()).map(|x| &**x),
            _ => None,
        }
    }
}
