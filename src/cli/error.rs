//! Why a command failed: a kind, a message, its causes, and what to do next.

use std::error::Error as StdError;
use std::io;

use super::exit_code;
use crate::config::{LoadError, render};
use crate::interface::client::ClientError;
use crate::interface::operations::OperationsError;
use crate::journal;
use crate::runtime::table::TableError;
use crate::service::StartError;

/// The kind of a failure; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command failed.
    Failed,
    /// The command line is wrong in a way that clap cannot see.
    Usage,
    /// rei.toml is wrong.
    Config,
    /// No supervisor answers.
    NotRunning,
    /// The supervisor refuses.
    Refused,
    /// A check found a problem.
    Findings,
    /// The journal is damaged.
    Damaged,
    /// Another supervisor has the state directory.
    Busy,
    /// The wait timed out.
    TimedOut,
    /// The candidate was rejected.
    Rejected,
    /// Previous was restored.
    RolledBack,
    /// A bug in rei itself.
    Internal,
    /// The reader of the output has gone: that is no failure, and no message can be printed.
    BrokenPipe,
}

impl Kind {
    /// All kinds, for the table in the tests.
    pub const ALL: [Self; 13] = [
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::NotRunning,
        Self::Refused,
        Self::Findings,
        Self::Damaged,
        Self::Busy,
        Self::TimedOut,
        Self::Rejected,
        Self::RolledBack,
        Self::Internal,
        Self::BrokenPipe,
    ];

    /// The exit code of the process.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::BrokenPipe => exit_code::SUCCESS,
            Self::Failed => exit_code::FAILED,
            Self::Usage => exit_code::USAGE,
            Self::Config => exit_code::CONFIG,
            Self::NotRunning => exit_code::NOT_RUNNING,
            Self::Refused => exit_code::REFUSED,
            Self::Findings => exit_code::FINDINGS,
            Self::Damaged => exit_code::DAMAGED,
            Self::Busy => exit_code::BUSY,
            Self::TimedOut => exit_code::TIMED_OUT,
            Self::Rejected => exit_code::REJECTED,
            Self::RolledBack => exit_code::ROLLED_BACK,
            Self::Internal => exit_code::INTERNAL,
        }
    }
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// The kind of the failure.
    pub kind: Kind,
    /// What failed, and on what: a fragment in lower case.
    pub message: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
    /// Next steps, each one line.
    pub hints: Vec<String>,
    /// Details that have their own layout, shown before the message.
    pub page: Option<String>,
}

impl CommandError {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hints: Vec::new(), page: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// A failure with the message and the causes of `error`.
    pub fn of(kind: Kind, error: &(dyn StdError + 'static), hint: Option<String>) -> Self {
        let causes: Vec<String> = chain(error).skip(1).map(ToString::to_string).collect();
        let link = |inner, text| Some(Box::new(Cause { text, inner }) as Box<dyn StdError + Send + Sync>);
        let source = causes.into_iter().rev().fold(None, link);
        Self { kind, message: error.to_string(), source, hints: hint.into_iter().collect(), page: None }
    }

    /// The causes, nearest first.
    pub fn causes(&self) -> impl Iterator<Item = String> {
        chain(self).skip(1).map(ToString::to_string)
    }
}

/// One link of a chain of causes, as text.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Cause {
    text: String,
    #[source]
    inner: Option<Box<dyn StdError + Send + Sync>>,
}

fn chain<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn StdError + 'static)| (*error).source())
}

impl From<StartError> for CommandError {
    fn from(error: StartError) -> Self {
        let hint = error.hint();
        match error {
            StartError::Config(source) => source.into(),
            StartError::Journal(source) => source.into(),
            StartError::Table(TableError::Busy { .. }) => Self::of(Kind::Busy, &error, hint),
            _ => Self::of(Kind::Failed, &error, hint),
        }
    }
}

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        let page = match &error {
            LoadError::Invalid { path, text, problems } => Some(render(problems, &path.display().to_string(), text)),
            _ => None,
        };
        let hint = error.hint();
        Self { page, ..Self::of(Kind::Config, &error, hint) }
    }
}

impl From<journal::Error> for CommandError {
    fn from(error: journal::Error) -> Self {
        let kind = match &error {
            journal::Error::Locked { .. } => Kind::Busy,
            journal::Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
            error if error.is_damage() => Kind::Damaged,
            _ => Kind::Failed,
        };
        let hint = error.hint();
        Self::of(kind, &error, hint)
    }
}

impl From<ClientError<OperationsError>> for CommandError {
    fn from(error: ClientError<OperationsError>) -> Self {
        let kind = match &error {
            ClientError::NotRunning { .. } => Kind::NotRunning,
            ClientError::Answered(OperationsError::TooLarge { .. } | OperationsError::Lagged { .. })
            | ClientError::Connect { .. }
            | ClientError::NotServed { .. }
            | ClientError::Garbage { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Closed { .. }
            | ClientError::Wire { .. } => Kind::Failed,
            ClientError::Answered(
                OperationsError::NotAllowed { .. }
                | OperationsError::NotFound { .. }
                | OperationsError::WrongPhase { .. }
                | OperationsError::Invalid { .. }
                | OperationsError::Busy { .. },
            )
            | ClientError::Unproven { .. }
            | ClientError::NotProven { .. } => Kind::Refused,
            ClientError::Timeout { .. } => Kind::TimedOut,
        };
        let hint = error.hint();
        Self::of(kind, &error, hint)
    }
}

/// Output that cannot be written.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::BrokenPipe, "the reader of the output has gone");
        }
        Self::new(Kind::Failed, "cannot write the output").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn the_exit_codes_stay_the_same() {
        let mut page = String::new();
        for (code, meaning) in exit_code::TABLE {
            let kinds: Vec<String> =
                Kind::ALL.iter().filter(|k| k.exit_code() == code).map(|k| format!("{k:?}")).collect();
            let _ = writeln!(page, "{code:3} {meaning} ({})", kinds.join(", "));
        }
        assert!(Kind::ALL.iter().all(|kind| exit_code::TABLE.iter().any(|(code, _)| *code == kind.exit_code())));
        insta::assert_snapshot!(page, @r"
          0 the command succeeded (BrokenPipe)
          1 the command failed; the message says why (Failed)
          2 the command line is wrong (Usage)
          3 rei.toml is wrong or cannot be read (Config)
          4 no supervisor answers (NotRunning)
          5 the supervisor refuses (Refused)
          6 `check` or `golden replay` found a problem (Findings)
          7 the journal is damaged (Damaged)
          8 another supervisor uses the state directory (Busy)
          9 the wait timed out (TimedOut)
         10 `evolve --wait`: the candidate was rejected (Rejected)
         11 `evolve --wait`: Previous was restored (RolledBack)
         70 a bug in rei itself (Internal)
        ");
    }

    #[test]
    fn each_cause_is_named_once() {
        let source = io::Error::other("the disk is gone");
        let error = journal::Error::Io { act: "sync", path: "/x".into(), source };
        let error = CommandError::from(error);
        assert_eq!(error.to_string(), "cannot sync /x");
        assert_eq!(error.causes().collect::<Vec<_>>(), ["the disk is gone"]);
    }
}
