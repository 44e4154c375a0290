//! Requests of operators: checks whether a request is allowed in the present phase, and executes it.

use super::deployed::Deployed;
use super::effect::Timer;
use super::event::{Caller, Request};
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, Asked, Evolution, Lifecycle, Phase, RollbackStage, RunState};
use super::step::Out;
use crate::interface::types::{EvolutionId, Role};

/// Why a request is refused now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller is no operator.
    #[error("process {pid} does not belong to an operator: it may belong to an instance or an agent")]
    NotAllowed {
        /// The process.
        pid: u32,
    },
    /// It does not fit the phase.
    #[error("cannot {what} in phase {phase}")]
    WrongPhase {
        /// The requested action.
        what: &'static str,
        /// The phase's name.
        phase: &'static str,
        /// What the operator can do instead.
        hint: &'static str,
    },
    /// No item has that name.
    #[error("there is no {what} {name}")]
    NotFound {
        /// The kind of item.
        what: &'static str,
        /// The name.
        name: String,
        /// Where the operator finds the names.
        hint: &'static str,
    },
    /// The content may not be used.
    #[error("{content} is in quarantine")]
    Quarantined {
        /// Tree, commit or store path.
        content: String,
    },
}

impl Refusal {
    /// The next step for the operator.
    pub fn hint(&self) -> &str {
        match self {
            Self::NotAllowed { .. } => "call from a process without no_new_privs",
            Self::WrongPhase { hint, .. } | Self::NotFound { hint, .. } => hint,
            Self::Quarantined { .. } => "`rei show quarantine` says why; `rei lift CONTENT` releases it",
        }
    }
}

impl Lifecycle {
    /// Why a request would be refused now; `None` when [`super::Event::Operator`] with it would do something.
    pub fn refusal(&self, who: &Caller, request: &Request) -> Option<Refusal> {
        match who {
            Caller::Operator(_) => self.refuse(request),
            Caller::Supervised { pid } => Some(Refusal::NotAllowed { pid: *pid }),
        }
    }

    fn refuse(&self, request: &Request) -> Option<Refusal> {
        match request {
            Request::Evolve { rev, .. } => self.refuse_evolve(rev.as_deref()),
            Request::Approve { id } => self.refuse_approve(id),
            Request::Reject { id, .. } => self.refuse_reject(id),
            Request::Rollback { to } => self.refuse_rollback(*to),
            Request::Pause | Request::Resume => None,
            Request::Settle { trust, .. } => self.refuse_settle(*trust),
            Request::Release { content } if self.quarantine.iter().any(|entry| entry.answers_to(content)) => None,
            Request::Release { content } => Some(Refusal::NotFound {
                what: "quarantined content",
                name: content.clone(),
                hint: "`rei show quarantine` lists it",
            }),
        }
    }

    /// The evolution that already does what an operator requests, or that has just decided it. rei follows a ref, so
    /// the evolution may have begun before the request.
    pub fn answers(&self, who: &Caller, request: &Request) -> Option<&EvolutionId> {
        const ABBREVIATION_MIN: usize = 7; // git's own minimum
        let Caller::Operator(_) = who else { return None };
        let Request::Evolve { rev, blueprint } = request else { return None };
        let is_asked = |of: &str| match rev {
            Some(asked) => asked.len() >= ABBREVIATION_MIN && of.starts_with(asked.as_str()),
            None => self.followed.as_deref() == Some(of),
        };
        let Some(current) = &self.evolution else {
            let last = self.last.as_ref().filter(|_| blueprint.is_none() && rev.is_some())?;
            return (is_asked(&last.rev) && self.is_decided(&last.tree)).then_some(&last.evolution);
        };
        let same_rev = current.rev.as_deref().is_some_and(is_asked);
        let same_blueprint = blueprint.as_ref().is_none_or(|asked| *asked == current.blueprint);
        let goes_back = matches!(self.phase, Phase::RollingBack { .. });
        (same_rev && same_blueprint && !goes_back).then_some(&current.id)
    }

