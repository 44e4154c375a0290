//! Words and names that several sentences use.

use crate::interface::operations::Phase as Shown;
use crate::interface::types::{MaintenanceAction, Role, Verdict};
use crate::lifecycle::{CanaryStage, Phase, Request, Slot, Timer};

impl From<Phase> for Shown {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Empty => Self::Empty,
            Phase::Installing => Self::Installing,
            Phase::Steady => Self::Steady,
            Phase::Diagnosing => Self::Diagnosing,
            Phase::Building => Self::Building,
            Phase::Validating => Self::Validating,
            Phase::AwaitingApproval { .. } => Self::AwaitingApproval,
            Phase::Canary { stage: CanaryStage::Shadow { .. } } => Self::Shadow,
            Phase::Canary { .. } => Self::Canary,
            Phase::Promoting { .. } => Self::Promoting,
            Phase::Observing { .. } => Self::Observing,
            Phase::RollingBack { .. } => Self::RollingBack,
            Phase::Held => Self::Held,
        }
    }
}

/// The name of an evolution's step: its phase, and in a canary step the candidate's share of new connections.
pub fn step(phase: Phase, share_ppm: Option<u32>) -> String {
    match (phase, share_ppm) {
        (Phase::Canary { stage: CanaryStage::Share { .. } }, Some(share)) => format!("canary {}", percent(share)),
        (phase, _) => Shown::from(phase).to_string(),
    }
}

/// The name of a step that is a stage of the blueprint.
pub fn stage(name: &str) -> String {
    format!("{}: {name}", Shown::Building)
}

/// A maintenance action, as a past participle.
pub const fn action(of: MaintenanceAction) -> &'static str {
    match of {
        MaintenanceAction::Promoted => "promoted",
        MaintenanceAction::Rejected => "rejected",
        MaintenanceAction::Unchanged => "unchanged",
        MaintenanceAction::RolledBack => "rolled back",
        MaintenanceAction::Restarted => "restarted",
        MaintenanceAction::Deferred => "deferred",
    }
}

/// The verdict on a candidate.
pub(super) const fn verdict(of: Verdict) -> &'static str {
    match of {
        Verdict::Pass => "passed",
        Verdict::Fail => "failed",
        Verdict::Inconclusive => "cannot be judged",
    }
}

/// The time that a timer measures.
pub(super) const fn timer(of: Timer) -> &'static str {
    match of {
        Timer::Phase => "the time for this phase",
        Timer::Window => "the time to observe",
        Timer::Recheck => "the pause before the next look",
        Timer::Plan => "the pause before the switch is tried again",
        Timer::Retry => "the pause before the next try",
        Timer::RestartA => restart(Slot::A),
        Timer::RestartB => restart(Slot::B),
    }
}

const fn restart(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "the pause before the restart of slot A",
        Slot::B => "the pause before the restart of slot B",
    }
}

/// The role of a version.
pub(super) const fn role(of: Role) -> &'static str {
    match of {
        Role::Active => "Active",
        Role::Candidate => "the candidate",
        Role::Previous => "Previous",
    }
}

/// A share of new connections.
pub(super) fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

/// The note in the history at a step that an operator approves.
pub(super) fn approval(request: &Request, who: &str) -> Option<String> {
    matches!(request, Request::Approve { .. }).then(|| format!("approved by operator:{who}"))
}
