//! Effects: the actions that the supervisor executes for the lifecycle.

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::slot::Slot;
use crate::interface::types::{CandidateId, EvolutionId, IncidentId, MaintenanceAction, ReportId, Role, Version};
use crate::time::Timestamp;

/// Parts in a million: a share that can be compared and hashed.
pub const WHOLE_PPM: u32 = 1_000_000;

/// The slots that get new connections.
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
    /// The next verdict, while a step or the window waits because of missing data.
    Recheck,
    /// The end of the pause before a plan is tried again.
    Plan,
    /// The end of the pause before an evolution that waits in Steady is tried again.
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

/// One step of a plan, with the state to restore if it is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Make a generation the profile's current one.
    SwitchProfile {
        /// The current generation before; `None` for a new profile.
        from: Option<u64>,
        /// The current generation after.
        to: u64,
    },
    /// Change the slots that get new connections.
    Route {
        /// The routing before.
        from: Routing,
        /// The routing after.
        to: Routing,
    },
}

impl Step {
    /// The step that undoes this one; `None` if there is no earlier state.
    pub const fn undo(self) -> Option<Self> {
        match self {
            Self::SwitchProfile { from: Some(from), to } => Some(Self::SwitchProfile { from: Some(to), to: from }),
            Self::SwitchProfile { from: None, .. } => None,
            Self::Route { from, to } => Some(Self::Route { from: to, to: from }),
        }
    }
}

/// A fixed list of steps that are executed in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// Its number; an answer that names another is stale.
    pub number: u64,
    /// The store path that it makes Active.
    pub store_path: String,
    /// The report that allows it; `None` for the first version and for a rollback.
    pub report: Option<ReportId>,
    /// True if the failure of a step undoes the steps before it. A rollback undoes no step: each of its steps is better
    /// than none.
    pub undo: bool,
    /// The steps.
    pub steps: Vec<Step>,
}

/// The content of the maintenance record about an evolution's end.
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
    /// True if it equals another one, without regard to the reasons.
    fn decides_as(&self, other: &Self) -> bool {
        // Every field is named, so that the compiler reports a new field.
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

/// One action. The supervisor executes the effects of one event in order, before it takes the next event.
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
        /// The checkpoint from which the blueprint continues.
        checkpoint: Option<String>,
        /// True if an operator has approved the stage that the checkpoint waits at.
        approved: bool,
    },
    /// Build the first version, without a blueprint; answered by `Built` or `BuildFailed`.
    Install {
        /// The evolution of the first version.
        evolution: EvolutionId,
    },
    /// Judge a candidate against Active; answered by `Validated`.
    Validate {
        /// For this evolution.
        evolution: EvolutionId,
        /// The candidate.
        candidate: CandidateId,
        /// The version of the candidate.
        version: Version,
        /// The report's id.
        report: ReportId,
        /// The version to compare it with: Active.
        #[serde(default)]
        active: Version,
        /// The incident that it must repair.
        #[serde(default)]
        incident: Option<IncidentId>,
    },
    /// Stop all jobs of this evolution; their answers are stale from now on.
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
        /// The version.
        role: Role,
    },
    /// Let the instance of a slot finish its requests, then end it; answered by `Stopped`, also if no instance is
    /// there.
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
    /// Replace the instance of a slot by a new one of the same version, and let the old one drain.
    Refresh {
        /// The slot.
        slot: Slot,
        /// The version.
        version: Version,
    },
    /// Execute a plan; answered by `PlanDone`, `PlanBusy` or `PlanFailed`. Executing it twice has the same result as
    /// once.
    #[serde(rename = "carry")]
    Execute(Plan),
    /// Set the routing of new connections, whatever the present routing is.
    Route {
        /// Where.
        routing: Routing,
    },
    /// After a restart: set routing and profile, whatever their present states are.
    Restore {
        /// Routing.
        routing: Routing,
        /// The profile's generation. In format 1.1 there may be none, and the effect is a [`Route`](Self::Route).
        generation: Option<u64>,
    },
    /// Begin the trial of a version. A verdict of failure is reported at once, without `Judge`.
    Observe {
        /// The slot in which it runs.
        slot: Slot,
        /// The slot to compare it with, if one serves beside it.
        baseline: Option<Slot>,
    },
    /// Begin the trial of a version that gets no connections of users: ask it and Active once more what users ask Active. A
    /// verdict of failure is reported at once, without `Judge`.
    Shadow {
        /// The slot in which it runs.
        slot: Slot,
        /// The slot that Active serves from.
        active: Slot,
    },
    /// Judge the present evidence; answered by `Judged`.
    Judge,
    /// Set a timer. It replaces a timer with the same name.
    SetTimer {
        /// Its name.
        timer: Timer,
        /// When it is due.
        at: Timestamp,
        /// What happens then.
        reason: Reason,
    },
    /// Clear a timer.
    ClearTimer {
        /// Its name.
        timer: Timer,
    },
    /// Delete the generations of the profile that are not needed.
    Prune {
        /// The number of newest generations that are kept.
        keep: u64,
        /// Other generations that are kept.
        in_use: Vec<u64>,
    },
    /// Record how an evolution ended, or that Active was started again.
    Record(Maintenance),
    /// Give up: there is no version to supervise, and there will be none.
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

    /// True if two effects are the same decision. Their reasons may differ, as a reason decides nothing. Facts may
    /// differ that an effect only copies from the state, so that it can be executed without the state.
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
