//! The state of a run as an action sees it, the result of an action, and the function for each action.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{agent, check, command, context, patch, report, revise};
use crate::blueprint::job::{Blame, Checker, Checkpoint, Job};
use crate::blueprint::schema::{Action, Stage, Work};
use crate::blueprint::store::{Artifact, Store};
use crate::source::Workspace;

/// Timeout of an action or command without a timeout of its own.
pub(in crate::blueprint) const ACTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Timeout of a build or test without a timeout of its own. Large packages take most of an hour.
pub(in crate::blueprint) const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// The state of a run, as an action sees it.
pub(in crate::blueprint) struct ActionContext<'a, W> {
    pub job: &'a Job,
    pub checker: &'a W,
    pub store: &'a mut Store,
    pub checkpoint: &'a mut Checkpoint,
    pub workspace: &'a mut Workspace,
    pub stage: &'a Stage,
    /// The stage's inputs, in its order.
    pub inputs: Vec<(String, Artifact)>,
}

/// The result of a stage. Artifacts have their usual names, in the order in which the stage's outputs are assigned.
#[derive(Debug, Default)]
pub(in crate::blueprint) struct Made {
    pub summary: String,
    pub artifacts: Vec<(String, Vec<u8>)>,
}

impl Made {
    /// A result with one artifact.
    pub(super) fn one(summary: String, name: &str, bytes: Vec<u8>) -> Self {
        Self { summary, artifacts: vec![(name.to_owned(), bytes)] }
    }
}

/// Why a stage failed, and the log that may help the next one.
#[derive(Debug)]
pub(in crate::blueprint) struct Failure {
    pub reason: String,
    pub log: Option<Vec<u8>>,
    pub blame: Blame,
    /// True if the agent of the stage was not started.
    pub not_asked: bool,
}

impl Failure {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), log: None, blame: Blame::Maker, not_asked: false }
    }

    /// The same failure with another cause.
    pub fn caused_by(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }

    pub fn with_log(self, log: Vec<u8>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// A failure from an error with its causes, and its hint.
    pub fn of(error: &dyn std::error::Error, hint: Option<String>) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(reason, ": {error}"); // writing to a String cannot fail
            cause = error.source();
        }
        if let Some(hint) = hint {
            let _ = write!(reason, " (hint: {hint})");
        }
        Self::new(reason)
    }
}

impl From<crate::source::Error> for Failure {
    fn from(error: crate::source::Error) -> Self {
        let hint = error.hint();
        let blame = Blame::of_source(&error);
        Self::of(&error, hint).caused_by(blame)
    }
}

impl From<crate::blueprint::confine::Error> for Failure {
    fn from(error: crate::blueprint::confine::Error) -> Self {
        let hint = error.hint();
        Self::of(&error, hint).caused_by(Blame::Machine)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(&error, None).caused_by(Blame::Machine)
    }
}

impl Work {
    /// Timeout of one attempt if the stage has none.
    pub(in crate::blueprint) fn timeout(&self) -> Duration {
        match self {
            Self::Agent { .. } => Duration::MAX, // the agent's own timeout applies
            Self::Action(Action::NixBuild | Action::RunTests | Action::RunLinters) => BUILD_TIMEOUT,
            Self::Action(_) => ACTION_TIMEOUT,
        }
    }

    /// True if it may change files in the workspace.
    pub(in crate::blueprint) fn may_change_files(&self) -> bool {
        match self {
            Self::Agent { .. } => true,
            Self::Action(action) => {
                matches!(action, Action::ApplyPatch | Action::Run { .. } | Action::UpdateInputs { .. })
            }
        }
    }

    /// True if it only checks the files.
    pub(in crate::blueprint) fn is_check(&self) -> bool {
        matches!(self, Self::Action(Action::NixBuild | Action::RunTests | Action::RunLinters))
    }

    /// The name for the timeline.
    pub(in crate::blueprint) fn name(&self) -> &'static str {
        match self {
            Self::Agent { .. } => "agent",
            Self::Action(action) => action.name(),
        }
    }
}

impl<W: Checker> ActionContext<'_, W> {
    /// Runs the stage's agent or action.
    pub async fn work(&mut self) -> Result<Made, Failure> {
        match &self.stage.work {
            Work::Agent { goal, agent } => agent::run(self, goal, agent.as_deref()).await,
            Work::Action(action) => match action {
                Action::BuildContextPack => context::build_context_pack(self).await,
                Action::ApplyPatch => patch::apply_patch(self).await,
                Action::Checkout { rev } => revise::checkout(self, rev.as_deref()).await,
                Action::UpdateInputs { names } => revise::update_inputs(self, names).await,
                Action::Run { command } => command::run(self, command).await,
                Action::NixBuild => check::nix_build(self).await,
                Action::RunTests => check::run_tests(self).await,
                Action::RunLinters => check::run_linters(self).await,
                Action::Commit => patch::commit(self).await,
                Action::GenerateDiffReport => patch::generate_diff_report(self).await,
                Action::PrepareReviewBundle => report::prepare_review_bundle(self).await,
                Action::SummarizeRun => report::summarize_run(self).await,
            },
        }
    }
}

impl<W> ActionContext<'_, W> {
    /// The envelope of the call, for the timeline.
    pub fn envelope(&self) -> Value {
        let inputs: serde_json::Map<String, Value> =
            self.inputs.iter().map(|(name, artifact)| (name.clone(), json!(artifact.artifact_id))).collect();
        json!({
            "action": self.stage.work.name(),
            "inputs": inputs,
            "context": {"toolset": self.stage.toolset, "sandbox": self.stage.sandbox},
        })
    }

    /// The file of the first input.
    pub fn first_input(&self) -> Option<PathBuf> {
        self.inputs.first().map(|(_, artifact)| self.store.path(artifact))
    }
}
