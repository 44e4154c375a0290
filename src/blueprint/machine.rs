//! The core of the engine: decides which stage is next. No I/O, no clock.
//!
//! The machine decides what to do ([`Machine::next`]); the runner does it and reports the result ([`Machine::step`]).
//! The machine is its own checkpoint: it is stored after each step, and a restarted run continues from there.
//!
//! ```text
//!            succeeded (no approval)
//!   Run(s) ───────────────────────────▶ on_success ──▶ Run | Done | Failed | Paused
//!     │  └─ succeeded (approval) ─▶ Paused(s) ─ approved ─▶ on_success
//!     │                                       └ rejected ─▶ on_failure
//!     └─ failed, timed out ─▶ Run(s) again while attempts are left, else on_failure
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schema::{Blueprint, FAILURES_MAX, RetrySemantics, Stage, Target, Work};

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    position: Position,
    /// Number of failures of each stage in this run, by index. It never decreases.
    attempts: BTreeMap<usize, u32>,
    /// Number of failures of all stages in this run.
    failures: u32,
    /// Number of finished runs of each stage, by index, successful or not. It never decreases.
    #[serde(default)]
    runs: BTreeMap<usize, u32>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub enum Position {
    /// Run a stage.
    Run {
        /// The index of the stage.
        stage: usize,
    },
    /// Wait for an operator's decision.
    Paused {
        /// The stage that led to the pause.
        stage: usize,
        /// The next step after approval.
        approved: Target,
        /// The next step after rejection.
        rejected: Target,
    },
    /// The run has succeeded.
    Done,
    /// The run has failed.
    Failed {
        /// The stage that led to the failure.
        stage: usize,
        /// The reason.
        reason: String,
    },
}

/// The result of a stage, or an operator's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stage succeeded.
    Succeeded,
    /// The stage failed.
    Failed {
        /// The reason.
        reason: String,
    },
    /// The stage exceeded its timeout.
    TimedOut,
    /// An operator approved the result, or the continuation after a failure.
    Approved,
    /// An operator rejected the result.
    Rejected {
        /// The reason.
        reason: String,
    },
}

impl Default for Machine {
    fn default() -> Self {
        Self { position: Position::Run { stage: 0 }, attempts: BTreeMap::new(), failures: 0, runs: BTreeMap::new() }
    }
}

impl Machine {
    /// What to do now.
    pub fn next(&self) -> &Position {
        &self.position
    }

    /// How many times the stage with this index has failed in this run.
    pub fn failures_of(&self, stage: usize) -> u32 {
        self.attempts.get(&stage).copied().unwrap_or(0)
    }

    /// Handles an event. An event that does not fit the position changes nothing: it is a late answer to a question
    /// that is already decided.
    pub fn step(&mut self, blueprint: &Blueprint, event: Event) {
        if let (Position::Run { stage }, Event::Succeeded | Event::Failed { .. } | Event::TimedOut) =
            (&self.position, &event)
        {
            *self.runs.entry(*stage).or_default() += 1;
        }
        self.position = match (self.position.clone(), event) {
            (Position::Run { stage }, Event::Succeeded) => match blueprint.stage(stage) {
                Some(done) => self.succeeded(blueprint, stage, done),
                None => foreign(stage),
            },
            (Position::Run { stage }, Event::Failed { reason }) => self.failed(blueprint, stage, reason),
            (Position::Run { stage }, Event::TimedOut) => {
                self.failed(blueprint, stage, "took longer than its timeout".into())
            }
            (Position::Paused { stage, approved, .. }, Event::Approved) => {
                self.go(blueprint, stage, approved, "approved")
            }
            (Position::Paused { stage, rejected, .. }, Event::Rejected { reason }) => {
                self.failures += 1;
                match self.exhausted(blueprint) {
                    true => Position::Failed { stage, reason: format!("{reason} (and the run has failed too often)") },
                    false => self.go(blueprint, stage, rejected, &reason),
                }
            }
            (position @ Position::Run { .. }, Event::Approved | Event::Rejected { .. })
            | (position @ Position::Paused { .. }, Event::Succeeded | Event::Failed { .. } | Event::TimedOut)
            | (
                position @ (Position::Done | Position::Failed { .. }),
                Event::Succeeded | Event::Failed { .. } | Event::TimedOut | Event::Approved | Event::Rejected { .. },
            ) => position,
        };
    }

