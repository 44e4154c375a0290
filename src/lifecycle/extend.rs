//! An instance asks for more time to become ready or to end, as `EXTEND_TIMEOUT_USEC` does under systemd.

use super::effect::Timer;
use super::slot::Slot;
use super::state::{Approval, CanaryStage, Lifecycle, ObservationStage, Phase, RollbackStage, RunState};
use super::step::Out;

/// How much time an instance can add to one phase altogether, in milliseconds: half an hour. An instance that needs more
/// needs a longer `start_timeout` or `stop_timeout` in rei.toml.
pub const EXTENDED_MS_MAX: u64 = 30 * 60 * 1000;

impl Lifecycle {
    /// If the phase waits for the instance in `slot`, it waits at least `by_ms` from now on. A deadline never moves earlier.
    pub(super) fn on_extended(&mut self, out: &mut Out, slot: Slot, by_ms: u64) {
        let is_on_its_way = matches!(self.slots[slot.index()].run, RunState::Starting | RunState::Stopping);
        if self.awaited() != Some(slot) || !is_on_its_way {
            return;
        }
        let Some(armed) = self.timers.get(&Timer::Phase).cloned() else { return };
        let left_ms = EXTENDED_MS_MAX.saturating_sub(self.extended_ms);
        let more_ms = out.at.plus_ms(by_ms).ms_since(armed.at).min(left_ms);
        if more_ms == 0 {
            return;
        }
        self.extended_ms += more_ms;
        self.arm_at(out, Timer::Phase, armed.at.plus_ms(more_ms), armed.reason);
        if let Some(trial_by) = self.evolution.as_mut().and_then(|current| current.trial_by.as_mut()) {
            *trial_by = trial_by.plus_ms(more_ms);
        }
    }

    /// The slot of the instance that the present phase waits for.
    fn awaited(&self) -> Option<Slot> {
        let active = self.active_slot;
        match self.phase {
            Phase::Installing => Some(Slot::A),
            Phase::Canary { stage: CanaryStage::Preparing }
            | Phase::RollingBack { stage: RollbackStage::Starting, .. } => active.map(Slot::other),
            Phase::Canary { stage: CanaryStage::Stopping }
            | Phase::Observing { stage: ObservationStage::Starting }
            | Phase::RollingBack { stage: RollbackStage::Stopping, .. } => active,
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval {
                of:
                    Approval::Stage
                    | Approval::Promotion
                    | Approval::Shadow
                    | Approval::Canary { .. }
                    | Approval::Observation,
            }
            | Phase::Canary { stage: CanaryStage::Shadow { .. } | CanaryStage::Share { .. } }
            | Phase::Promoting { .. }
            | Phase::Observing { stage: ObservationStage::Window { .. } }
            | Phase::RollingBack { stage: RollbackStage::Switching, .. }
            | Phase::Held => None,
        }
    }
}
