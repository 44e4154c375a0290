//! What the signals of instances mean to the loop: findings, the end of a trial, Active's health.

use super::shell::Shell;
use crate::health::{self, Exit, Signal};
use crate::interface::evolution::EvolutionError;
use crate::interface::types::{PolicyAnomaly, Role, RuntimeHealthReport, RuntimeRef, Verdict};
use crate::lifecycle::{self, Event, Slot};

impl Shell {
    /// A health signal of the instance in a slot.
    pub(super) fn saw(&mut self, slot: Slot, signal: Signal) {
        let at = self.clock.now();
        if let Signal::Usage(usage) = &signal {
            self.watch.used(slot, *usage);
        }
        let found = self.watch.monitor(slot).map(|monitor| monitor.observe(at, signal)).unwrap_or_default();
        self.found(slot, found);
    }

    /// How an instance crashed, once its last words are read. The version may be running again by now.
    pub(super) fn saw_crash(&mut self, slot: Slot, store_path: &str, exit: Exit) {
        if self.watch.is_of(slot, store_path) {
            self.saw(slot, Signal::Exited(exit));
            if self.runs(slot) {
                self.saw(slot, Signal::Restarted);
            }
        }
    }

    fn found(&mut self, slot: Slot, findings: Vec<health::Finding>) {
        // While the journal cannot be written, events wait in a queue, and findings would fill it without a bound.
        if self.stalled.is_none() {
            let event = |finding: health::Finding| Event::Found { slot: Some(slot), finding: finding.into() };
            self.pending.extend(findings.into_iter().map(event));
        }
        self.judge_failure();
    }

    /// Tells at once when the version under trial has failed.
    fn judge_failure(&mut self) {
        if self.core.trial_slot().is_none() {
            return;
        }
        let at = self.clock.now();
        if let Some(analysis) = self.watch.judge(at).filter(|analysis| analysis.verdict == Verdict::Fail) {
            self.watch.end_trial();
            let reason = analysis.reasons.join("; ");
            self.pending.push_back(Event::Judged { verdict: Verdict::Fail, reason });
        }
    }

    /// Answers `Effect::Judge`.
    pub(super) fn judge_now(&mut self) {
        let at = self.clock.now();
        let event = match self.watch.judge(at) {
            Some(analysis) => {
                let wanted = analysis.waits_for.filter(|_| analysis.verdict == Verdict::Inconclusive);
                let reason = wanted.unwrap_or_else(|| analysis.reasons.join("; "));
                Event::Judged { verdict: analysis.verdict, reason }
            }
            None => Event::Judged {
                verdict: Verdict::Inconclusive,
                reason: "the instance under trial to run and to be probed".to_owned(),
            },
        };
        self.pending.push_back(event);
    }

    pub(super) fn watch_tick(&mut self) {
        let at = self.clock.now();
        for slot in Slot::ALL {
            let found = self.watch.monitor(slot).map(|monitor| monitor.tick(at)).unwrap_or_default();
            self.found(slot, found);
        }
        if let Ok(report) = self.health_report() {
            self.watch.push(report);
        }
    }

    /// Active's joined health.
    pub(super) fn health_report(&mut self) -> Result<RuntimeHealthReport, EvolutionError> {
        let at = self.clock.now();
        let none = || EvolutionError::NotAvailable { reason: "nothing is Active yet".to_owned() };
        let slot = self.core.active_slot().ok_or_else(none)?;
        self.watch.monitor(slot).map(|monitor| monitor.report(at)).ok_or_else(none)
    }

    /// A process of an instance did what none may.
    pub(super) fn anomaly(&mut self, slot: Slot, kind: &str, detail: String) {
        let anomaly = PolicyAnomaly { kind: kind.to_owned(), detail };
        self.saw(slot, Signal::PolicyAnomaly(anomaly));
    }

    /// Whose health the monitor of a slot reports.
    pub(super) fn runtime_ref(&self, slot: Slot, role: Role, instance: &str) -> RuntimeRef {
        let version = self.core.slot(slot).version.as_ref();
        RuntimeRef {
            name: self.tools.config.runtime.name.clone(),
            store_path: version.map(|version| version.store_path.clone()),
            commit: version.map(|version| version.rev.clone()),
            role: Some(role),
            generation: self.core.active().filter(|_| role == Role::Active).map(|active| active.generation),
            instance: Some(instance.to_owned()),
        }
    }
}

impl From<health::Finding> for lifecycle::Finding {
    fn from(finding: health::Finding) -> Self {
        Self {
            class: finding.class,
            cause: finding.cause.word().to_owned(),
            severity: finding.severity,
            fingerprint: finding.fingerprint,
            summary: finding.summary,
            evolve: finding.evolve,
        }
    }
}
