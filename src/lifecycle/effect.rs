//! Effects: what the lifecycle wants done.

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::slot::Slot;
use crate::interface::types::{CandidateId, EvolutionId, IncidentId, MaintenanceAction, ReportId, Role, Version};
use crate::time::Timestamp;

/// Parts in a million: a share that can be compared and hashed.
pub const WHOLE_PPM: u32 = 1_000_000;

/// Where new connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Routing {
    /// The slot that Active serves from.
    pub main: Slot,
    /// The part of new connections that the other slot gets, in parts per million, below [`WHOLE_PPM`].
    pub other_ppm: u32,
}

impl Routing {
    /// All connections to one slot.
    pub const fn all(slot: Slot) -> Self {
        Self { main: slot, other_ppm: 0 }
    }

    /// The part of new connections that `slot` gets, in parts per million.
    pub const fn share_ppm(self, slot: Slot) -> u32 {
        if slot.index() == self.main.index() { WHOLE_PPM - self.other_ppm } else { self.other_ppm }
    }
}

/// A named timer; there is at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// The bound of the phase.
    Phase,
    /// The end of a canary step or of the observation window.
    Window,
    /// The next look, while a step or the window holds for want of data.
    Recheck,
    /// The end of the pause before a plan is tried again.
    Plan,
    /// The end of the pause before something is tried again that waits in Steady.
    Retry,
    /// The end of the backoff before the instance of slot A is started again.
    RestartA,
    /// The same for slot B.
    RestartB,
}

impl Timer {
    /// The backoff of a slot.
    pub const fn restart(slot: Slot) -> Self {
        match slot {
            Slot::A => Self::RestartA,
            Slot::B => Self::RestartB,
        }
    }
}

/// One step of a plan, with what it is when undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Make a generation the profile's current one.
    SwitchProfile {
        /// Current before; `None` for a new profile.
        from: Option<u64>,
        /// Current after.
        to: u64,
    },
    /// Send new connections elsewhere.
    Route {
        /// Before.
        from: Routing,
        /// After.
        to: Routing,
    },
}

impl Step {
    /// The step that takes this one back, if there is something to go back to.
    pub const fn undo(self) -> Option<Self> {
        match self {
            Self::SwitchProfile { from: Some(from), to } => Some(Self::SwitchProfile { from: Some(to), to: from }),
            Self::SwitchProfile { from: None, .. } => None,
            Self::Route { from, to } => Some(Self::Route { from: to, to: from }),
        }
    }
}

/// A fixed list of steps that are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// Its number; an answer that names another is stale.
    pub number: u64,
    /// The store path that it makes Active.
    pub store_path: String,
    /// The report that allows it; `None` for the first version and for a rollback.
    pub report: Option<ReportId>,
    /// Whether a step that fails takes back those before it. A rollback takes nothing back: each of its steps is better
    /// than none.
    pub undo: bool,
    /// What is done.
    pub steps: Vec<Step>,
}

/// What the record of an evolution's end says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Maintenance {
    /// What was done.
    pub action: MaintenanceAction,
    /// The evolution.
    pub evolution: Option<EvolutionId>,
    /// The incident.
    pub incident: Option<IncidentId>,
    /// The candidate.
    pub candidate: Option<CandidateId>,
    /// The report.
    pub report: Option<ReportId>,
    /// `supervisor` or `operator:NAME`.
    pub decided_by: String,
    /// Why.
    pub reason: Reason,
    /// Active before.
    pub from: Option<Version>,
    /// Active after.
    pub to: Option<Version>,
}

impl Maintenance {
    /// Whether it says the same as another, whatever the reasons are.
    fn decides_as(&self, other: &Self) -> bool {
        // Named one by one, so that a new field is not forgotten.
        let Self { action, evolution, incident, candidate, report, decided_by, reason: _, from, to } = self;
        (action, evolution, incident, candidate, report, decided_by, from, to)
            == (
                &other.action,
                &other.evolution,
                &other.incident,
                &other.candidate,
                &other.report,
                &other.decided_by,
                &other.from,
                &other.to,
            )
    }
}

