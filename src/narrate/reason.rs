//! The words for the reasons that the lifecycle gives.

use crate::lifecycle::{OnInconclusive, Reason};

/// A reason in words for a person, in one line.
pub fn reason(of: &Reason) -> String {
    match of {
        Reason::FirstVersionServes => "the first version serves".to_owned(),
        Reason::FirstVersionLate => "the first version did not serve in time".to_owned(),
        Reason::FirstVersionExits { exit } => format!("the first version does not stay up: {exit}"),
        Reason::SameBuild => "the build is the same as Active's".to_owned(),
        Reason::RepairsNothing => "the build is the same as Active's: it repairs nothing".to_owned(),
        Reason::PathInQuarantine { store_path } => format!("{store_path} is in quarantine"),
        Reason::TreeInQuarantine { candidate, reason: why } => {
            format!("it is in quarantine as {candidate}: {}", reason(why))
        }
        Reason::NotJudged { summary } => format!("could not be judged: {summary}"),
        Reason::BuildLate => "the build did not end in time".to_owned(),
        Reason::ValidationLate => "the validation did not end in time".to_owned(),
        Reason::NotReadyInTime => "it did not become ready in time".to_owned(),
        Reason::SwitchLate => "the switch was not done in time".to_owned(),
        Reason::Exited { exit } => format!("it ended: {exit}"),
        Reason::ExitedUnattended => "it ended while no supervisor ran".to_owned(),
        Reason::CanaryLateAfterReboot => "its canary did not end in time, because the machine was restarted".to_owned(),
        Reason::PromotionFailed { reason } => format!("the promotion failed: {reason}"),
        Reason::TooLittleDataAnd { missing, policy } => {
            let policy = match policy {
                OnInconclusive::Ask => "ask",
                OnInconclusive::Promote => "promote",
                OnInconclusive::Revert => "revert",
            };
            format!("{}; on_inconclusive = \"{policy}\"", reason(missing))
        }
        Reason::TooLittleData => "too little data".to_owned(),
        Reason::Degraded => "degraded".to_owned(),
        Reason::AsAsked => "an operator asked for it".to_owned(),
        Reason::RolledBackByOperator => "an operator rolled it back".to_owned(),
        Reason::ApprovedBy { by } => format!("approved by {by}"),
        Reason::ApprovedWithTooLittleData => "approved with too little data".to_owned(),
        Reason::TargetNotReady => "the rollback's target does not become ready".to_owned(),
        Reason::JournalTrusted { reason } => format!("the journal is trusted: {reason}"),
        Reason::RealityTrusted { reason } => format!("what serves is trusted: {reason}"),
        Reason::NoVerdict { reason: why } => format!("no verdict: {}", reason(why)),
        Reason::NoVerdictAfter { tries, reason: why } => format!("no verdict after {tries} tries: {}", reason(why)),
        Reason::LastRepairFailed => "the last repair failed".to_owned(),
        Reason::Text(text) => text.clone(),
        // A later version of rei wrote this reason, and only that version has words for it.
        Reason::Unknown(stored) => stored.to_string(),
        Reason::NothingCameOf { tries, reason: why } => format!("nothing came of {tries} tries: {}", reason(why)),
        Reason::NoBlueprint { incident, cause } => format!("no blueprint is configured for {incident} ({cause})"),
        Reason::IncidentBudgetSpent { incident, limit } => {
            format!("the budget of {limit} evolutions for {incident} is spent")
        }
        Reason::HourBudgetSpent { limit, commit: None } => {
            format!("the budget of {limit} evolutions an hour is spent")
        }
        Reason::HourBudgetSpent { limit, commit: Some(commit) } => {
            format!("the budget of {limit} evolutions an hour is spent, so commit {commit} waits")
        }
        Reason::AgentRunsSpent { limit } => format!("the budget of {limit} runs of agents an hour is spent"),
        Reason::AgentTimeSpent { minutes } => format!("the budget of {minutes} minutes of agents an hour is spent"),
        Reason::TooManyIncidents { limit, summary } => {
            format!("{limit} incidents are open, so this one was not opened: {summary}; close some with `rei reject`")
        }
        Reason::RollbackIncomplete { reason } => format!("a rollback is not complete: {reason}"),
        Reason::ProfileNotSwitched { generation } => {
            format!("a rollback is not complete: make generation {generation} the current one of the profile")
        }
        Reason::RollbackTargetNotReady => "an operator's rollback failed: the target does not become ready".to_owned(),
        Reason::BehindReality { facts } => format!(
            "the journal is behind reality, so nothing is decided: {}; `rei journal accept reality` keeps the version that \
             serves, `rei journal accept journal` returns to the version that is Active in the journal",
            facts.join("; ")
        ),
        Reason::ApprovalAfterStage { stage } => {
            format!("an operator's `rei approve` after the blueprint's stage {stage}")
        }
        Reason::ApprovalOfPromotion => "an operator's `rei approve`: every check passed".to_owned(),
        Reason::DecisionOrData { missing } => {
            format!("an operator's `rei approve` or `rei reject`, or more data: {}", reason(missing))
        }
        Reason::GivesUpFirstBuild => "gives up the first build".to_owned(),
        Reason::GivesUpFirstStart => "gives up the first start".to_owned(),
        Reason::GivesUpFirstVersion => "gives up the first version".to_owned(),
        Reason::GoesOnWithoutContext => "continues without what was not collected".to_owned(),
        Reason::GivesUpBuild => "gives up the build".to_owned(),
        Reason::GivesUpValidation => "gives up the candidate, because it could not be judged".to_owned(),
        Reason::GivesUpCandidate => "gives up the candidate's start".to_owned(),
        Reason::LetsActiveGoOn => "keeps Active".to_owned(),
        Reason::EndsWaitForData => "ends the wait for data".to_owned(),
        Reason::JudgesShadow => "judges the answers to the requests that were asked once more".to_owned(),
        Reason::JudgesCanary { share_ppm } => {
            format!("judges the canary at {} %", f64::from(*share_ppm) / 10_000.0)
        }
        Reason::ConfirmsPromotion => "confirms the promotion".to_owned(),
        Reason::UndoesSwitch => "undoes the switch".to_owned(),
        Reason::TriesPlanAgain { reason } => format!("tries the switch again: {reason}"),
        Reason::RestoresPrevious => "restores Previous".to_owned(),
        Reason::GoesOnWithRestored => "continues with what is restored".to_owned(),
        Reason::StartsRestored => "starts the restored version anyway".to_owned(),
        Reason::GivesUpRollback => "gives up the rollback and keeps Active".to_owned(),
        Reason::StartsAgain { slot } => format!("starts slot {slot} again"),
        Reason::BeginsRepair { incident } => format!("begins the repair of {incident}"),
        Reason::RetriesRepair { incident, reason: why } => {
            format!("tries the repair of {incident} again: {}", reason(why))
        }
        Reason::BeginsUpgrade { rev } => format!("begins the upgrade to commit {rev}"),
        Reason::RetriesUpgrade { rev, reason: why } => format!("tries commit {rev} again: {}", reason(why)),
    }
}
