//! One event in, all effects out.

use super::effect::{Effect, Maintenance, Timer};
use super::event::Event;
use super::policy::Policy;
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Armed, Lifecycle, Phase};
use crate::interface::types::MaintenanceAction;
use crate::time::Timestamp;

/// The time and the effects of one step.
pub(super) struct Out {
    pub(super) at: Timestamp,
    pub(super) effects: Vec<Effect>,
}

impl Out {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

impl Lifecycle {
    /// Takes one event and returns its effects, in order.
    ///
    /// An event that does not fit the state (a stale answer, a timer that was cleared meanwhile) changes nothing.
    pub fn step(&mut self, at: Timestamp, event: Event) -> Vec<Effect> {
        let mut out = Out { at, effects: Vec::new() };
        match event {
            Event::Configured { policy } => self.on_configured(policy),
            Event::Recovered { running, rebooted } => self.on_recovered(&mut out, running, rebooted),
            Event::Held(reality) => self.on_held(&mut out, *reality),
            Event::Followed { rev, tree } => self.on_followed(&mut out, rev, tree),
            // A finding that does not count changes nothing, not even what time alone would change, so it is not
            // recorded.
            Event::Found { slot, finding } if !self.counts(slot, &finding) => return out.effects,
            Event::Found { slot: _, finding } => self.on_found(&mut out, finding),
            Event::Judged { verdict, reason } => self.on_judged(&mut out, verdict, reason),
            Event::Diagnosed { evolution, context } => self.on_diagnosed(&mut out, &evolution, context),
            Event::StageReached { evolution, stage, checkpoint } => self.on_stage(&evolution, stage, checkpoint),
            Event::Built { evolution, version, base_rev, files_changed } => {
                self.on_built(&mut out, &evolution, version, base_rev, files_changed);
            }
            Event::BuildPaused { evolution, stage, checkpoint } => {
                self.on_build_paused(&mut out, &evolution, stage, checkpoint);
            }
            Event::Aimed { evolution, rev, tree } => self.on_aimed(&mut out, &evolution, rev, tree),
            Event::AgentRan { evolution, took_ms, asked } => {
                self.note_asked(&evolution, asked);
                self.on_agent_ran(out.at, took_ms);
            }
            Event::BuildFailed { evolution, reason, fault } => {
                self.on_build_failed(&mut out, &evolution, reason, fault);
            }
            Event::Validated { evolution, report } => self.on_validated(&mut out, &evolution, report),
            Event::GenerationPrepared { store_path, generation } => {
                self.on_generation(&mut out, &store_path, generation);
            }
            Event::GenerationFailed { store_path, reason } => {
                self.on_generation_failed(&mut out, &store_path, reason);
            }
            Event::Started { slot, instance } => self.on_started(slot, instance),
            Event::StartFailed { slot, reason } => self.on_exited(&mut out, slot, reason, 0),
            Event::Ready { slot } => self.on_ready(&mut out, slot),
            Event::Extended { slot, by_ms } => self.on_extended(&mut out, slot, by_ms),
            Event::Exited { slot, exit, ran_ms } => self.on_exited(&mut out, slot, exit, ran_ms),
            Event::Stopped { slot, waiting } => self.on_stopped(&mut out, slot, waiting),
            Event::PlanDone { plan, took_us: _ } => self.on_plan_done(&mut out, plan),
            Event::PlanBusy { plan, reason } => self.on_plan_busy(&mut out, plan, reason),
            Event::PlanFailed { plan, reason } => self.on_plan_failed(&mut out, plan, reason),
            Event::Due(timer) => self.on_due(&mut out, timer),
            Event::Operator { who, request } => self.on_operator(&mut out, who, request),
        }
        self.begin_next(&mut out);
        out.effects
    }

    /// An evolution keeps the policy that it began with until its end.
    fn on_configured(&mut self, policy: Policy) {
        if self.policy.is_none() || matches!(self.phase, Phase::Steady | Phase::Held) {
            self.policy = Some(policy);
        } else {
            self.next_policy = Some(policy);
        }
    }

    fn on_due(&mut self, out: &mut Out, timer: Timer) {
        // The timer may have been cleared while its event was on the way.
        if self.timers.remove(&timer).is_none() {
            return;
        }
        match timer {
            Timer::Phase => self.on_deadline(out),
            Timer::Window => self.on_window_over(out),
            Timer::Recheck => self.on_recheck(out),
            Timer::Plan => self.on_plan_due(out),
            // The evolution that waited for it begins below, as after every event.
            Timer::Retry => {}
            Timer::RestartA => self.on_backoff_over(out, Slot::A),
            Timer::RestartB => self.on_backoff_over(out, Slot::B),
        }
    }

    /// The policy in force. Every phase but Empty is entered after a `Configured`.
    pub(super) fn rules(&self) -> &Policy {
        self.policy.as_ref().expect("no phase but Empty is entered without a policy")
    }

    /// Enters a phase. If the phase has a deadline, the caller sets it.
    pub(super) fn enter(&mut self, out: &mut Out, phase: Phase) {
        for timer in [Timer::Phase, Timer::Window, Timer::Recheck, Timer::Plan] {
            self.clear(out, timer);
        }
        self.plan = None;
        if let Some(evolution) = &mut self.evolution {
            evolution.waits_for = None;
        }
        self.phase = phase;
        self.phase_since = out.at;
        (self.regained, self.extended_ms) = (false, 0);
    }

    pub(super) fn arm(&mut self, out: &mut Out, timer: Timer, after_ms: u64, reason: Reason) {
        self.arm_at(out, timer, out.at.plus_ms(after_ms), reason);
    }

    pub(super) fn arm_at(&mut self, out: &mut Out, timer: Timer, at: Timestamp, reason: Reason) {
        self.timers.insert(timer, Armed { at, reason: reason.clone() });
        out.push(Effect::SetTimer { timer, at, reason });
    }

    /// Gives up, because there is no version to supervise. The next start of rei gets the whole time again.
    pub(super) fn give_up(&mut self, out: &mut Out, reason: Reason) {
        self.clear(out, Timer::Phase);
        out.push(Effect::GiveUp { reason });
    }

    pub(super) fn clear(&mut self, out: &mut Out, timer: Timer) {
        if self.timers.remove(&timer).is_some() {
            out.push(Effect::ClearTimer { timer });
        }
    }

    /// A maintenance record about the evolution under way.
    pub(super) fn record(&self, out: &mut Out, action: MaintenanceAction, by: &str, reason: Reason) {
        let evolution = self.evolution.as_ref();
        let active = self.active.as_ref().map(|active| active.version.clone());
        let (from, to) = match action {
            MaintenanceAction::Promoted => (self.previous.as_ref().map(|previous| previous.version.clone()), active),
            MaintenanceAction::RolledBack => (evolution.and_then(|evolution| evolution.version.clone()), active),
            MaintenanceAction::Rejected
            | MaintenanceAction::Unchanged
            | MaintenanceAction::Restarted
            | MaintenanceAction::Deferred => (active.clone(), active),
        };
        out.push(Effect::Record(Maintenance {
            action,
            evolution: evolution.map(|evolution| evolution.id.clone()),
            incident: evolution.and_then(|evolution| evolution.incident.clone()),
            candidate: evolution.filter(|it| it.version.is_some()).map(|it| it.candidate.clone()),
            report: evolution.and_then(|it| it.report.as_ref()).map(|report| report.id.clone()),
            decided_by: by.to_owned(),
            reason,
            from,
            to,
        }));
    }
}

/// The name in `decided_by` if no operator decided.
pub(super) const SUPERVISOR: &str = "supervisor";
