//! The result of a plan: it is done, it has failed, or it is tried again while another program holds the profile's
//! lock.

use super::effect::{Effect, Plan, Timer};
use super::reason::Reason;
use super::state::{Lifecycle, Phase, PlanUnderWay, RollbackStage};
use super::step::Out;

/// The pause before the second try of a plan, in milliseconds. It doubles each time. `nix-env` holds the lock for a few
/// milliseconds.
const BUSY_PAUSE_MS: u64 = 64;

/// Tries after the first one: the pauses are two seconds altogether.
const BUSY_TRIES_MAX: u32 = 5;

impl Lifecycle {
    /// Asks for a plan to be executed, and keeps it until its result is known.
    pub(super) fn hand_out(&mut self, out: &mut Out, plan: Plan) {
        self.clear(out, Timer::Plan);
        self.plan = Some(PlanUnderWay { plan: plan.clone(), tries: 0 });
        out.push(Effect::Execute(plan));
    }

    /// Another program holds the profile's lock. The plan is tried again after a pause; after the last try it has
    /// failed.
    pub(super) fn on_plan_busy(&mut self, out: &mut Out, number: u64, reason: String) {
        let Some(current) = self.plan.as_mut().filter(|current| current.plan.number == number) else { return };
        if current.tries >= BUSY_TRIES_MAX {
            self.on_plan_failed(out, number, reason);
            return;
        }
        let pause_ms = BUSY_PAUSE_MS << current.tries;
        current.tries += 1;
        self.arm(out, Timer::Plan, pause_ms, Reason::TriesPlanAgain { reason });
    }

    pub(super) fn on_plan_due(&self, out: &mut Out) {
        if let Some(current) = &self.plan {
            out.push(Effect::Execute(current.plan.clone()));
        }
    }

    /// Ends a plan, because its result is known.
    fn forget_plan(&mut self, out: &mut Out, number: u64) {
        if self.plan.as_ref().is_some_and(|current| current.plan.number == number) {
            self.plan = None;
            self.clear(out, Timer::Plan);
        }
    }

    pub(super) fn on_plan_done(&mut self, out: &mut Out, number: u64) {
        self.forget_plan(out, number);
        match self.phase {
            Phase::Promoting { plan } if plan == number => self.promoted(out),
            Phase::RollingBack { plan, stage: RollbackStage::Switching } if plan == number => self.restored(out),
            Phase::Promoting { .. }
            | Phase::RollingBack { .. }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn on_plan_failed(&mut self, out: &mut Out, number: u64, reason: String) {
        self.forget_plan(out, number);
        match self.phase {
            Phase::Promoting { plan } if plan == number => {
                // The state is the same as before the plan. The candidate is not the cause, so it is not quarantined.
                self.put_candidate_off(out, Reason::PromotionFailed { reason });
            }
            Phase::RollingBack { plan, stage: RollbackStage::Switching } if plan == number => {
                self.attention = Some(Reason::RollbackIncomplete { reason: reason.clone() });
                let reason = Reason::Text(reason);
                self.wait(reason.clone());
                let recheck_ms = self.rules().bounds.recheck_ms;
                self.arm(out, Timer::Recheck, recheck_ms, reason);
            }
            Phase::Promoting { .. }
            | Phase::RollingBack { .. }
            | Phase::Empty
            | Phase::Installing
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Building
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Canary { .. }
            | Phase::Observing { .. }
            | Phase::Held => {}
        }
    }
}
