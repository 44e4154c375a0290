//! The state of the lifecycle, and functions that read it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::deployed::Deployed;
use super::effect::{Plan, Routing, Timer};
use super::event::{Instance, ReportDigest};
use super::policy::Policy;
use super::reason::Reason;
use super::slot::Slot;
use crate::interface::types::{CandidateId, EvolutionId, IncidentId, RuntimeIncident, Version};
use crate::time::Timestamp;

/// Maximum number of open incidents. A finding that would open one more opens none, and an operator is needed.
pub const OPEN_INCIDENTS_MAX: usize = 64;

/// Maximum number of contents in quarantine; the oldest is dropped first.
pub const QUARANTINE_MAX: usize = 4096;

/// Maximum number of trees that need no other evolution although they are not in quarantine. The oldest is dropped
/// first, and would be built again.
pub const SETTLED_MAX: usize = 256;

/// Maximum number of remembered runs of agents; more runs in an hour count as this many.
pub const AGENT_RUNS_MAX: usize = 1024;

/// Maximum number of causes that wait for another try; the oldest is dropped first.
pub const PUT_OFF_MAX: usize = 128;

/// Maximum number of fingerprints whose evolutions are counted; the oldest is dropped first.
pub const ATTEMPTS_MAX: usize = 1024;

/// The supervisor's whole decision state. Changed only by [`Lifecycle::step`].
///
/// It is stored. A field that an older rei has not stored has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifecycle {
    pub(super) policy: Option<Policy>,
    pub(super) next_policy: Option<Policy>,
    pub(super) phase: Phase,
    pub(super) phase_since: Timestamp,
    pub(super) regained: bool,
    /// How much time instances have added to the present phase, in milliseconds.
    pub(super) extended_ms: u64,
    pub(super) active: Option<Deployed>,
    pub(super) active_slot: Option<Slot>,
    pub(super) previous: Option<Deployed>,
    pub(super) slots: [SlotState; 2],
    pub(super) routing: Option<Routing>,
    pub(super) evolution: Option<Evolution>,
    pub(super) incidents: BTreeMap<String, OpenIncident>,
    pub(super) followed: Option<String>,
    pub(super) followed_tree: Option<String>,
    pub(super) upgrade: Option<Commit>,
    pub(super) asked: Option<Asked>,
    pub(super) quarantine: Vec<Quarantined>,
    pub(super) settled: VecDeque<Settled>,
    pub(super) last: Option<Ended>,
    pub(super) put_off: Vec<PutOff>,
    pub(super) attempts: Vec<(String, u64)>,
    pub(super) recent: VecDeque<Timestamp>,
    pub(super) agent_runs: VecDeque<(Timestamp, u64)>,
    pub(super) tried: VecDeque<Tried>,
    pub(super) known_good: BTreeMap<u64, Version>,
    pub(super) paused: bool,
    pub(super) attention: Option<Reason>,
    pub(super) timers: BTreeMap<Timer, Armed>,
    pub(super) counters: Counters,
    /// The plan that is executed, so that it can be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<PlanUnderWay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<Held>,
}

/// The phase of the lifecycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// No version was ever installed.
    #[default]
    Empty,
    /// The first version is built, then started.
    Installing,
    /// Active serves, and no evolution is under way.
    Steady,
    /// The context of an evolution is collected.
    Diagnosing,
    /// A blueprint makes a candidate.
    Building,
    /// The judge validates the candidate.
    Validating,
    /// An operator must approve.
    AwaitingApproval {
        /// What the operator must approve.
        of: Approval,
    },
    /// The candidate starts, is asked what users ask if that is configured, and gets shares of the traffic.
    Canary {
        /// The stage of the phase.
        stage: CanaryStage,
    },
    /// The switch to the candidate is under way.
    Promoting {
        /// The plan's number.
        plan: u64,
    },
    /// The candidate is Active and watched; Previous is warm.
    Observing {
        /// The stage of the phase.
        stage: ObservationStage,
    },
    /// The switch back is under way.
    RollingBack {
        /// The plan's number.
        plan: u64,
        /// The stage of the phase.
        stage: RollbackStage,
    },
    /// Reality is ahead of the journal: the running versions continue to serve, and an operator must say which is
    /// Active.
    Held,
}

