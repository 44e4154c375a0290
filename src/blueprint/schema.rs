//! A checked blueprint: what the machine runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::yaml::Place;

/// Failures of a whole run after which it ends, whatever its routes say: the documents bound a stage's retries but not
/// the loops that routes make, and OpenExec 0.8 has the same figure.
pub const FAILURES_MAX: u32 = 10;

/// Retries of one stage at most that a file may ask for; more could not be used.
pub const RETRY_LIMIT_MAX: u32 = FAILURES_MAX;

/// Stages of a blueprint at most.
pub const STAGES_MAX: usize = 100;

/// What the runner gives to every run, besides what its stages make.
pub const GIVEN: [&str; 1] = ["context"];

/// A recipe from an evolution context to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blueprint {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// At least one; a run begins with the first.
    pub stages: Vec<Stage>,
    /// How failures are counted.
    pub retry_semantics: RetrySemantics,
    /// `sha256:` and the digest of the file, to which checkpoints are bound.
    pub digest: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Distinct in the blueprint.
    pub id: String,
    /// What is done.
    pub work: Work,
    /// Artifacts it gets, by name.
    pub inputs: Vec<String>,
    /// Artifacts it makes, by name.
    pub outputs: Vec<String>,
    /// Attempts before `on_failure` is followed (see [`RetrySemantics`]).
    pub retry_limit: u32,
    /// Whether an operator must approve its result before `on_success` is followed.
    pub approval_required: bool,
    /// Where a success leads.
    pub on_success: Target,
    /// Where a failure leads.
    pub on_failure: Target,
    /// The bound of one attempt; `None` leaves it to the action or agent.
    pub timeout: Option<Duration>,
    /// What an agent or command may do with the workspace.
    pub sandbox: Sandbox,
    /// OpenExec's word for a set of tools, kept for the timeline.
    pub toolset: Option<String>,
    /// Where it is in the file.
    #[serde(skip)]
    pub place: Place,
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// rei does it.
    Action(Action),
    /// An agent command of the operator's does it.
    Agent {
        /// What it is asked to reach.
        goal: String,
        /// Its name in `[agents]`; `None` for the only one.
        agent: Option<String>,
    },
}

/// The deterministic actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Puts the evolution context and the state of the source into one artifact. Also `build_context`.
    BuildContextPack,
    /// Applies the first input, a patch, to the workspace.
    ApplyPatch,
    /// Sets the workspace to a commit: of this branch or tag, or of the followed ref.
    Checkout {
        /// The branch or tag.
        rev: Option<String>,
    },
    /// Updates these inputs of the flake's lock.
    UpdateInputs {
        /// Their names.
        names: Vec<String>,
    },
    /// Runs a command of the operator's in the workspace.
    Run {
        /// Its name in `[commands]`.
        command: String,
    },
    /// Runs the flake's checks that are linters.
    RunLinters,
    /// Runs the flake's checks.
    RunTests,
    /// Builds the package.
    NixBuild,
    /// Fails unless something changed, and names the commit.
    Commit,
    /// Writes the difference to Active, for a person.
    GenerateDiffReport,
    /// Puts all that a reviewer needs into one artifact.
    PrepareReviewBundle,
    /// Writes what happened so far, for a person.
    SummarizeRun,
}

impl Action {
    /// Its name in a blueprint.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BuildContextPack => "build_context_pack",
            Self::ApplyPatch => "apply_patch",
            Self::Checkout { .. } => "checkout",
            Self::UpdateInputs { .. } => "update_inputs",
            Self::Run { .. } => "run",
            Self::RunLinters => "run_linters",
            Self::RunTests => "run_tests",
            Self::NixBuild => "nix_build",
            Self::Commit => "commit",
            Self::GenerateDiffReport => "generate_diff_report",
            Self::PrepareReviewBundle => "prepare_review_bundle",
            Self::SummarizeRun => "summarize_run",
        }
    }

    /// All names, for messages.
    pub const NAMES: [&'static str; 12] = [
        "build_context_pack",
        "apply_patch",
        "checkout",
        "update_inputs",
        "run",
        "run_linters",
        "run_tests",
        "nix_build",
        "commit",
        "generate_diff_report",
        "prepare_review_bundle",
        "summarize_run",
    ];
}

/// Where a stage leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// To the stage with this index.
    Stage(usize),
    /// To the good end.
    Done,
    /// To the bad end.
    Fail,
    /// To an operator: approved, a run goes on with the next stage after a success and with the same stage after a failure.
    Paused,
}

/// How failures of a stage are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetrySemantics {
    /// DSL v1: the same stage again while its failures are fewer than `retry_limit`, then `on_failure`.
    #[default]
    #[serde(rename = "v1")]
    V1,
    /// OpenExec 0.8: `on_failure` for as many failures of a stage as `max_retries`, then the run fails.
    #[serde(rename = "openexec-0.8")]
    OpenExec08,
}

/// What an agent or command may do with the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Read it.
    ReadOnly,
    /// Write it.
    #[default]
    WorkspaceWrite,
}

impl Blueprint {
    /// The stage with this index; a target of a checked blueprint always has one.
    pub fn stage(&self, index: usize) -> Option<&Stage> {
        self.stages.get(index)
    }
}