    fn refuse_evolve(&self, rev: Option<&str>) -> Option<Refusal> {
        if let Some(rev) = rev.filter(|rev| self.is_quarantined(rev)) {
            return Some(Refusal::Quarantined { content: rev.to_owned() });
        }
        let hint = match self.phase {
            Phase::Held => Self::held_hint(),
            _ => "wait for its end (`rei status --watch`), or end it (`rei reject ID`)",
        };
        let busy = Refusal::WrongPhase { what: "begin an evolution", phase: self.phase.name(), hint };
        (self.phase != Phase::Steady || self.asked.is_some()).then_some(busy)
    }

    fn names_evolution(&self, id: &str) -> bool {
        self.evolution.as_ref().is_some_and(|current| {
            current.id.0 == id
                || current.candidate.0 == id
                || current.report.as_ref().is_some_and(|report| report.id.0 == id)
        })
    }

    fn refuse_approve(&self, id: &str) -> Option<Refusal> {
        let hint = "`rei status` says what waits for approval";
        if !matches!(self.phase, Phase::AwaitingApproval { .. }) {
            return Some(Refusal::WrongPhase { what: "approve", phase: self.phase.name(), hint });
        }
        let not_found = Refusal::NotFound { what: "waiting evolution", name: id.to_owned(), hint };
        (!self.names_evolution(id)).then_some(not_found)
    }

    fn refuse_reject(&self, id: &str) -> Option<Refusal> {
        if self.incidents.values().any(|open| open.id.0 == id) {
            return None;
        }
        let hint = "`rei status` names the current evolution and the open incidents";
        if !self.names_evolution(id) {
            return Some(Refusal::NotFound { what: "current evolution or open incident", name: id.to_owned(), hint });
        }
        let done = matches!(self.phase, Phase::RollingBack { .. } | Phase::Installing);
        done.then_some(Refusal::WrongPhase { what: "reject", phase: self.phase.name(), hint })
    }

