//! A new supervisor takes over: it continues in the same phase, starts no second copy, and gives no candidate more
//! traffic.

use super::effect::{Effect, Routing, Timer};
use super::event::Running;
use super::policy::Standby;
use super::promote::PLAN_MS;
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, CanaryStage, Lifecycle, ObservationStage, Phase, RollbackStage, RunState};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::Role;

impl Lifecycle {
    pub(super) fn on_recovered(&mut self, out: &mut Out, running: [Option<Running>; 2], rebooted: bool) {
        for slot in Slot::ALL {
            self.take_over(slot, running[slot.index()].as_ref());
        }
        for (timer, armed) in self.timers.clone() {
            out.push(Effect::SetTimer { timer, at: armed.at, reason: armed.reason });
        }
        self.restore(out);
        self.regain(out);
        match self.phase {
            Phase::Empty => {}
            Phase::Installing => self.install_again(out),
            Phase::Steady | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion } => {
                self.serve_again(out);
            }
            Phase::Diagnosing => {
                self.serve_again(out);
                self.ask_for_diagnosis(out);
            }
            Phase::Building => {
                self.serve_again(out);
                self.ask_for_build(out, false);
            }
            Phase::Validating => {
                self.serve_again(out);
                self.ask_again_for_validation(out);
            }
            Phase::Canary { stage } => self.try_again(out, stage, rebooted),
            Phase::AwaitingApproval { of: Approval::Shadow } => {
                self.try_again(out, CanaryStage::Shadow { judging: true }, rebooted);
            }
            Phase::AwaitingApproval { of: Approval::Canary { index } } => {
                self.try_again(out, CanaryStage::Share { index, judging: true }, rebooted);
            }
            Phase::Promoting { .. } => self.promote_again(out, rebooted),
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => {
                self.observe_again(out, rebooted);
            }
            Phase::RollingBack { stage, .. } => self.roll_back_again(out, stage),
            Phase::Held => self.ensure_active_runs(out),
        }
    }

    /// A deadline is a point in time, and a recovery does not move it: otherwise a phase would never end if its
    /// supervisors are killed again and again. There is one exception: if too little time is left to do again what was
    /// lost with the earlier supervisor (none ran for an hour, or the clock was wrong), the phase gets that much time,
    /// and only once.
    fn regain(&mut self, out: &mut Out) {
        let need_ms = self.need_ms();
        let enough = out.at.plus_ms(need_ms);
        let Some(armed) = self.timers.get(&Timer::Phase).filter(|armed| need_ms > 0 && armed.at < enough) else {
            return;
        };
        if !self.regained {
            let reason = armed.reason.clone();
            self.regained = true;
            self.arm_at(out, Timer::Phase, enough, reason);
        }
    }

    /// How much time the present phase needs to do again what was lost with the earlier supervisor.
    fn need_ms(&self) -> u64 {
        let Some(rules) = &self.policy else { return 0 };
        let bounds = rules.bounds;
        match self.phase {
            Phase::Installing if self.evolution.as_ref().is_some_and(|it| it.generation.is_some()) => bounds.start_ms,
            Phase::Installing => bounds.build_ms,
            Phase::Canary { stage: CanaryStage::Preparing }
            | Phase::RollingBack { stage: RollbackStage::Starting, .. } => bounds.stop_ms + bounds.start_ms,
            Phase::Canary { stage: CanaryStage::Stopping }
            | Phase::RollingBack { stage: RollbackStage::Stopping, .. } => bounds.stop_ms,
            Phase::Canary { stage: CanaryStage::Shadow { .. } } => rules.shadow_ms.unwrap_or_default(),
            Phase::Canary { stage: CanaryStage::Share { index, .. } } => {
                rules.canary.get(index).map_or(0, |step| step.for_ms)
            }
            Phase::Promoting { .. } | Phase::RollingBack { stage: RollbackStage::Switching, .. } => PLAN_MS,
            Phase::Observing { stage: ObservationStage::Starting } => bounds.start_ms,
            Phase::Observing { stage: ObservationStage::Window { .. } } => rules.observe_ms,
            // The work continues from its checkpoint. If the deadline passes, it is tried again.
            Phase::Diagnosing | Phase::Building | Phase::Validating => 0,
            Phase::Empty | Phase::Steady | Phase::Held | Phase::AwaitingApproval { .. } => 0,
        }
    }

    /// Takes over the instance that was found in a slot.
    fn take_over(&mut self, slot: Slot, running: Option<&Running>) {
        let state = &mut self.slots[slot.index()];
        let Some(running) = running else {
            state.run = match state.run {
                // The instance that drained the slot for the earlier supervisor is stopped as a stray. So the slot is
                // stopped again, and drained again if connections still wait there.
                RunState::Stopping | RunState::Draining => RunState::Stopping,
                RunState::Backoff => RunState::Backoff,
                RunState::Down | RunState::Starting | RunState::Ready => RunState::Down,
            };
            state.instance = None;
            return;
        };
        let expected = state.version.as_ref().is_some_and(|version| version.store_path == running.store_path);
        state.run = match state.run {
            RunState::Stopping | RunState::Draining => RunState::Stopping,
            _ if expected && running.ready => RunState::Ready,
            _ if expected => RunState::Starting,
            // Neither a decision nor a role needs this instance, so it is stopped below.
            RunState::Down | RunState::Starting | RunState::Ready | RunState::Backoff => RunState::Stopping,
        };
    }

    /// Sets routing and profile as they were decided, and asks again for each stop that is not done.
    fn restore(&self, out: &mut Out) {
        // In phase Held the profile stays as it was found.
        let generation = self.active.as_ref().filter(|_| self.held.is_none()).map(|active| active.generation);
        if let Some(routing) = self.routing {
            out.push(Effect::put_in_place(routing, generation));
        }
        for slot in Slot::ALL {
            if self.slots[slot.index()].run == RunState::Stopping {
                self.ask_to_stop(out, slot);
            }
        }
    }

    fn install_again(&mut self, out: &mut Out) {
        if !self.timers.contains_key(&Timer::Phase) {
            // The installation was given up. A new start of rei is a request for another try.
            let bound = self.need_ms();
            self.arm(out, Timer::Phase, bound, Reason::GivesUpFirstVersion);
        }
        let Some(current) = &self.evolution else { return };
        match (&current.version, current.generation) {
            (None, _) => out.push(Effect::Install { evolution: current.id.clone() }),
            (Some(version), None) => self.prepare_generation(out, version.store_path.clone()),
            (Some(_), Some(_)) => {
                if self.slots[Slot::A.index()].run == RunState::Ready {
                    self.slots[Slot::A.index()].run = RunState::Starting;
                    self.on_ready(out, Slot::A);
                } else {
                    self.install(out);
                }
            }
        }
    }

    /// Keeps only Active.
    fn serve_again(&mut self, out: &mut Out) {
        self.ensure_active_runs(out);
        let Some(other) = self.active_slot.map(Slot::other) else { return };
        if self.slots[other.index()].run != RunState::Down {
            self.stop(out, other);
        }
    }

    fn try_again(&mut self, out: &mut Out, stage: CanaryStage, rebooted: bool) {
        let Some(active) = self.active_slot else { return };
        match stage {
            CanaryStage::Preparing => {
                self.ensure_active_runs(out);
                let current = self.evolution.as_ref();
                if current.is_some_and(|it| it.generation.is_none()) {
                    let version = current.and_then(|it| it.version.clone()).unwrap_or_default();
                    self.prepare_generation(out, version.store_path);
                }
                if self.slots[active.other().index()].run == RunState::Down {
                    self.start_candidate(out);
                }
                self.maybe_begin_shares(out);
            }
            CanaryStage::Stopping if self.slots[active.index()].run == RunState::Down => self.begin_promotion(out),
            CanaryStage::Stopping => self.stop(out, active),
            CanaryStage::Shadow { .. } | CanaryStage::Share { .. } if rebooted => self.canary_again(out),
            CanaryStage::Shadow { .. } => self.shadow_again(out),
            CanaryStage::Share { .. } => {
                self.ensure_active_runs(out);
                if self.slots[active.other().index()].run != RunState::Ready {
                    self.degraded(out, SUPERVISOR, Reason::ExitedUnattended);
                } else if let Phase::Canary { stage: CanaryStage::Share { index, .. } } = self.phase
                    && let Some(step) = self.rules().canary.get(index).copied()
                {
                    // The data of the earlier supervisor are lost, so they are gathered again, until the same deadline.
                    self.give_share(out, step, index);
                } else {
                    out.push(Effect::Observe { slot: active.other(), baseline: Some(active) });
                }
            }
        }
    }

    /// The machine was restarted, so no process is left. The candidate is not the cause, and its canary begins again. A
    /// deadline bounds this if the machine restarts again and again.
    fn canary_again(&mut self, out: &mut Out) {
        let Some(active) = self.active_slot else { return };
        self.ensure_active_runs(out);
        self.routing = Some(Routing::all(active));
        self.restore(out);
        let trial_by = self.evolution.as_ref().and_then(|current| current.trial_by);
        if trial_by.is_some_and(|at| at <= out.at) {
            self.put_candidate_off(out, Reason::CanaryLateAfterReboot);
        } else {
            self.begin_canary(out);
        }
    }

    /// The switch may be done, partly done or not begun. The state before it was restored; now the switch is done
    /// again.
    fn promote_again(&mut self, out: &mut Out, rebooted: bool) {
        let Some(active) = self.active_slot else { return };
        let ready = self.slots[active.other().index()].run == RunState::Ready;
        if ready || !self.rules().overlap {
            self.execute_promotion(out);
        } else if rebooted {
            self.canary_again(out);
        } else {
            self.degraded(out, SUPERVISOR, Reason::ExitedUnattended);
        }
    }

    fn observe_again(&mut self, out: &mut Out, rebooted: bool) {
        let Some(active) = self.active_slot else { return };
        let down = self.slots[active.index()].run == RunState::Down;
        let starting = matches!(self.phase, Phase::Observing { stage: ObservationStage::Starting });
        if down && !rebooted && !starting {
            self.degraded(out, SUPERVISOR, Reason::ExitedUnattended);
            return;
        }
        self.ensure_active_runs(out);
        let warm = self.rules().overlap && self.rules().standby != Standby::Cold;
        let other = active.other();
        if let Some(previous) =
            self.previous.clone().filter(|_| warm && self.slots[other.index()].run == RunState::Down)
        {
            self.start(out, other, previous.version, Role::Previous);
        }
        match self.phase {
            Phase::Observing { stage: ObservationStage::Starting }
                if self.slots[active.index()].run != RunState::Ready => {}
            Phase::Observing { stage: ObservationStage::Starting } => self.begin_window(out),
            // The data of the earlier supervisor are lost, so they are gathered again, until the same deadline: a lack
            // of data confirms nothing.
            Phase::Observing { .. } => self.observe_window(out),
            _ => out.push(Effect::Observe { slot: active, baseline: None }),
        }
    }

    fn roll_back_again(&mut self, out: &mut Out, stage: RollbackStage) {
        let Some(active) = self.active_slot else { return };
        match stage {
            RollbackStage::Switching => self.execute_rollback(out),
            RollbackStage::Stopping if self.slots[active.index()].run == RunState::Down => self.end_rollback(out),
            RollbackStage::Stopping => self.stop(out, active),
            RollbackStage::Starting => {
                self.ensure_active_runs(out);
                match self.slots[active.other().index()].run {
                    RunState::Ready => self.target_is_ready(out),
                    RunState::Down => self.start_target(out),
                    RunState::Starting | RunState::Backoff | RunState::Stopping | RunState::Draining => {}
                }
            }
        }
    }
}
