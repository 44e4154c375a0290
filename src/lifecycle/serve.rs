//! The instances: started, ready, ended, started again.

use super::deployed::Deployed;
use super::effect::{Effect, Timer};
use super::event::Instance;
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, Back, CanaryStage, Lifecycle, Phase, Run, Watch};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{MaintenanceAction, Role, Version};

/// A first version that ends this often before it is ready is given up.
const FIRST_EXITS_MAX: u32 = 3;

/// What a slot is for, in the present phase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// Active serves from it.
    Active,
    /// A version under trial, or its start, is in it.
    Trial,
    /// The warm Previous waits in it.
    Standby,
    /// An operator's rollback target starts in it.
    Target,
    /// Nothing needs it.
    Free,
}

impl Lifecycle {
    fn duty(&self, slot: Slot) -> Duty {
        let active = self.active_slot == Some(slot);
        match self.phase {
            Phase::Installing => Duty::Trial,
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } if active => Duty::Trial,
            Phase::Observing { .. } | Phase::AwaitingApproval { of: Approval::Observation } => Duty::Standby,
            // With strategy recreate the version that is left is in Active's slot until its end: it is not started again.
            Phase::RollingBack { .. } if active && !self.holds_active(slot) => Duty::Free,
            _ if active => Duty::Active,
            Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::AwaitingApproval { of: Approval::Canary { .. } } => Duty::Trial,
            Phase::RollingBack { stage: Back::Starting, .. } => Duty::Target,
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { of: Approval::Stage | Approval::Promotion }
            | Phase::RollingBack { .. }
            | Phase::Held => Duty::Free,
        }
    }

    /// Whether the instance in a slot is, or was last, one of Active.
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
        state.run = Run::Starting;
        state.version = Some(version.clone());
        state.instance = None;
        self.clear(out, Timer::restart(slot));
        out.push(Effect::Start { slot, version, role });
    }

    /// Asks whatever is in a slot to end. An empty slot is asked too: its queue may hold connections.
    pub(super) fn stop(&mut self, out: &mut Out, slot: Slot) {
        self.clear(out, Timer::restart(slot));
        let state = &mut self.slots[slot.index()];
        if !matches!(state.run, Run::Stopping | Run::Draining) {
            state.run = Run::Stopping;
            self.ask_to_stop(out, slot);
        }
    }

    /// Hands out the wish to end what is in a slot.
    pub(super) fn ask_to_stop(&self, out: &mut Out, slot: Slot) {
        out.push(Effect::Stop { slot, drain: !self.gets_connections(slot) });
    }

    /// Whether new connections come to a slot. Then its queue is never empty for good.
    fn gets_connections(&self, slot: Slot) -> bool {
        self.routing.is_some_and(|routing| routing.share_ppm(slot) > 0)
    }

    pub(super) fn on_started(&mut self, slot: Slot, instance: Instance) {
        self.slots[slot.index()].instance = Some(instance);
    }

    pub(super) fn on_ready(&mut self, out: &mut Out, slot: Slot) {
        let state = &mut self.slots[slot.index()];
        if state.run != Run::Starting {
            return;
        }
        state.run = Run::Ready;
        let duty = self.duty(slot);
        match (self.phase, duty) {
            (Phase::Installing, Duty::Trial) => self.installed(out, slot),
            (Phase::Canary { stage: CanaryStage::Preparing }, Duty::Trial) => self.maybe_begin_shares(out),
            (Phase::Observing { stage: Watch::Starting }, Duty::Trial) => self.begin_window(out),
            (Phase::RollingBack { stage: Back::Starting, .. }, Duty::Target) => self.target_is_ready(out),
            (_, Duty::Active | Duty::Trial | Duty::Standby | Duty::Target | Duty::Free) => {}
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
            Run::Starting | Run::Ready => {}
            // What still waits in the queue was not served, and a second instance would fare no better.
            Run::Draining => {
                self.is_free(out, slot);
                return;
            }
            // Its exit was asked for, or is known already: `Stopped` or the backoff follows.
            Run::Down | Run::Backoff | Run::Stopping => return,
        }
        state.run = Run::Down;
        state.instance = None;
        let reason = Reason::Exited { exit: exit.clone() };
        match self.duty(slot) {
            Duty::Active | Duty::Standby => self.start_again(out, slot, exit, ran_ms),
            Duty::Trial => self.trial_ended(out, slot, exit, ran_ms, reason),
            Duty::Target => self.abandon_target(out),
            Duty::Free => {}
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
            self.slots[slot.index()].run = Run::Backoff;
            self.arm(out, Timer::restart(slot), pause_ms, Reason::StartsAgain { slot });
        }
        if self.active_slot == Some(slot) {
            self.record(out, MaintenanceAction::Restarted, SUPERVISOR, exit.into());
        }
    }

    fn role(&self, slot: Slot) -> Role {
        match self.duty(slot) {
            Duty::Active => Role::Active,
            Duty::Trial if self.active_slot == Some(slot) => Role::Active,
            Duty::Trial => Role::Candidate,
            Duty::Standby | Duty::Target | Duty::Free => Role::Previous,
        }
    }

    pub(super) fn on_backoff_over(&mut self, out: &mut Out, slot: Slot) {
        if self.slots[slot.index()].run != Run::Backoff {
            return;
        }
        let Some(version) = self.slots[slot.index()].version.clone() else { return };
        let role = self.role(slot);
        self.start(out, slot, version, role);
    }

    /// The instance of a slot has exited as it was asked to. What still waits in the queue of the slot is served by an
    /// instance of Active first. That is done once: what waits after that is refused.
    pub(super) fn on_stopped(&mut self, out: &mut Out, slot: Slot, waiting: bool) {
        match (self.slots[slot.index()].run, &self.active) {
            (Run::Stopping, Some(active)) if waiting && self.rules().overlap && !self.gets_connections(slot) => {
                let version = active.version.clone();
                let state = &mut self.slots[slot.index()];
                (state.run, state.instance) = (Run::Draining, None);
                out.push(Effect::Drain { slot, version });
            }
            (Run::Stopping | Run::Draining, _) => self.is_free(out, slot),
            (Run::Down | Run::Starting | Run::Ready | Run::Backoff, _) => {}
        }
    }

    /// Nothing is in a slot any more, and nothing waits in its queue that could be served.
    fn is_free(&mut self, out: &mut Out, slot: Slot) {
        let state = &mut self.slots[slot.index()];
        (state.run, state.instance) = (Run::Down, None);
        let active = self.active_slot == Some(slot);
        match self.phase {
            Phase::Canary { stage: CanaryStage::Stopping } if active => self.begin_promotion(out),
            Phase::RollingBack { stage: Back::Stopping, .. } if active => self.end_rollback(out),
            Phase::Canary { stage: CanaryStage::Preparing } if !active => self.start_candidate(out),
            Phase::RollingBack { stage: Back::Starting, .. } if !active => self.start_target(out),
            Phase::Installing => self.install(out),
            Phase::Promoting { .. } | Phase::Observing { stage: Watch::Starting } => {}
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
        if self.slots[slot.index()].run == Run::Down {
            let role = self.role(slot);
            self.start(out, slot, version, role);
        }
    }
}
