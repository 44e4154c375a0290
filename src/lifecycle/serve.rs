//! Starts, stops and restarts instances, and handles their readiness and exits.

use super::deployed::Deployed;
use super::effect::{Effect, Timer};
use super::event::Instance;
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, CanaryStage, Lifecycle, ObservationStage, Phase, RollbackStage, RunState};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{MaintenanceAction, Role, Version};

/// rei gives up a first version that has exited this many times before it was ready.
const FIRST_EXITS_MAX: u32 = 3;

/// The role of a slot in the present phase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotRole {
    /// Active serves in it.
    Active,
    /// A version under trial starts or runs in it.
    Trial,
    /// The warm Previous waits in it.
    Standby,
    /// An operator's rollback target starts in it.
    Target,
    /// Nothing needs it.
    Free,
}

impl Lifecycle {
    fn slot_role(&self, slot: Slot) -> SlotRole {
        let active = self.active_slot == Some(slot);
        match self.phase {
            Phase::Installing => SlotRole::Trial,
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } if active => {
                SlotRole::Trial
            }
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => SlotRole::Standby,
            // With strategy recreate the version that is left stays in Active's slot until it exits. It is not started
            // again.
            Phase::RollingBack { .. } if active && !self.holds_active(slot) => SlotRole::Free,
            _ if active => SlotRole::Active,
            Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::AwaitingApproval { of: Approval::Shadow | Approval::Canary { .. } } => SlotRole::Trial,
            Phase::RollingBack { stage: RollbackStage::Starting, .. } => SlotRole::Target,
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. }
            | Phase::Held => SlotRole::Free,
        }
    }

    /// True if the present or last instance in a slot is one of Active.
    pub(super) fn holds_active(&self, slot: Slot) -> bool {
        let active = self.active.as_ref().map(|active| &active.version.store_path);
        self.slots[slot.index()].version.as_ref().map(|version| &version.store_path) == active
    }

    pub(super) fn start(&mut self, out: &mut Out, slot: Slot, version: Version, role: Role) {
        let state = &mut self.slots[slot.index()];
        if state.version.as_ref() != Some(&version) {
            state.quick_exits = 0;
            state.restarts = 0;
        }
        state.run = RunState::Starting;
        state.version = Some(version.clone());
        state.instance = None;
        self.clear(out, Timer::restart(slot));
        out.push(Effect::Start { slot, version, role });
    }

    /// Stops the instance in a slot. This is done for an empty slot too, because connections may wait in its queue.
    pub(super) fn stop(&mut self, out: &mut Out, slot: Slot) {
        self.clear(out, Timer::restart(slot));
        let state = &mut self.slots[slot.index()];
        if !matches!(state.run, RunState::Stopping | RunState::Draining) {
            state.run = RunState::Stopping;
            self.ask_to_stop(out, slot);
        }
    }

    /// Asks the instance in a slot to exit.
    pub(super) fn ask_to_stop(&self, out: &mut Out, slot: Slot) {
        out.push(Effect::Stop { slot, drain: !self.gets_connections(slot) });
    }

    /// True if new connections come to a slot. Then its queue does not stay empty.
    fn gets_connections(&self, slot: Slot) -> bool {
        self.routing.is_some_and(|routing| routing.share_ppm(slot) > 0)
    }

    pub(super) fn on_started(&mut self, slot: Slot, instance: Instance) {
        self.slots[slot.index()].instance = Some(instance);
    }

    pub(super) fn on_ready(&mut self, out: &mut Out, slot: Slot) {
        let state = &mut self.slots[slot.index()];
        if state.run != RunState::Starting {
            return;
        }
        state.run = RunState::Ready;
        let slot_role = self.slot_role(slot);
        match (self.phase, slot_role) {
            (Phase::Installing, SlotRole::Trial) => self.installed(out, slot),
            (Phase::Canary { stage: CanaryStage::Preparing }, SlotRole::Trial) => self.maybe_begin_shares(out),
            (Phase::Observing { stage: ObservationStage::Starting }, SlotRole::Trial) => self.begin_window(out),
            (Phase::RollingBack { stage: RollbackStage::Starting, .. }, SlotRole::Target) => self.target_is_ready(out),
            (_, SlotRole::Active | SlotRole::Trial | SlotRole::Standby | SlotRole::Target | SlotRole::Free) => {}
        }
    }

    fn installed(&mut self, out: &mut Out, slot: Slot) {
        let Some(current) = &self.evolution else { return };
        let (Some(version), Some(generation)) = (current.version.clone(), current.generation) else { return };
        self.known_good.insert(generation, version.clone());
        self.active = Some(Deployed { version, generation });
        self.active_slot = Some(slot);
        self.record(out, MaintenanceAction::Promoted, SUPERVISOR, Reason::FirstVersionServes);
        self.end_evolution(out);
    }

    pub(super) fn on_exited(&mut self, out: &mut Out, slot: Slot, exit: String, ran_ms: u64) {
        let state = &mut self.slots[slot.index()];
        match state.run {
            RunState::Starting | RunState::Ready => {}
            // The instance that drained the slot has failed, and another one would fail as well.
            RunState::Draining => {
                self.is_free(out, slot);
                return;
            }
            // Its exit was asked for, or is known already: `Stopped` or the backoff follows.
            RunState::Down | RunState::Backoff | RunState::Stopping => return,
        }
        state.run = RunState::Down;
        state.instance = None;
        let reason = Reason::Exited { exit: exit.clone() };
        match self.slot_role(slot) {
            SlotRole::Active | SlotRole::Standby => self.start_again(out, slot, exit, ran_ms),
            SlotRole::Trial => self.trial_ended(out, slot, exit, ran_ms, reason),
            SlotRole::Target => self.abandon_target(out),
            SlotRole::Free => {}
        }
    }

    fn trial_ended(&mut self, out: &mut Out, slot: Slot, exit: String, ran_ms: u64, reason: Reason) {
        match self.phase {
            Phase::Installing if self.slots[slot.index()].quick_exits + 1 >= FIRST_EXITS_MAX => {
                self.give_up(out, Reason::FirstVersionExits { exit });
            }
            Phase::Installing => self.start_again(out, slot, exit, ran_ms),
            Phase::Canary { stage: CanaryStage::Preparing | CanaryStage::Stopping } => {
                self.quarantine_candidate(out, &reason);
                self.abandon_candidate(out, SUPERVISOR, reason);
            }
            Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::Observing { .. }
            | Phase::AwaitingApproval { .. }
            | Phase::RollingBack { .. }
            | Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::Held => self.degraded(out, SUPERVISOR, reason),
        }
    }

    /// Starts the instance of a slot again: at once the first time, then with a growing pause.
    fn start_again(&mut self, out: &mut Out, slot: Slot, exit: String, ran_ms: u64) {
        let bounds = self.rules().bounds;
        let state = &mut self.slots[slot.index()];
        state.quick_exits = if ran_ms >= bounds.stable_ms { 1 } else { state.quick_exits.saturating_add(1) };
        state.restarts += 1;
        let quick_exits = state.quick_exits;
        let Some(version) = state.version.clone() else { return };
        if quick_exits <= 1 {
            let role = self.role(slot);
            self.start(out, slot, version, role);
        } else {
            let doublings = (quick_exits - 2).min(16);
            let pause_ms = (bounds.backoff_ms << doublings).min(bounds.backoff_max_ms);
            self.slots[slot.index()].run = RunState::Backoff;
            self.arm(out, Timer::restart(slot), pause_ms, Reason::StartsAgain { slot });
        }
        if self.active_slot == Some(slot) {
            self.record(out, MaintenanceAction::Restarted, SUPERVISOR, exit.into());
        }
    }

    fn role(&self, slot: Slot) -> Role {
        match self.slot_role(slot) {
            SlotRole::Active => Role::Active,
            SlotRole::Trial if self.active_slot == Some(slot) => Role::Active,
            SlotRole::Trial => Role::Candidate,
            SlotRole::Standby | SlotRole::Target | SlotRole::Free => Role::Previous,
        }
    }

    pub(super) fn on_backoff_over(&mut self, out: &mut Out, slot: Slot) {
        if self.slots[slot.index()].run != RunState::Backoff {
            return;
        }
        let Some(version) = self.slots[slot.index()].version.clone() else { return };
        let role = self.role(slot);
        self.start(out, slot, version, role);
    }

    /// The instance of a slot has exited after a stop request. First an instance of Active serves the connections that
    /// still wait in the queue of the slot. This is done once: connections that wait after that are refused.
    pub(super) fn on_stopped(&mut self, out: &mut Out, slot: Slot, waiting: bool) {
        match (self.slots[slot.index()].run, &self.active) {
            (RunState::Stopping, Some(active)) if waiting && self.rules().overlap && !self.gets_connections(slot) => {
                let version = active.version.clone();
                let state = &mut self.slots[slot.index()];
                (state.run, state.instance) = (RunState::Draining, None);
                out.push(Effect::Drain { slot, version });
            }
            (RunState::Stopping | RunState::Draining, _) => self.is_free(out, slot),
            (RunState::Down | RunState::Starting | RunState::Ready | RunState::Backoff, _) => {}
        }
    }

    /// A slot is free: nothing runs in it, and its queue is not served any more.
    fn is_free(&mut self, out: &mut Out, slot: Slot) {
        let state = &mut self.slots[slot.index()];
        (state.run, state.instance) = (RunState::Down, None);
        let active = self.active_slot == Some(slot);
        match self.phase {
            Phase::Canary { stage: CanaryStage::Stopping } if active => self.begin_promotion(out),
            Phase::RollingBack { stage: RollbackStage::Stopping, .. } if active => self.end_rollback(out),
            Phase::Canary { stage: CanaryStage::Preparing } if !active => self.start_candidate(out),
            Phase::RollingBack { stage: RollbackStage::Starting, .. } if !active => self.start_target(out),
            Phase::Installing => self.install(out),
            Phase::Promoting { .. } | Phase::Observing { stage: ObservationStage::Starting } => {}
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => self.ensure_active_runs(out),
        }
    }

    /// Starts Active if it should run and nothing is in its slot.
    pub(super) fn ensure_active_runs(&mut self, out: &mut Out) {
        let (Some(active), Some(slot)) = (&self.active, self.active_slot) else { return };
        let version = active.version.clone();
        if self.slots[slot.index()].run == RunState::Down {
            let role = self.role(slot);
            self.start(out, slot, version, role);
        }
    }
}