    fn refuse_rollback(&self, to: Option<u64>) -> Option<Refusal> {
        let hint = "`rei history` lists the generations that once were confirmed";
        match self.phase {
            Phase::Canary { .. } | Phase::Promoting { .. } | Phase::Observing { .. } => {
                let target = self.trial_target().map(|target| target.generation);
                let other = Refusal::WrongPhase {
                    what: "roll back to another generation than Previous",
                    phase: self.phase.name(),
                    hint: "roll back without --to first",
                };
                (to.is_some() && to != target).then_some(other)
            }
            Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } | Approval::Observation } => None,
            Phase::Steady => {
                let Some(target) = self.steady_target(to) else {
                    let name = to.map_or_else(|| "Previous".to_owned(), |to| format!("generation {to}"));
                    return Some(Refusal::NotFound { what: "known-good version at", name, hint });
                };
                // Another commit with the same build may have failed since.
                let content = target.version.store_path;
                self.is_quarantined(&content).then_some(Refusal::Quarantined { content })
            }
            Phase::Empty
            | Phase::Installing
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. } => Some(Refusal::WrongPhase {
                what: "roll back",
                phase: self.phase.name(),
                hint: "Active serves; end the evolution first (`rei reject ID`)",
            }),
            Phase::Held => {
                Some(Refusal::WrongPhase { what: "roll back", phase: self.phase.name(), hint: Self::held_hint() })
            }
        }
    }

    /// The version that a rollback of the present trial restores.
    fn trial_target(&self) -> Option<&Deployed> {
        match self.phase {
            Phase::Observing { .. } => self.previous.as_ref(),
            _ => self.active.as_ref(),
        }
    }

    fn steady_target(&self, to: Option<u64>) -> Option<Deployed> {
        let active = self.active.as_ref()?;
        let target = match to {
            None => self.previous.clone()?,
            Some(generation) => {
                let version = self.known_good.get(&generation)?.clone();
                Deployed { version, generation }
            }
        };
        (target.version.store_path != active.version.store_path).then_some(target)
    }

    pub(super) fn on_operator(&mut self, out: &mut Out, who: Caller, request: Request) {
        if self.refusal(&who, &request).is_some() {
            return;
        }
        let Caller::Operator(name) = who else { return };
        let by = format!("operator:{name}");
        match request {
            Request::Evolve { rev, blueprint } => self.asked = Some(Asked { who: by, rev, blueprint }),
            Request::Approve { .. } => self.approve(out, &by),
            Request::Reject { id, reason } => self.reject(out, &by, &id, reason.into()),
            Request::Rollback { to } => self.operator_rollback(out, by, to),
            Request::Pause => self.paused = true,
            Request::Resume => {
                self.paused = false;
                self.attention = None;
                self.attempts.clear();
                self.put_off.clear();
                self.agent_runs.clear();
                self.tried.clear();
                self.recent.clear();
            }
            Request::Release { content } => self.release(&content),
            Request::Settle { trust, reason } => self.settle(out, by, trust, reason),
        }
    }

    fn approve(&mut self, out: &mut Out, by: &str) {
        let Phase::AwaitingApproval { of } = self.phase else { return };
        match of {
            Approval::Stage => self.go_on_building(out),
            Approval::Promotion => self.begin_canary(out),
            Approval::Shadow | Approval::Canary { .. } => self.go_on(out, Reason::ApprovedBy { by: by.to_owned() }),
            Approval::Observation => self.confirm(out, by, Reason::ApprovedWithTooLittleData),
        }
    }

    fn reject(&mut self, out: &mut Out, by: &str, id: &str, reason: Reason) {
        if !self.names_evolution(id) {
            self.incidents.retain(|_, open| open.id.0 != id);
            return;
        }
        match self.phase {
            Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion } => {
                self.quarantine_candidate(out, &reason);
                self.end_rejected(out, by, reason);
            }
            Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::Observing { .. }
            | Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } | Approval::Observation } => {
                self.degraded(out, by, reason);
            }
            Phase::Empty | Phase::Installing | Phase::Steady | Phase::RollingBack { .. } | Phase::Held => {}
        }
    }

    fn operator_rollback(&mut self, out: &mut Out, by: String, to: Option<u64>) {
        if self.phase != Phase::Steady {
            self.degraded(out, &by, Reason::AsAsked);
            return;
        }
        let (Some(target), Some(left)) = (self.steady_target(to), self.active.clone()) else { return };
        self.counters.evolution += 1;
        let id = EvolutionId::numbered(self.counters.evolution);
        let evolution = Evolution {
            id,
            asked_by: Some(by.clone()),
            since: out.at,
            version: Some(left.version),
            target: Some(target),
            rollback: Some((by, Reason::AsAsked)),
            ..Evolution::default()
        };
        self.begin_rollback(out, evolution);
    }

    /// Begins a rollback whose target may have to be started first.
    pub(super) fn begin_rollback(&mut self, out: &mut Out, evolution: Evolution) {
        self.evolution = Some(evolution);
        if !self.rules().overlap {
            self.target_is_ready(out);
            return;
        }
        self.counters.plan += 1;
        self.enter(out, Phase::RollingBack { plan: self.counters.plan, stage: RollbackStage::Starting });
        let bounds = self.rules().bounds;
        self.arm(out, Timer::Phase, bounds.stop_ms + bounds.start_ms, Reason::GivesUpRollback);
        self.start_target(out);
    }

    /// Starts the target of an operator's rollback once its slot is free.
    pub(super) fn start_target(&mut self, out: &mut Out) {
        let Some(slot) = self.active_slot.map(Slot::other) else { return };
        let target = self.evolution.as_ref().and_then(|current| current.target.clone());
        let Some(target) = target else { return };
        match self.slots[slot.index()].run {
            RunState::Down => self.start(out, slot, target.version, Role::Previous),
            RunState::Starting | RunState::Ready | RunState::Backoff => self.stop(out, slot),
            RunState::Stopping | RunState::Draining => {}
        }
    }

    pub(super) fn target_is_ready(&mut self, out: &mut Out) {
        let target = self.evolution.as_ref().and_then(|current| current.target.clone());
        if let Some(target) = target {
            // The followed ref still names the version that is left. That version must not become Active again by
            // itself.
            self.quarantine_candidate(out, &Reason::RolledBackByOperator);
            self.roll_back_to(out, target);
        }
    }

    /// The target of an operator's rollback did not start, so Active stays.
    pub(super) fn abandon_target(&mut self, out: &mut Out) {
        self.attention = Some(Reason::RollbackTargetNotReady);
        self.end_rejected(out, super::step::SUPERVISOR, Reason::TargetNotReady);
        if let Some(slot) = self.active_slot.map(Slot::other) {
            self.stop(out, slot);
        }
    }
}
