//! From a judged candidate to a confirmed or restored one: Canary, Promoting, Observing, RollingBack.

use super::deployed::Deployed;
use super::effect::{Effect, Plan, Routing, Step, Timer};
use super::policy::{CanaryStep, OnInconclusive, Standby};
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, CanaryStage, Lifecycle, ObservationStage, Phase, RollbackStage, RunState};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{MaintenanceAction, Role, Verdict, Version};

/// How long a plan may take, in milliseconds: it switches a symlink and a few sockets. If it takes longer, the machine
/// is in trouble.
pub(super) const PLAN_MS: u64 = 10_000;

impl Lifecycle {
    /// The candidate's slot: the one that Active does not use. With strategy recreate it is Active's slot, so that
    /// connections wait in one queue.
    fn candidate_slot(&self) -> Slot {
        match self.active_slot {
            Some(slot) if self.rules().overlap => slot.other(),
            Some(slot) => slot,
            None => Slot::A,
        }
    }

    fn candidate_version(&self) -> Version {
        let version = self.evolution.as_ref().and_then(|current| current.version.clone());
        version.expect("a trial has a built candidate")
    }

    pub(super) fn begin_canary(&mut self, out: &mut Out) {
        self.enter(out, Phase::Canary { stage: CanaryStage::Preparing });
        let bounds = self.rules().bounds;
        let steps: u64 = self.rules().canary.iter().map(|step| step.for_ms + self.rules().hold_ms).sum();
        let shadow = self.rules().shadow_ms.map_or(0, |for_ms| for_ms + self.rules().hold_ms);
        let trial_by = out.at.plus_ms(bounds.stop_ms + bounds.start_ms + shadow + steps + PLAN_MS);
        if let Some(current) = &mut self.evolution {
            current.trial_by.get_or_insert(trial_by);
        }
        self.arm(out, Timer::Phase, bounds.stop_ms + bounds.start_ms, Reason::GivesUpCandidate);
        self.prepare_generation(out, self.candidate_version().store_path);
        self.start_candidate(out);
    }

    /// Asks for a generation of the profile, and for the links that a rollback from it needs.
    pub(super) fn prepare_generation(&self, out: &mut Out, store_path: String) {
        let evolution = self.evolution.as_ref().map(|current| current.id.clone()).unwrap_or_default();
        let way_back = self.active.as_ref().map(|active| active.generation).filter(|generation| *generation > 0);
        out.push(Effect::PrepareGeneration { evolution, store_path, way_back });
    }

    /// Starts the candidate in its slot once the slot is free; with strategy recreate it starts after the switch.
    pub(super) fn start_candidate(&mut self, out: &mut Out) {
        if !self.rules().overlap {
            return;
        }
        let slot = self.candidate_slot();
        match self.slots[slot.index()].run {
            RunState::Down => {
                let version = self.candidate_version();
                self.start(out, slot, version, Role::Candidate);
            }
            RunState::Stopping | RunState::Draining => {}
            RunState::Starting | RunState::Ready | RunState::Backoff => self.stop(out, slot),
        }
    }

