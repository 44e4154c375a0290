//! The shadow: before the candidate gets a share, it is asked once more what users asked Active.

use super::effect::{Effect, Timer};
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Approval, CanaryStage, Lifecycle, Phase, RunState};
use super::step::{Out, SUPERVISOR};

impl Lifecycle {
    /// True if the version under trial is only asked what users ask: no connection of a user goes to it.
    pub(super) const fn is_shadow(&self) -> bool {
        matches!(
            self.phase,
            Phase::Canary { stage: CanaryStage::Shadow { .. } } | Phase::AwaitingApproval { of: Approval::Shadow }
        )
    }

    /// Begins the shadow, or the first share if there is to be none.
    pub(super) fn begin_shadow(&mut self, out: &mut Out) {
        let (shadow_ms, hold_ms) = (self.rules().shadow_ms, self.rules().hold_ms);
        let Some(for_ms) = shadow_ms else {
            self.begin_share(out, 0);
            return;
        };
        self.enter(out, Phase::Canary { stage: CanaryStage::Shadow { judging: false } });
        self.arm(out, Timer::Phase, for_ms + hold_ms, Reason::EndsWaitForData);
        self.shadow(out, for_ms);
    }

    /// Gathers data from now on.
    fn shadow(&mut self, out: &mut Out, for_ms: u64) {
        self.phase = Phase::Canary { stage: CanaryStage::Shadow { judging: false } };
        self.arm_window(out, for_ms, Reason::JudgesShadow);
        self.ask_in_shadow(out);
    }

    fn ask_in_shadow(&self, out: &mut Out) {
        if let Some(active) = self.active_slot {
            out.push(Effect::Shadow { slot: active.other(), active });
        }
    }

    /// The answers that the earlier supervisor got are lost, so they are gathered again, until the same deadline.
    pub(super) fn shadow_again(&mut self, out: &mut Out) {
        let Some(candidate) = self.active_slot.map(Slot::other) else { return };
        self.ensure_active_runs(out);
        let shadow_ms = self.rules().shadow_ms;
        if self.slots[candidate.index()].run != RunState::Ready {
            self.degraded(out, SUPERVISOR, Reason::ExitedUnattended);
        } else if let (Phase::Canary { .. }, Some(for_ms)) = (self.phase, shadow_ms) {
            self.shadow(out, for_ms);
        } else {
            self.ask_in_shadow(out);
        }
    }
}