/// What an operator must approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Approval {
    /// To continue after a stage of the blueprint.
    Stage,
    /// To try a candidate that passed.
    Promotion,
    /// To give traffic to a candidate that was asked too few of the users' requests.
    Shadow,
    /// To continue after a canary step that had too little data.
    Canary {
        /// The step, from 0.
        index: usize,
    },
    /// To keep a candidate whose window had too little data.
    Observation,
}

/// The stage of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum CanaryStage {
    /// The slot is freed, the generation is made, the candidate starts.
    Preparing,
    /// Strategy recreate: Active is asked to end.
    Stopping,
    /// The candidate is ready and gets no connection of users. It is asked once more what users asked Active.
    Shadow {
        /// True if its time is over and only data are missing.
        judging: bool,
    },
    /// The candidate gets a share.
    Share {
        /// The step, from 0.
        index: usize,
        /// True if its time is over and only data are missing.
        judging: bool,
    },
}

/// The stage of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum ObservationStage {
    /// Strategy recreate: the new Active is not ready yet.
    Starting,
    /// The window runs.
    Window {
        /// True if its time is over and only data are missing.
        judging: bool,
    },
}

/// The stage of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum RollbackStage {
    /// An operator's target that does not run yet is started.
    Starting,
    /// The plan is executed.
    Switching,
    /// Strategy recreate: the version that is left must exit before the target starts.
    Stopping,
}

impl Phase {
    /// The name that status, history and messages use.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Installing => "Installing",
            Self::Steady => "Steady",
            Self::Diagnosing => "Diagnosing",
            Self::Building => "Building",
            Self::Validating => "Validating",
            Self::AwaitingApproval { .. } => "AwaitingApproval",
            Self::Canary { stage: CanaryStage::Shadow { .. } } => "Shadow",
            Self::Canary { .. } => "Canary",
            Self::Promoting { .. } => "Promoting",
            Self::Observing { .. } => "Observing",
            Self::RollingBack { .. } => "RollingBack",
            Self::Held => "Held",
        }
    }
}

/// The state of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotState {
    /// The state of its instance.
    pub run: RunState,
    /// The version that runs or should run.
    pub version: Option<Version>,
    /// The process, once it was started.
    pub instance: Option<Instance>,
    /// Number of consecutive exits that came too soon.
    pub quick_exits: u32,
    /// How many times the instance was started again.
    pub restarts: u64,
}

/// The state of the instance in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// No instance runs.
    #[default]
    Down,
    /// Started, but not ready yet.
    Starting,
    /// Ready; serves.
    Ready,
    /// Exited; started again after the backoff.
    Backoff,
    /// Asked to exit.
    Stopping,
    /// Exited, but connections wait in the queue. An instance of Active serves them; then the slot is free.
    Draining,
}

/// One evolution: from its cause to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Evolution {
    /// Its id.
    pub id: EvolutionId,
    /// The incident that it repairs.
    pub incident: Option<IncidentId>,
    /// The operator who asked for it.
    pub asked_by: Option<String>,
    /// The blueprint.
    pub blueprint: String,
    /// The commit to build, for an upgrade.
    pub rev: Option<String>,
    /// The tree of that commit, once it is known.
    pub tree: Option<String>,
    /// When it began.
    pub since: Timestamp,
    /// Digest of its context.
    pub context: Option<String>,
    /// The blueprint's stage, for a person, and its checkpoint.
    pub checkpoint: Option<(String, String)>,
    /// Digests of the tasks that its agents got and have answered, and of the facts that they got from its context.
    pub tasks: Vec<String>,
    /// See `tasks`.
    pub facts: Vec<String>,
    /// The id that its candidate has or will have.
    pub candidate: CandidateId,
    /// The candidate, once it is built.
    pub version: Option<Version>,
    /// The commit that the candidate's work began from.
    pub base_rev: String,
    /// Paths that differ from the base.
    pub files_changed: Vec<String>,
    /// The report, once there is one.
    pub report: Option<ReportDigest>,
    /// Number of validations that were requested.
    pub validations: u32,
    /// The candidate's generation, once it has one.
    pub generation: Option<u64>,
    /// When its canary must be over, even if the machine restarts meanwhile.
    pub trial_by: Option<Timestamp>,
    /// The version that was Previous before the candidate became Active.
    pub prior_previous: Option<Deployed>,
    /// What the present step or window waits for.
    pub waits_for: Option<Reason>,
    /// The target of an operator's rollback.
    pub target: Option<Deployed>,
    /// The operator or supervisor that decided the rollback, and why.
    pub rollback: Option<(String, Reason)>,
}

