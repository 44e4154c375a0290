//! Why something was decided, and what a timer does when it is due: data, never sentences.
//!
//! Reasons are stored with each decision. The module `narrate` turns them into sentences for a person, so that a
//! sentence can be improved without a change of the journal.

use serde::{Deserialize, Serialize};

use super::policy::OnInconclusive;
use super::slot::Slot;
use crate::interface::types::{CandidateId, IncidentId};

/// Why something was decided, what rei waits for, or what a timer does when it is due.
///
/// A record of format 1.0 has a sentence instead, and a later rei may give reasons that this one does not know. Both
/// are read ([`Reason::Text`], [`Reason::Unknown`]), since no decision depends on a reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    // How an evolution ended, and why content is in quarantine.
    /// The first version serves.
    FirstVersionServes,
    /// The first version did not serve before the deadline.
    FirstVersionLate,
    /// The first version exits again and again.
    FirstVersionExits {
        /// How it exited last.
        exit: String,
    },
    /// The candidate's build is Active's own build.
    SameBuild,
    /// The same, for a repair.
    RepairsNothing,
    /// The candidate's store path is in quarantine.
    PathInQuarantine {
        /// The store path.
        store_path: String,
    },
    /// The candidate's tree is in quarantine.
    TreeInQuarantine {
        /// The candidate that had this tree.
        candidate: CandidateId,
        /// Why it is in quarantine.
        reason: Box<Reason>,
    },
    /// The validation came to no verdict.
    NotJudged {
        /// The report's summary.
        summary: String,
    },
    /// The build did not end before the deadline.
    BuildLate,
    /// The validation did not end before the deadline.
    ValidationLate,
    /// An instance was not ready before the deadline.
    NotReadyInTime,
    /// The switch to the candidate did not end before the deadline.
    SwitchLate,
    /// An instance exited.
    Exited {
        /// How: `exit code 2`, `signal 11 (SIGSEGV)`.
        exit: String,
    },
    /// An instance exited while no supervisor ran.
    ExitedUnattended,
    /// The canary was not over before its deadline, because the machine was started again.
    CanaryLateAfterReboot,
    /// The switch to the candidate failed.
    PromotionFailed {
        /// Why.
        reason: String,
    },
    /// The data did not suffice before the deadline, and the policy decided.
    TooLittleDataAnd {
        /// What was missing.
        missing: Box<Reason>,
        /// The policy.
        policy: OnInconclusive,
    },
    /// There were not enough data.
    TooLittleData,
    /// The version under trial was worse than the one before it.
    Degraded,
    /// An operator asked for it.
    AsAsked,
    /// An operator rolled this content back.
    RolledBackByOperator,
    /// An operator approved it.
    ApprovedBy {
        /// Who: `operator:NAME`.
        by: String,
    },
    /// An operator approved it although there were not enough data.
    ApprovedWithTooLittleData,
    /// The target of an operator's rollback was not ready before the deadline.
    TargetNotReady,
    /// Reality differs from the journal, and an operator trusts the journal.
    JournalTrusted {
        /// The operator's words.
        reason: String,
    },
    /// Reality differs from the journal, and an operator trusts the version that serves.
    RealityTrusted {
        /// The operator's words.
        reason: String,
    },
    /// No verdict; it is tried again.
    NoVerdict {
        /// Why.
        reason: Box<Reason>,
    },
    /// No verdict after the last try.
    NoVerdictAfter {
        /// Tries in a row.
        tries: u32,
        /// Why the last try had no verdict.
        reason: Box<Reason>,
    },

    // Why an operator is needed.
    /// None of the tries that the policy allows had a verdict.
    NothingCameOf {
        /// Tries in a row.
        tries: u32,
        /// Why the last try had no verdict.
        reason: Box<Reason>,
    },
    /// No blueprint is configured for an incident.
    NoBlueprint {
        /// The incident.
        incident: IncidentId,
        /// Its cause.
        cause: String,
    },
    /// An incident has had all evolutions that it may have.
    IncidentBudgetSpent {
        /// The incident.
        incident: IncidentId,
        /// Evolutions that it may have.
        limit: u64,
    },
    /// No more evolutions may begin in this hour.
    HourBudgetSpent {
        /// Evolutions in any one hour.
        limit: u64,
        /// The commit that waits, in hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
    },
    /// No more runs of agents may begin in this hour.
    AgentRunsSpent {
        /// Runs in any one hour.
        limit: u64,
    },
    /// Agents have run as long as they may in this hour.
    AgentTimeSpent {
        /// Minutes in any one hour.
        minutes: u64,
    },
    /// As many incidents are open as can be.
    TooManyIncidents {
        /// How many.
        limit: u64,
        /// The summary of the incident that was not opened.
        summary: String,
    },
    /// A step of a rollback failed.
    RollbackIncomplete {
        /// Why.
        reason: String,
    },
    /// A rollback's deadline is over, and the profile may not be switched.
    ProfileNotSwitched {
        /// The generation that should be current.
        generation: u64,
    },
    /// An operator's rollback failed, because its target was not ready in time.
    RollbackTargetNotReady,
    /// Reality is ahead of the journal.
    BehindReality {
        /// The facts that the journal does not explain.
        facts: Vec<String>,
    },

    // What rei waits for.
    /// An operator's approval after a stage of the blueprint.
    ApprovalAfterStage {
        /// The stage.
        stage: String,
    },
    /// An operator's approval of a candidate that passed.
    ApprovalOfPromotion,
    /// An operator's decision, or more data.
    DecisionOrData {
        /// What is missing.
        missing: Box<Reason>,
    },

    // What a timer does when it is due.
    /// Gives up the first build.
    GivesUpFirstBuild,
    /// Gives up the start of the first version.
    GivesUpFirstStart,
    /// Gives up the first version.
    GivesUpFirstVersion,
    /// Continues without the evidence that was not collected.
    GoesOnWithoutContext,
    /// Gives up the build.
    GivesUpBuild,
    /// Ends the validation without a verdict.
    GivesUpValidation,
    /// Gives up the candidate's start.
    GivesUpCandidate,
    /// Lets Active continue to serve.
    LetsActiveGoOn,
    /// Ends the wait for data.
    EndsWaitForData,
    /// Judges the answers to the requests that were asked once more.
    JudgesShadow,
    /// Judges a canary step.
    JudgesCanary {
        /// The candidate's share of new connections, in parts per million.
        share_ppm: u32,
    },
    /// Confirms the promotion.
    ConfirmsPromotion,
    /// Undoes the switch.
    UndoesSwitch,
    /// Tries a plan again.
    TriesPlanAgain {
        /// Why it was not executed.
        reason: String,
    },
    /// Restores Previous.
    RestoresPrevious,
    /// Continues with the version that is restored.
    GoesOnWithRestored,
    /// Starts the restored version although the other one has not exited.
    StartsRestored,
    /// Gives up the rollback.
    GivesUpRollback,
    /// Starts the instance of a slot again.
    StartsAgain {
        /// The slot.
        slot: Slot,
    },
    /// Begins a repair.
    BeginsRepair {
        /// Of this incident.
        incident: IncidentId,
    },
    /// Tries a repair again.
    RetriesRepair {
        /// Of this incident.
        incident: IncidentId,
        /// Why it waits.
        reason: Box<Reason>,
    },
    /// The last repair failed.
    LastRepairFailed,
    /// Begins an upgrade.
    BeginsUpgrade {
        /// To this commit, in hex.
        rev: String,
    },
    /// Tries a commit again.
    RetriesUpgrade {
        /// The commit, in hex.
        rev: String,
        /// Why it waits.
        reason: Box<Reason>,
    },

    /// The text of a judge, an operator or the system.
    #[serde(untagged)]
    Text(String),
    /// A reason that this rei does not know, as it is stored.
    #[serde(untagged)]
    Unknown(Box<serde_json::Value>),
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Reason {
    /// The same reason; a text from outside is cut to at most `bytes_max` bytes.
    pub(super) fn shortened(&self, bytes_max: usize) -> Self {
        match self {
            Self::Text(text) => Self::Text(text[..text.floor_char_boundary(bytes_max)].to_owned()),
            data => data.clone(),
        }
    }

    /// Boxes a reason that is a part of another reason.
    pub(super) fn boxed(self) -> Box<Self> {
        Box::new(self)
    }
}
