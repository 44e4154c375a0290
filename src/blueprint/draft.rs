//! The result of reading both dialects: a blueprint whose routes are not resolved.

use std::time::Duration;

use super::fields::Word;
use super::schema::{Action, RetrySemantics, Sandbox, Work};
use super::yaml::Place;

/// A blueprint whose routes are still names.
pub(super) struct Draft {
    pub name: String,
    pub description: String,
    pub semantics: RetrySemantics,
    pub stages: Vec<DraftStage>,
}

/// A stage whose routes are still names.
pub(super) struct DraftStage {
    pub id: Word,
    /// `None` if it has an error, which is reported already.
    pub work: Option<Work>,
    pub inputs: Vec<Word>,
    pub outputs: Vec<Word>,
    pub retry_limit: u32,
    pub approval_required: bool,
    /// `None` means the next stage, or `done` after the last.
    pub on_success: Option<Word>,
    /// `None` means `fail`.
    pub on_failure: Option<Word>,
    pub timeout: Option<Duration>,
    pub sandbox: Sandbox,
    pub toolset: Option<String>,
    pub place: Place,
}

/// The actions that have no parameters.
pub(super) fn simple_action(name: &str) -> Option<Action> {
    Some(match name {
        "build_context_pack" | "build_context" => Action::BuildContextPack,
        "apply_patch" => Action::ApplyPatch,
        "run_linters" => Action::RunLinters,
        "run_tests" => Action::RunTests,
        "nix_build" => Action::NixBuild,
        "commit" => Action::Commit,
        "generate_diff_report" => Action::GenerateDiffReport,
        "prepare_review_bundle" => Action::PrepareReviewBundle,
        "summarize_run" => Action::SummarizeRun,
        _ => return None,
    })
}