    fn succeeded(&self, blueprint: &Blueprint, index: usize, stage: &Stage) -> Position {
        if !stage.approval_required {
            return self.go(blueprint, index, stage.on_success, "its success leads to fail");
        }
        let approved = match stage.on_success {
            Target::Paused => after_pause(blueprint, index),
            other => other,
        };
        // A rejected result is not shown to the operator a second time in a row; the failure route decides.
        let rejected = if stage.on_failure == Target::Paused { Target::Fail } else { stage.on_failure };
        Position::Paused { stage: index, approved, rejected }
    }

    fn failed(&mut self, blueprint: &Blueprint, index: usize, reason: String) -> Position {
        let Some(stage) = blueprint.stage(index) else { return foreign(index) };
        self.failures += 1;
        let attempts = self.attempts.entry(index).or_default();
        *attempts += 1;
        let attempts = *attempts;
        if self.exhausted(blueprint) {
            let reason = format!("{reason} (failure {} of the run, the last that is allowed)", self.failures);
            return Position::Failed { stage: index, reason };
        }
        match blueprint.retry_semantics {
            RetrySemantics::V1 if attempts < stage.retry_limit => Position::Run { stage: index },
            RetrySemantics::OpenExec08 if attempts > stage.retry_limit => Position::Failed { stage: index, reason },
            RetrySemantics::V1 | RetrySemantics::OpenExec08 => {
                if stage.on_failure == Target::Paused {
                    return Position::Paused { stage: index, approved: Target::Stage(index), rejected: Target::Fail };
                }
                self.go(blueprint, index, stage.on_failure, &reason)
            }
        }
    }

    fn go(&self, blueprint: &Blueprint, from: usize, target: Target, reason: &str) -> Position {
        match target {
            Target::Stage(stage) => match blueprint.stage(stage).filter(|it| self.is_spent(blueprint, stage, it)) {
                Some(spent) => {
                    let runs = self.runs.get(&stage).copied().unwrap_or(0);
                    let reason =
                        format!("{reason} (stage {} ran {runs} times, the maximum that retry_limit allows)", spent.id);
                    Position::Failed { stage: from, reason }
                }
                None => Position::Run { stage },
            },
            Target::Done => Position::Done,
            Target::Fail => Position::Failed { stage: from, reason: reason.to_owned() },
            Target::Paused => {
                Position::Paused { stage: from, approved: after_pause(blueprint, from), rejected: Target::Fail }
            }
        }
    }

    /// True if an agent has run as often as its stage allows. A loop back to it caused by the failures of other stages
    /// costs as much as its own retries.
    fn is_spent(&self, blueprint: &Blueprint, index: usize, stage: &Stage) -> bool {
        let most = match blueprint.retry_semantics {
            RetrySemantics::V1 => stage.retry_limit.max(1),
            RetrySemantics::OpenExec08 => stage.retry_limit + 1,
        };
        matches!(stage.work, Work::Agent { .. }) && self.runs.get(&index).is_some_and(|runs| *runs >= most)
    }

    /// OpenExec 0.8 allows that many retries; its documents allow that many failures.
    fn exhausted(&self, blueprint: &Blueprint) -> bool {
        match blueprint.retry_semantics {
            RetrySemantics::V1 => self.failures >= FAILURES_MAX,
            RetrySemantics::OpenExec08 => self.failures > FAILURES_MAX,
        }
    }
}

/// The next step of a run that was paused after a success.
fn after_pause(blueprint: &Blueprint, index: usize) -> Target {
    if index + 1 < blueprint.stages.len() { Target::Stage(index + 1) } else { Target::Done }
}

/// A checkpoint belongs to a blueprint by its digest, so this happens only if a checkpoint was edited by hand.
fn foreign(stage: usize) -> Position {
    Position::Failed { stage, reason: format!("the blueprint has no stage {stage}") }
}
