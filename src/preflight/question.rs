//! What a question is.

use std::pin::Pin;

use serde::Serialize;

use super::answer::Answer;
use super::context::Context;

/// One prerequisite: a question, what needs a good answer, and how it is answered.
pub struct Question<M> {
    /// What it is about, in one word.
    pub name: &'static str,
    /// What needs a good answer.
    pub need: Need,
    /// When `rei run` asks it.
    pub at_start: AtStart,
    /// Answers it. Returns no answer if the question does not apply.
    pub ask: Ask<M>,
}

/// A function that answers a question.
pub type Ask<M> = for<'a> fn(&'a Context<M>) -> Answers<'a>;

/// A future of the answers.
pub type Answers<'a> = Pin<Box<dyn Future<Output = Vec<Answer>> + Send + 'a>>;

/// What needs a prerequisite. This decides what `rei run` does if the prerequisite is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The first version: without it `rei run` has nothing to serve and refuses to start. Candidates need it too.
    Start,
    /// Candidates: without it none can be judged as rei.toml asks. Active continues to serve.
    Candidates,
    /// Agents, commands and probes of rei.toml: without it some of them cannot run. Active continues to serve.
    Agents,
    /// The isolation of instances and the protection of secrets: without it they are weaker. Everything works.
    Protection,
}

/// When `rei run` asks a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStart {
    /// At each start.
    Always,
    /// If no version serves yet. Otherwise the follower of the source asks it repeatedly, and logs the answers.
    ToInstall,
    /// Never as a question: the start, the installation or the first instance does the thing itself, and reports the same
    /// error.
    Itself,
    /// Never: only `rei check` asks it, and nothing at a start depends on it.
    Never,
}