/// One thing to do. Effects of one event are carried out in order, before the next event is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Collect the context; answered by `Diagnosed`.
    Diagnose {
        /// For this evolution.
        evolution: EvolutionId,
        /// And this incident.
        incident: Option<IncidentId>,
        /// The slot that Active serves from.
        #[serde(default)]
        slot: Option<Slot>,
        /// Active.
        #[serde(default)]
        active: Option<Version>,
    },
    /// Run the blueprint and build its commit; answered by `StageReached`, then `Built`, `BuildPaused` or
    /// `BuildFailed`.
    Build {
        /// For this evolution.
        evolution: EvolutionId,
        /// The candidate that it makes.
        candidate: CandidateId,
        /// The blueprint's name.
        blueprint: String,
        /// The commit to become, for an upgrade.
        rev: Option<String>,
        /// Where to go on.
        checkpoint: Option<String>,
        /// Whether an operator has approved what the checkpoint waits for.
        approved: bool,
    },
    /// Build the first version, without a blueprint; answered by `Built` or `BuildFailed`.
    Install {
        /// The evolution that stands for it.
        evolution: EvolutionId,
    },
    /// Judge a candidate against Active; answered by `Validated`.
    Validate {
        /// For this evolution.
        evolution: EvolutionId,
        /// The candidate.
        candidate: CandidateId,
        /// What it is.
        version: Version,
        /// The report's id.
        report: ReportId,
        /// What it is compared with: Active.
        #[serde(default)]
        active: Version,
        /// The incident that it is to repair.
        #[serde(default)]
        incident: Option<IncidentId>,
    },
    /// Stop whatever still works for this evolution; its answers are stale from now on.
    Cancel {
        /// The evolution.
        evolution: EvolutionId,
    },
    /// Make a generation of the profile, and the links that its switch and its undoing need; answered by
    /// `GenerationPrepared` or `GenerationFailed`.
    PrepareGeneration {
        /// The evolution that needs it; empty if an operator has said what is Active.
        #[serde(default)]
        evolution: EvolutionId,
        /// For this store path.
        store_path: String,
        /// The generation that a rollback would make current again: Active's, if it has one.
        #[serde(default)]
        way_back: Option<u64>,
    },
    /// Start an instance; answered by `Started`, then `Ready` or `Exited`, or by `StartFailed`.
    Start {
        /// In this slot.
        slot: Slot,
        /// Of this version.
        version: Version,
        /// Which is.
        role: Role,
    },
    /// Let the instance of a slot finish its requests, then end it; answered by `Stopped`, also if no instance is there.
    Stop {
        /// The slot.
        slot: Slot,
        /// Whether no new connections come to the slot: then the instance first empties the slot's queue.
        #[serde(default)]
        drain: bool,
    },
    /// Start an instance that empties the queue of a slot and then exits; answered by `Stopped`, `Exited` or
    /// `StartFailed`. Until then the slot is not free.
    Drain {
        /// The slot, which gets no new connections.
        slot: Slot,
        /// The version that serves what waits there: Active.
        version: Version,
    },
    /// Replace the instance of a slot by a fresh one of the same version and let the old one drain.
    Refresh {
        /// The slot.
        slot: Slot,
        /// The version.
        version: Version,
    },
    /// Execute a plan; answered by `PlanDone`, `PlanBusy` or `PlanFailed`. To do so twice is the same as once.
    #[serde(rename = "carry")]
    Execute(Plan),
    /// Send new connections there, wherever they go now.
    Route {
        /// Where.
        routing: Routing,
    },
    /// Put routing and profile into this state, whatever they are: after a restart.
    Restore {
        /// Routing.
        routing: Routing,
        /// The profile's generation. In format 1.1 there may be none, and the effect is a [`Route`](Self::Route).
        generation: Option<u64>,
    },
    /// Begin the trial of a version. A verdict of failure is reported at once, without `Judge`.
    Observe {
        /// Where it runs.
        slot: Slot,
        /// The slot to compare it with, if one serves beside it.
        baseline: Option<Slot>,
    },
    /// Say what the evidence is now; answered by `Judged`.
    Judge,
    /// Set a timer, in place of one of the same name.
    SetTimer {
        /// Its name.
        timer: Timer,
        /// When it is due.
        at: Timestamp,
        /// What happens then.
        reason: Reason,
    },
    /// Unset a timer.
    ClearTimer {
        /// Its name.
        timer: Timer,
    },
    /// Delete generations of the profile that nothing needs.
    Prune {
        /// The newest that are kept.
        keep: u64,
        /// Kept besides.
        in_use: Vec<u64>,
    },
    /// Write down how an evolution ended, or that Active was started again.
    Record(Maintenance),
    /// There is nothing to supervise, and there will be nothing.
    GiveUp {
        /// Why.
        reason: Reason,
    },
}

impl Effect {
    /// The effect that sets the routing, and the profile as well if a generation is given.
    pub(super) const fn put_in_place(routing: Routing, generation: Option<u64>) -> Self {
        match generation {
            Some(_) => Self::Restore { routing, generation },
            None => Self::Route { routing },
        }
    }

    /// Whether two effects are the same decision. Their reasons may differ, as a reason decides nothing. Facts may differ that
    /// an effect only copies from the state, so that it can be executed without the state.
    pub fn decides_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SetTimer { timer, at, reason: _ }, Self::SetTimer { timer: others, at: others_at, reason: _ }) => {
                (timer, at) == (others, others_at)
            }
            (Self::Record(maintenance), Self::Record(others)) => maintenance.decides_as(others),
            (Self::GiveUp { reason: _ }, Self::GiveUp { reason: _ }) => true,
            // Copies of facts of the state, which an earlier rei has not recorded.
            (Self::Stop { slot, drain: _ }, Self::Stop { slot: others, drain: _ }) => slot == others,
            (
                Self::Diagnose { evolution, incident, slot: _, active: _ },
                Self::Diagnose { evolution: others, incident: others_incident, slot: _, active: _ },
            ) => (evolution, incident) == (others, others_incident),
            (
                Self::Validate { evolution, candidate, version, report, active: _, incident: _ },
                Self::Validate {
                    evolution: others,
                    candidate: others_candidate,
                    version: others_version,
                    report: others_report,
                    active: _,
                    incident: _,
                },
            ) => (evolution, candidate, version, report) == (others, others_candidate, others_version, others_report),
            (
                Self::PrepareGeneration { evolution: _, store_path, way_back: _ },
                Self::PrepareGeneration { evolution: _, store_path: others, way_back: _ },
            ) => store_path == others,
            // The same effect had another name before format 1.2.
            (Self::Route { routing }, Self::Restore { routing: others, generation: None })
            | (Self::Restore { routing, generation: None }, Self::Route { routing: others }) => routing == others,
            _ => self == other,
        }
    }
}