/// An open incident.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenIncident {
    /// Its id.
    pub id: IncidentId,
    /// The last finding.
    pub finding: super::event::Finding,
    /// First seen.
    pub first_seen: Timestamp,
    /// Last seen.
    pub last_seen: Timestamp,
    /// How many times it was found.
    pub occurrences: u64,
    /// The store path that showed it.
    pub store_path: String,
}

/// A commit with its tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Commit {
    /// In hex.
    pub rev: String,
    /// In hex.
    pub tree: String,
}

/// An operator's request for an evolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    pub(super) who: String,
    pub(super) rev: Option<String>,
    pub(super) blueprint: Option<String>,
}

/// Content that is never built, judged or promoted again unless an operator releases it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quarantined {
    /// The git tree.
    pub tree: String,
    /// The store path; empty if it was never built.
    pub store_path: String,
    /// The candidate with this content. An old snapshot has the evolution's id here instead.
    #[serde(alias = "evolution")]
    pub candidate: CandidateId,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub at: Timestamp,
}

impl Quarantined {
    /// True if `name` names this content: it is the candidate, its tree or its store path.
    pub fn answers_to(&self, name: &str) -> bool {
        !name.is_empty() && [&self.candidate.0, &self.tree, &self.store_path].into_iter().any(|known| known == name)
    }
}

/// Files that need no other evolution, although no version was promoted from them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// The git tree.
    pub(super) tree: String,
    /// The candidate of its evolution.
    pub(super) candidate: CandidateId,
    /// The store path that they build, if it was Active's. They need no evolution while Active has this store path.
    pub(super) same_as: Option<String>,
}

/// The evolution about a commit that ended last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ended {
    pub(super) evolution: EvolutionId,
    pub(super) rev: String,
    pub(super) tree: String,
}

/// An evolution that is tried again after a pause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PutOff {
    /// The incident's fingerprint, or the commit's tree.
    pub(super) of: String,
    /// Number of consecutive tries without a verdict.
    pub(super) tries: u32,
    /// The earliest time of the next try.
    pub(super) until: Timestamp,
    /// Why.
    pub(super) reason: Reason,
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Armed {
    /// When it is due.
    pub at: Timestamp,
    /// What it does then.
    pub reason: Reason,
}

/// The last numbers that were assigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub(super) evolution: u64,
    pub(super) incident: u64,
    pub(super) candidate: u64,
    pub(super) report: u64,
    pub(super) plan: u64,
}

/// A plan that is executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanUnderWay {
    /// The plan.
    pub(super) plan: Plan,
    /// How many times it was tried again.
    pub(super) tries: u32,
}

/// The facts that are kept in phase Held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// Why an operator is needed.
    pub(super) attention: Reason,
    /// The Active version of the journal.
    pub(super) by_journal: Option<Deployed>,
}

/// An evolution for an incident in which agents were asked, and which ended with a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tried {
    /// The incident's fingerprint.
    pub of: String,
    /// The evolution.
    pub evolution: EvolutionId,
    /// Its candidate.
    pub candidate: CandidateId,
    /// Digests of the tasks that its agents got.
    pub tasks: Vec<String>,
    /// Digests of the facts that they got from its context.
    pub facts: Vec<String>,
    /// Why their result was refused; `None` if they made no version that could be judged.
    pub refused: Option<Reason>,
}

impl Lifecycle {
    /// The present phase.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The time at which the present phase began.
    pub const fn phase_since(&self) -> Timestamp {
        self.phase_since
    }

    /// The version that serves.
    pub const fn active(&self) -> Option<&Deployed> {
        self.active.as_ref()
    }

