//! What a question is.

use std::pin::Pin;

use serde::Serialize;

use super::answer::Answer;
use super::context::Context;

/// One prerequisite: a question, its `Need`, and a function that answers it.
pub struct Question<M> {
    /// What it is about, in one word.
    pub name: &'static str,
    /// What cannot work without a good answer.
    pub need: Need,
    /// When `rei run` asks it.
    pub at_start: AtStart,
    /// Answers it. No answer: the question does not arise.
    pub ask: Ask<M>,
}

/// A function that answers a question.
pub type Ask<M> = for<'a> fn(&'a Context<M>) -> Answers<'a>;

/// The answers to come.
pub type Answers<'a> = Pin<Box<dyn Future<Output = Vec<Answer>> + Send + 'a>>;

/// What needs a prerequisite. This decides what `rei run` does if it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The first version: without it `rei run` has nothing to serve and refuses to start. Candidates need it too.
    Start,
    /// Candidates: without it none can be judged as rei.toml asks. Active serves.
    Candidates,
    /// Agents, commands and probes of rei.toml: without it some of them cannot run. Active serves.
    Agents,
    /// The isolation of instances and secrets: without it they are less protected. Everything works.
    Protection,
}

/// When `rei run` asks a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStart {
    /// At each start.
    Always,
    /// Only if nothing serves yet. Later the follower of the source asks the same again and again, and logs problems.
    ToInstall,
    /// Never as a question: the start, the installation or the first instance does the thing itself, and reports the same error.
    Itself,
    /// Never: `rei check` alone asks it, and nothing at a start depends on it.
    Never,
}
