//! A checked blueprint, which the machine runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::yaml::Place;

/// Maximum number of failures in a run. After these the run fails, whatever its routes are. OpenExec's documents limit
/// the retries of a stage but not the loops that routes make; OpenExec 0.8 has the same limit.
pub const FAILURES_MAX: u32 = 10;

/// Maximum `retry_limit` that a file may set for a stage. More could never be used.
pub const RETRY_LIMIT_MAX: u32 = FAILURES_MAX;

/// Maximum number of stages in a blueprint.
pub const STAGES_MAX: usize = 100;

/// Artifacts that the runner provides to every run.
pub const PROVIDED: [&str; 1] = ["context"];

/// A recipe from an evolution context to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blueprint {
    /// Its name.
    pub name: String,
    /// A description for people.
    pub description: String,
    /// The stages. There is at least one; a run starts with the first.
    pub stages: Vec<Stage>,
    /// How failures are counted.
    pub retry_semantics: RetrySemantics,
    /// `sha256:` and the digest of the file. A checkpoint is valid only for this digest.
    pub digest: String,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The id, unique in the blueprint.
    pub id: String,
    /// What the stage does.
    pub work: Work,
    /// Names of the artifacts that it gets.
    pub inputs: Vec<String>,
    /// Names of the artifacts that it makes.
    pub outputs: Vec<String>,
    /// Maximum number of attempts before `on_failure` is followed (see [`RetrySemantics`]).
    pub retry_limit: u32,
    /// True if an operator must approve the result before `on_success` is followed.
    pub approval_required: bool,
    /// The next step after success.
    pub on_success: Target,
    /// The next step after failure.
    pub on_failure: Target,
    /// The timeout of one attempt; `None` means that of the action or agent.
    pub timeout: Option<Duration>,
    /// The access of an agent or command to the workspace.
    pub sandbox: Sandbox,
    /// OpenExec's name of a set of tools; rei only writes it to the timeline.
    pub toolset: Option<String>,
    /// Its line and column in the file.
    #[serde(skip)]
    pub place: Place,
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// rei performs an action.
    Action(Action),
    /// An agent of the operator changes the workspace.
    Agent {
        /// The goal that the agent is given.
        goal: String,
        /// Its name in `[agents]`; `None` means the only one.
        agent: Option<String>,
    },
}

/// The deterministic actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Writes the evolution context and the state of the source into one artifact. Also named `build_context`.
    BuildContextPack,
    /// Applies the first input, a patch, to the workspace.
    ApplyPatch,
    /// Resets the workspace to a commit: of a branch or tag, or of the followed ref.
    Checkout {
        /// The branch or tag.
        rev: Option<String>,
    },
    /// Updates these inputs in the flake's lock file.
    UpdateInputs {
        /// Their names.
        names: Vec<String>,
    },
    /// Runs a command of the operator in the workspace.
    Run {
        /// Its name in `[commands]`.
        command: String,
    },
    /// Runs those checks of the flake that are linters.
    RunLinters,
    /// Runs the flake's checks.
    RunTests,
    /// Builds the package.
    NixBuild,
    /// Fails if no file has changed. Its result is the id of the commit.
    Commit,
    /// Writes the diff against Active, for people.
    GenerateDiffReport,
    /// Writes everything that a reviewer needs into one artifact.
    PrepareReviewBundle,
    /// Writes a summary of the run so far, for people.
    SummarizeRun,
}

impl Action {
    /// The name in a blueprint.
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

    /// All names, for error messages.
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

/// The next step after a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Run the stage with this index.
    Stage(usize),
    /// End the run with success.
    Done,
    /// End the run with failure.
    Fail,
    /// Ask an operator. After approval, the run continues with the next stage if the stage succeeded, and with the same
    /// stage if it failed.
    Paused,
}

/// How failures of a stage are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetrySemantics {
    /// DSL v1: run the same stage again while it has failed fewer than `retry_limit` times, then follow `on_failure`.
    #[default]
    #[serde(rename = "v1")]
    V1,
    /// OpenExec 0.8: follow `on_failure` for up to `max_retries` failures of the stage, then fail the run.
    #[serde(rename = "openexec-0.8")]
    OpenExec08,
}

/// The access of an agent or command to the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// It may only read the workspace.
    ReadOnly,
    /// It may change the workspace.
    #[default]
    WorkspaceWrite,
}

impl Blueprint {
    /// The stage with this index; `None` if the index is not from this blueprint.
    pub fn stage(&self, index: usize) -> Option<&Stage> {
        self.stages.get(index)
    }
}