    pub(super) fn on_generation(&mut self, out: &mut Out, store_path: &str, generation: u64) {
        if self.active_has_generation(out, store_path, generation) {
            return;
        }
        let expected = self
            .evolution
            .as_mut()
            .filter(|current| current.version.as_ref().is_some_and(|version| version.store_path == store_path));
        let Some(current) = expected else { return };
        current.generation = Some(generation);
        match self.phase {
            Phase::Installing => {
                let bound = self.rules().bounds.start_ms;
                self.arm(out, Timer::Phase, bound, Reason::GivesUpFirstStart);
                self.install(out);
            }
            Phase::Canary { stage: CanaryStage::Preparing } => self.maybe_begin_shares(out),
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::Observing { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn on_generation_failed(&mut self, out: &mut Out, store_path: &str, reason: String) {
        let expected = self.evolution.as_ref().and_then(|it| it.version.as_ref()).map(|it| it.store_path.clone());
        if expected.as_deref() != Some(store_path) {
            return;
        }
        if self.phase == Phase::Installing {
            self.give_up(out, reason.into());
        } else if matches!(self.phase, Phase::Canary { stage: CanaryStage::Preparing }) {
            self.put_candidate_off(out, reason.into());
        }
    }

    /// The first version: its generation becomes current and it starts; it is Active once it serves.
    pub(super) fn install(&mut self, out: &mut Out) {
        let slot = Slot::A;
        let Some(generation) = self.evolution.as_ref().and_then(|current| current.generation) else { return };
        let version = self.candidate_version();
        self.routing = Some(Routing::all(slot));
        out.push(Effect::Restore { routing: Routing::all(slot), generation: Some(generation) });
        if self.slots[slot.index()].run == RunState::Down {
            self.start(out, slot, version, Role::Candidate);
        }
    }

    /// Begins the trial as soon as the candidate is ready and its generation exists.
    pub(super) fn maybe_begin_shares(&mut self, out: &mut Out) {
        let prepared = self.evolution.as_ref().is_some_and(|current| current.generation.is_some());
        if !prepared || !matches!(self.phase, Phase::Canary { stage: CanaryStage::Preparing }) {
            return;
        }
        if !self.rules().overlap {
            let Some(active) = self.active_slot else { return };
            self.enter(out, Phase::Canary { stage: CanaryStage::Stopping });
            let bound = self.rules().bounds.stop_ms;
            self.arm(out, Timer::Phase, bound, Reason::LetsActiveGoOn);
            self.stop(out, active);
        } else if self.slots[self.candidate_slot().index()].run == RunState::Ready {
            self.begin_shadow(out);
        }
    }

    pub(super) fn begin_share(&mut self, out: &mut Out, index: usize) {
        let rules = self.rules();
        let Some(step) = rules.canary.get(index).copied() else {
            self.begin_promotion(out);
            return;
        };
        let hold_ms = rules.hold_ms;
        self.enter(out, Phase::Canary { stage: CanaryStage::Share { index, judging: false } });
        self.arm(out, Timer::Phase, step.for_ms + hold_ms, Reason::EndsWaitForData);
        self.give_share(out, step, index);
    }

    /// Gives the candidate the share of a step, and gathers data from now on.
    pub(super) fn give_share(&mut self, out: &mut Out, step: CanaryStep, index: usize) {
        let Some(active) = self.active_slot else { return };
        self.phase = Phase::Canary { stage: CanaryStage::Share { index, judging: false } };
        self.arm_window(out, step.for_ms, Reason::JudgesCanary { share_ppm: step.share_ppm });
        let routing = Routing { main: active, other_ppm: step.share_ppm };
        self.routing = Some(routing);
        out.push(Effect::Route { routing });
        out.push(Effect::Observe { slot: active.other(), baseline: Some(active) });
    }

    /// Sets the time in which data are gathered. It ends at the deadline of the phase at the latest.
    pub(super) fn arm_window(&mut self, out: &mut Out, for_ms: u64, reason: Reason) {
        self.clear(out, Timer::Recheck);
        let end = out.at.plus_ms(for_ms);
        let deadline = self.timers.get(&Timer::Phase).map_or(end, |armed| armed.at);
        self.arm_at(out, Timer::Window, end.min(deadline), reason);
    }

    /// Begins the switch to the candidate.
    pub(super) fn begin_promotion(&mut self, out: &mut Out) {
        self.enter(out, Phase::Promoting { plan: self.counters.plan });
        self.arm(out, Timer::Phase, PLAN_MS, Reason::UndoesSwitch);
        self.execute_promotion(out);
    }

    /// Asks for the plan that makes the candidate Active.
    pub(super) fn execute_promotion(&mut self, out: &mut Out) {
        let (Some(active), Some(current)) = (self.active.clone(), self.evolution.as_ref()) else { return };
        let Some(generation) = current.generation else { return };
        let report = current.report.as_ref().map(|report| report.id.clone());
        let slot = self.candidate_slot();
        let from = self.routing.unwrap_or(Routing::all(slot));
        self.counters.plan += 1;
        let plan = Plan {
            number: self.counters.plan,
            store_path: self.candidate_version().store_path,
            report,
            undo: true,
            steps: vec![
                Step::SwitchProfile { from: Some(active.generation), to: generation },
                Step::Route { from, to: Routing::all(slot) },
            ],
        };
        self.phase = Phase::Promoting { plan: plan.number };
        self.hand_out(out, plan);
    }

    /// Makes the candidate Active.
    pub(super) fn promoted(&mut self, out: &mut Out) {
        let slot = self.candidate_slot();
        let version = self.candidate_version();
        let current = self.evolution.as_mut().expect("a promotion belongs to an evolution");
        let generation = current.generation.expect("a promotion has a generation");
        current.prior_previous = self.previous.take();
        self.previous = self.active.replace(Deployed { version: version.clone(), generation });
        self.active_slot = Some(slot);
        self.routing = Some(Routing::all(slot));
        if self.rules().overlap {
            match (self.rules().standby, self.previous.clone()) {
                (Standby::Keep, _) | (_, None) => {}
                (Standby::Fresh, Some(previous)) => {
                    out.push(Effect::Refresh { slot: slot.other(), version: previous.version });
                }
                (Standby::Cold, Some(_)) => self.stop(out, slot.other()),
            }
            self.begin_window(out);
        } else {
            self.enter(out, Phase::Observing { stage: ObservationStage::Starting });
            let bound = self.rules().bounds.start_ms;
            self.arm(out, Timer::Phase, bound, Reason::RestoresPrevious);
            self.start(out, slot, version, Role::Active);
        }
    }

    pub(super) fn begin_window(&mut self, out: &mut Out) {
        let (observe_ms, hold_ms) = (self.rules().observe_ms, self.rules().hold_ms);
        self.enter(out, Phase::Observing { stage: ObservationStage::Window { judging: false } });
        self.arm(out, Timer::Phase, observe_ms + hold_ms, Reason::EndsWaitForData);
        self.observe_window(out);
    }

    /// Gathers data for the window from now on.
    pub(super) fn observe_window(&mut self, out: &mut Out) {
        let Some(slot) = self.active_slot else { return };
        self.phase = Phase::Observing { stage: ObservationStage::Window { judging: false } };
        self.arm_window(out, self.rules().observe_ms, Reason::ConfirmsPromotion);
        out.push(Effect::Observe { slot, baseline: None });
    }

    pub(super) fn on_window_over(&mut self, out: &mut Out) {
        match &mut self.phase {
            Phase::Canary { stage: CanaryStage::Shadow { judging } | CanaryStage::Share { judging, .. } }
            | Phase::Observing { stage: ObservationStage::Window { judging } } => {
                *judging = true;
                out.push(Effect::Judge);
            }
            Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Promoting { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn on_recheck(&mut self, out: &mut Out) {
        match self.phase {
            Phase::Canary {
                stage: CanaryStage::Shadow { judging: true } | CanaryStage::Share { judging: true, .. },
            }
            | Phase::Observing { stage: ObservationStage::Window { judging: true } }
            | Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } | Approval::Observation } => {
                out.push(Effect::Judge);
            }
            Phase::RollingBack { stage: RollbackStage::Switching, .. } => self.execute_rollback(out),
            Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::Promoting { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn on_judged(&mut self, out: &mut Out, verdict: Verdict, reason: String) {
        // No version is under trial, or the time of the trial is not over and there is no fault.
        let Some(judging) = self.trial_is_judged() else { return };
        let reason = Reason::Text(reason);
        match verdict {
            Verdict::Fail => self.degraded(out, SUPERVISOR, reason),
            Verdict::Pass if judging => self.go_on(out, reason),
            Verdict::Inconclusive if judging => {
                self.wait(reason.clone());
                let recheck_ms = self.rules().bounds.recheck_ms;
                self.arm(out, Timer::Recheck, recheck_ms, reason);
            }
            Verdict::Pass | Verdict::Inconclusive => {}
        }
    }

    /// `Some` if a version is under trial; the value says whether the time of the trial is over.
    const fn trial_is_judged(&self) -> Option<bool> {
        match self.phase {
            Phase::Canary { stage: CanaryStage::Shadow { judging } | CanaryStage::Share { judging, .. } }
            | Phase::Observing { stage: ObservationStage::Window { judging } } => Some(judging),
            Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } | Approval::Observation } => {
                Some(true)
            }
            Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::Promoting { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => None,
        }
    }

    /// The step or window ended well.
    pub(super) fn go_on(&mut self, out: &mut Out, reason: Reason) {
        match self.phase {
            Phase::Canary { stage: CanaryStage::Shadow { .. } } | Phase::AwaitingApproval { of: Approval::Shadow } => {
                self.begin_share(out, 0)
            }
            Phase::Canary { stage: CanaryStage::Share { index, .. } }
            | Phase::AwaitingApproval { of: Approval::Canary { index } } => self.begin_share(out, index + 1),
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => {
                self.confirm(out, SUPERVISOR, reason);
            }
            Phase::Canary { .. }
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::Promoting { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn confirm(&mut self, out: &mut Out, by: &str, reason: Reason) {
        self.remember_asked(None);
        self.record(out, MaintenanceAction::Promoted, by, reason);
        for deployed in self.active.iter().chain(&self.previous) {
            self.known_good.insert(deployed.generation, deployed.version.clone());
        }
        self.close_incident();
        self.attention = None;
        if let Some(slot) =
            self.active_slot.map(Slot::other).filter(|slot| self.slots[slot.index()].run != RunState::Down)
        {
            self.stop(out, slot);
        }
        self.end_evolution(out);
        self.prune(out);
    }

    /// The deadline of a trial has passed.
    pub(super) fn on_trial_deadline(&mut self, out: &mut Out) {
        let approval = match self.phase {
            Phase::Canary { stage: CanaryStage::Shadow { .. } } => Approval::Shadow,
            Phase::Canary { stage: CanaryStage::Share { index, .. } } => Approval::Canary { index },
            Phase::Observing { stage: ObservationStage::Window { .. } } => Approval::Observation,
            Phase::Observing { stage: ObservationStage::Starting } => {
                self.degraded(out, SUPERVISOR, Reason::NotReadyInTime);
                return;
            }
            Phase::RollingBack { .. } => {
                self.rollback_failed(out);
                return;
            }
            Phase::Promoting { .. } => {
                self.degraded(out, SUPERVISOR, Reason::SwitchLate);
                return;
            }
            Phase::Canary { stage: CanaryStage::Preparing | CanaryStage::Stopping } => {
                let reason = Reason::NotReadyInTime;
                self.quarantine_candidate(out, &reason);
                self.abandon_candidate(out, SUPERVISOR, reason);
                return;
            }
            Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Held => return,
        };
        let missing = self.evolution.as_ref().and_then(|current| current.waits_for.clone());
        let missing = missing.unwrap_or(Reason::TooLittleData);
        let policy = self.rules().on_inconclusive;
        let decided = || Reason::TooLittleDataAnd { missing: missing.clone().boxed(), policy };
        match policy {
            OnInconclusive::Promote => self.go_on(out, decided()),
            OnInconclusive::Revert => self.degraded(out, SUPERVISOR, decided()),
            OnInconclusive::Ask => {
                self.enter(out, Phase::AwaitingApproval { of: approval });
                self.wait(Reason::DecisionOrData { missing: missing.clone().boxed() });
                let recheck_ms = self.rules().bounds.recheck_ms;
                self.arm(out, Timer::Recheck, recheck_ms, missing);
            }
        }
    }

    /// Gives up a candidate that was never Active: all traffic goes to Active, and its instance is stopped.
    pub(super) fn abandon_candidate(&mut self, out: &mut Out, by: &str, reason: Reason) {
        self.let_go_of_candidate(out);
        self.end_rejected(out, by, reason);
        self.after_candidate(out);
    }

    /// The same if the candidate is not the cause.
    pub(super) fn put_candidate_off(&mut self, out: &mut Out, reason: Reason) {
        self.let_go_of_candidate(out);
        self.end_put_off(out, reason);
        self.after_candidate(out);
    }

    /// Sends all traffic to Active.
    fn let_go_of_candidate(&mut self, out: &mut Out) {
        let Some(active) = self.active_slot else { return };
        let generation = self.active.as_ref().map(|deployed| deployed.generation);
        if self.routing != Some(Routing::all(active)) {
            self.routing = Some(Routing::all(active));
            out.push(Effect::put_in_place(Routing::all(active), generation));
        }
    }

    /// The evolution is over: stops the candidate's instance, and starts Active if it does not run.
    fn after_candidate(&mut self, out: &mut Out) {
        let Some(active) = self.active_slot else { return };
        if self.slots[active.other().index()].run != RunState::Down {
            self.stop(out, active.other());
        }
        self.ensure_active_runs(out);
        self.prune(out);
    }

    /// Rejects the version under trial: Previous is restored, and the content of the rejected version is quarantined. A
    /// version that only was asked what users ask has no users, so nothing is to be restored.
    pub(super) fn degraded(&mut self, out: &mut Out, by: &str, reason: Reason) {
        if self.is_shadow() {
            self.quarantine_candidate(out, &reason);
            self.abandon_candidate(out, by, reason);
            return;
        }
        let target = match self.phase {
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => self.previous.clone(),
            Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } } => self.active.clone(),
            Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. }
            | Phase::Held => None,
        };
        let Some(target) = target else { return };
        self.quarantine_candidate(out, &reason);
        if let Some(current) = &mut self.evolution {
            current.rollback = Some((by.to_owned(), reason));
        }
        self.roll_back_to(out, target);
    }

    /// Enters RollingBack with the recorded target, which is the warm version in the other slot or Active itself.
    pub(super) fn roll_back_to(&mut self, out: &mut Out, target: Deployed) {
        let Some(active_slot) = self.active_slot else { return };
        // A candidate that was not Active yet only loses its share; with strategy recreate all share one slot.
        let stays = self.active.as_ref() == Some(&target) || !self.rules().overlap;
        self.previous_target(if stays { active_slot } else { active_slot.other() }, target);
        self.counters.plan += 1;
        let plan = self.counters.plan;
        self.enter(out, Phase::RollingBack { plan, stage: RollbackStage::Switching });
        self.arm(out, Timer::Phase, PLAN_MS, Reason::GoesOnWithRestored);
        self.execute_rollback(out);
        // The decision is final: a supervisor that takes over meanwhile must not give the traffic back.
        self.routing = self.active_slot.map(Routing::all);
    }

    /// Makes the target of a rollback Active, in this slot, from now on.
    fn previous_target(&mut self, slot: Slot, target: Deployed) {
        if self.active.as_ref() != Some(&target) {
            self.previous = self.evolution.as_mut().and_then(|current| current.prior_previous.take());
        }
        self.active = Some(target);
        self.active_slot = Some(slot);
    }

    /// Asks for the plan of the rollback under way. Executing it twice has the same result as once.
    pub(super) fn execute_rollback(&mut self, out: &mut Out) {
        let Phase::RollingBack { plan, .. } = self.phase else { return };
        let (Some(active), Some(slot)) = (self.active.clone(), self.active_slot) else { return };
        let from = self.routing.unwrap_or(Routing::all(slot.other()));
        let to = Routing::all(slot);
        let plan = Plan {
            number: plan,
            store_path: active.version.store_path,
            report: None,
            undo: false,
            steps: vec![Step::Route { from, to }, Step::SwitchProfile { from: None, to: active.generation }],
        };
        self.hand_out(out, plan);
    }

    pub(super) fn restored(&mut self, out: &mut Out) {
        let (Some(slot), Phase::RollingBack { plan, .. }) = (self.active_slot, self.phase) else { return };
        self.routing = Some(Routing::all(slot));
        if self.rules().overlap {
            self.stop(out, slot.other());
        } else if self.slots[slot.index()].run != RunState::Down {
            self.stop(out, slot);
            self.phase = Phase::RollingBack { plan, stage: RollbackStage::Stopping };
            let bound = self.rules().bounds.stop_ms;
            self.arm(out, Timer::Phase, bound, Reason::StartsRestored);
            return;
        }
        self.end_rollback(out);
    }

    pub(super) fn end_rollback(&mut self, out: &mut Out) {
        let rollback = self.evolution.as_mut().and_then(|current| current.rollback.take());
        let (by, reason) = rollback.unwrap_or_else(|| (SUPERVISOR.to_owned(), Reason::Degraded));
        self.remember_asked(Some(&reason));
        self.record(out, MaintenanceAction::RolledBack, &by, reason);
        self.settle_commit();
        let repaired = self.cause().filter(|_| self.evolution.as_ref().is_some_and(|it| it.incident.is_some()));
        self.end_evolution(out);
        self.back_off(out, repaired);
        self.ensure_active_runs(out);
        self.prune(out);
    }

    /// The deadline of a rollback has passed. The steps that were possible are done; an operator has to do the others.
    fn rollback_failed(&mut self, out: &mut Out) {
        let Phase::RollingBack { stage, .. } = self.phase else { return };
        match stage {
            RollbackStage::Switching => {
                let (Some(active), Some(slot)) = (self.active.as_ref(), self.active_slot) else { return };
                let (generation, routing) = (active.generation, Routing::all(slot));
                self.routing = Some(routing);
                self.attention = Some(Reason::ProfileNotSwitched { generation });
                out.push(Effect::Restore { routing, generation: Some(generation) });
                if self.slots[slot.other().index()].run != RunState::Down {
                    self.stop(out, slot.other());
                }
                self.end_rollback(out);
            }
            RollbackStage::Stopping => self.end_rollback(out),
            RollbackStage::Starting => self.abandon_target(out),
        }
    }
}