    /// The slot that Active serves from.
    pub const fn active_slot(&self) -> Option<Slot> {
        self.active_slot
    }

    /// The version that served before.
    pub const fn previous(&self) -> Option<&Deployed> {
        self.previous.as_ref()
    }

    /// The state of a slot.
    pub const fn slot(&self, slot: Slot) -> &SlotState {
        &self.slots[slot.index()]
    }

    /// The routing of new connections.
    pub const fn routing(&self) -> Option<Routing> {
        self.routing
    }

    /// The evolution under way.
    pub const fn evolution(&self) -> Option<&Evolution> {
        self.evolution.as_ref()
    }

    /// The open incidents, by fingerprint.
    pub const fn incidents(&self) -> &BTreeMap<String, OpenIncident> {
        &self.incidents
    }

    /// The content in quarantine, oldest first.
    pub fn quarantine(&self) -> &[Quarantined] {
        &self.quarantine
    }

    /// Why an operator is needed.
    pub fn attention(&self) -> Option<&Reason> {
        self.held.as_ref().map(|held| &held.attention).or(self.attention.as_ref())
    }

    /// The commit that the followed ref named last. It is decided, or it waits, so a restarted supervisor need not
    /// report it again.
    pub fn followed(&self) -> Option<&str> {
        self.followed.as_deref()
    }

    /// True if an operator has paused evolutions.
    pub const fn paused(&self) -> bool {
        self.paused
    }

    /// The timers that are set.
    pub const fn timers(&self) -> &BTreeMap<Timer, Armed> {
        &self.timers
    }

    /// The versions that were confirmed, by generation.
    pub const fn known_good(&self) -> &BTreeMap<u64, Version> {
        &self.known_good
    }

    /// The policy in force.
    pub const fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// What the lifecycle waits for, and until when.
    pub fn waits_for(&self) -> (Option<Reason>, Option<Timestamp>) {
        let timers = [Timer::Window, Timer::Phase, Timer::Recheck, Timer::Retry];
        let deadline = timers.iter().find_map(|timer| self.timers.get(timer));
        let held = self.evolution.as_ref().and_then(|evolution| evolution.waits_for.clone());
        let reason = held.or_else(|| deadline.map(|armed| armed.reason.clone()));
        (reason, deadline.map(|armed| armed.at))
    }

    /// When the evolutions of the last hour began, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = Timestamp> {
        self.recent.iter().copied()
    }

    /// Fingerprints of open incidents whose budget is spent.
    pub fn spent_fingerprints(&self) -> Vec<String> {
        let per_incident = self.policy.as_ref().map_or(u64::MAX, |policy| policy.per_incident);
        let spent =
            self.attempts.iter().filter(|(print, count)| *count >= per_incident && self.incidents.contains_key(print));
        spent.map(|(fingerprint, _)| fingerprint.clone()).collect()
    }

    /// True if content is in quarantine, by tree or by store path.
    pub fn is_quarantined(&self, content: &str) -> bool {
        !content.is_empty() && self.quarantine.iter().any(|entry| entry.tree == content || entry.store_path == content)
    }

    /// The slot of the version under trial: in Canary the one that Active does not have, in Observing Active's.
    pub fn trial_slot(&self) -> Option<Slot> {
        let active = self.active_slot?;
        match self.phase {
            Phase::Canary { .. }
            | Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } }
            | Phase::Promoting { .. } => Some(active.other()),
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => Some(active),
            Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. }
            | Phase::Held => None,
        }
    }
}

impl OpenIncident {
    /// The incident as the Interface shows it.
    pub fn to_incident(&self, runtime: &str) -> RuntimeIncident {
        RuntimeIncident {
            schema: crate::interface::types::SCHEMA.to_owned(),
            id: self.id.clone(),
            class: self.finding.class,
            cause: self.finding.cause.clone(),
            severity: self.finding.severity,
            runtime: crate::interface::types::RuntimeRef {
                name: runtime.to_owned(),
                store_path: Some(self.store_path.clone()),
                ..Default::default()
            },
            fingerprint: self.finding.fingerprint.clone(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            occurrences: self.occurrences,
            summary: self.finding.summary.clone(),
            evidence: Vec::new(),
        }
    }
}
