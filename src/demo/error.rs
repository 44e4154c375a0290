//! Why the demo failed.

use std::path::PathBuf;
use std::time::Duration;

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The demo got Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// The runtime's program does not exist.
    #[error("the demo's runtime {} does not exist", path.display())]
    NoRuntime {
        /// The expected path.
        path: PathBuf,
    },
    /// The runtime's program needs shared libraries, which the demo's sandboxes do not have.
    #[error("the demo's runtime {} is not linked statically", path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
    },
    /// Nix cannot be used.
    #[error("cannot use Nix")]
    Nix(#[from] crate::nix::Error),
    /// An operation on a file or directory failed.
    #[error("cannot {act} {}", path.display())]
    File {
        /// The operation, as a verb.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be run.
    #[error("cannot run a program of the demo")]
    Command {
        /// The error of the command.
        #[source]
        source: crate::command::Error,
    },
    /// A program failed.
    #[error("{what}: {output}")]
    ProgramFailed {
        /// The command that failed.
        what: String,
        /// The output of the program.
        output: String,
    },
    /// The supervisor exited.
    #[error("the supervisor exited unexpectedly ({how})")]
    Ended {
        /// Its exit status.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// The supervisor did not answer, or answered with an error.
    #[error("a request to the supervisor failed")]
    Request(#[from] crate::interface::client::ClientError<crate::interface::operations::OperationsError>),
    /// A fact did not happen in time.
    #[error("{what} did not happen within {bound:?} ({state})")]
    Late {
        /// The expected fact.
        what: String,
        /// The time limit.
        bound: Duration,
        /// The state of the supervisor.
        state: String,
        /// The end of its log.
        log: String,
    },
    /// A fact is not as expected.
    #[error("{what}")]
    Unexpected {
        /// The fact.
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
    /// An error for a fact that is not as expected.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into() }
    }

    /// The next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRuntime { .. } => "build both programs: cargo build --release --bins".into(),
            Self::NotStatic { .. } => "build it as .cargo/config.toml says: cargo build --release --bins".into(),
            Self::Nix(error) => return error.hint(),
            Self::Command { source: crate::command::Error::Start { program, .. } } if program.ends_with("git") => {
                "install git: apt-get install git".into()
            }
            Self::Ended { .. } | Self::Late { .. } => "run it again with --keep and read rei.log".into(),
            _ => return None,
        })
    }

    /// The end of the supervisor's log, if the error has one.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Ended { log, .. } | Self::Late { log, .. } => Some(log).filter(|log| !log.is_empty()).map(|x| &**x),
            _ => None,
        }
    }
}
