//! What an answer is.

use serde::Serialize;

use crate::report::chain;

/// How good an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but less well than it could.
    Warn,
    /// The process or part that needs it cannot work.
    Fail,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// How good it is.
    pub level: Level,
    /// What was found, on one line.
    pub line: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Answer {
    /// All is well.
    pub fn ok(line: impl Into<String>) -> Self {
        Self { level: Level::Ok, line: line.into(), hint: None }
    }

    /// It works, but less well than it could.
    pub fn warn(line: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, line: line.into(), hint: Some(hint.into()) }
    }

    /// It cannot work like this.
    pub fn fail(line: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, line: line.into(), hint: Some(hint.into()) }
    }

    /// An error, on one line, with its own next step.
    pub fn of(error: &(dyn std::error::Error + 'static), hint: Option<String>) -> Self {
        Self { level: Level::Fail, line: chain(error).replace('\n', "; "), hint }
    }
}
