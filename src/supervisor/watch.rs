//! What the supervisor sees: a monitor for the version in each slot, and the judgement of the one under trial.

use super::shell::Shell;
use crate::config::{Config, Incidents};
use crate::health::{self, Analysis, Bounds, Exit, Learned, Monitor, Reference, Signal, Sources};
use crate::interface::evolution::EvolutionError;
use crate::interface::types::{PolicyAnomaly, ProcessUsage, Role, RuntimeHealthReport, RuntimeRef, Verdict};
use crate::lifecycle::{self, Event, Slot};
use crate::time::Timestamp;

/// Health reports that are kept for the evidence of an incident: a minute at one a second.
const SERIES_MAX: usize = 60;

/// All monitors.
pub struct Watch {
    incidents: Incidents,
    sources: Sources,
    bounds: Bounds,
    slots: [Option<Watched>; 2],
    trial: Option<Trial>,
    usage: [Option<ProcessUsage>; 2],
    series: std::collections::VecDeque<RuntimeHealthReport>,
}

/// The version in a slot under watch; restarts of it stay with the same monitor.
struct Watched {
    store_path: String,
    monitor: Monitor,
}

/// A canary step or a window.
struct Trial {
    slot: Slot,
    baseline: Option<Slot>,
    learned: Option<Learned>,
    since: Timestamp,
}

impl Watch {
    /// Nothing is watched yet.
    pub fn new(config: &Config) -> Self {
        Self {
            incidents: config.incidents.clone(),
            sources: Sources::of(&config.health),
            bounds: Bounds::of(&config.incidents),
            slots: [None, None],
            trial: None,
            usage: [None, None],
            series: std::collections::VecDeque::new(),
        }
    }

    /// Takes the bounds of a configuration that was read again; monitors that watch keep theirs.
    pub fn configure(&mut self, config: &Config) {
        self.incidents = config.incidents.clone();
        self.sources = Sources::of(&config.health);
        self.bounds = Bounds::of(&config.incidents);
    }

    /// Puts the version that starts in a slot under watch; one that is there already stays, with what is known of it.
    pub fn begin(&mut self, slot: Slot, store_path: &str, runtime: RuntimeRef, at: Timestamp) {
        let watched = &mut self.slots[slot.index()];
        match watched {
            Some(watched) if watched.store_path == store_path => watched.monitor.set_runtime(runtime),
            _ => {
                let monitor = Monitor::new(runtime, &self.incidents, self.sources, at);
                *watched = Some(Watched { store_path: store_path.to_owned(), monitor });
            }
        }
    }

    fn monitor(&mut self, slot: Slot) -> Option<&mut Monitor> {
        self.slots[slot.index()].as_mut().map(|watched| &mut watched.monitor)
    }

    /// Begins to look at the version under trial. Without a slot to compare with, what was learned of the version in
    /// the other slot, while it served, is the baseline, and that version as it is now the control.
    pub fn observe(&mut self, slot: Slot, baseline: Option<Slot>, since: Timestamp) {
        let learned = self.monitor(slot.other()).and_then(|monitor| monitor.learned());
        self.trial = Some(Trial { slot, baseline, learned, since });
    }

    /// Nothing is under trial any more.
    pub fn end_trial(&mut self) {
        self.trial = None;
    }

    /// What the evidence says of the version under trial; `None` when nothing is.
    fn judge(&self, at: Timestamp) -> Option<Analysis> {
        let trial = self.trial.as_ref()?;
        let candidate = &self.slots[trial.slot.index()].as_ref()?.monitor;
        let beside = trial.baseline.and_then(|slot| self.slots[slot.index()].as_ref());
        let reference = match (beside, &trial.learned) {
            (Some(watched), _) => Some(Reference::Beside(&watched.monitor)),
            (None, Some(learned)) => {
                let previous = self.slots[trial.slot.other().index()].as_ref();
                Some(Reference::Learned(learned, previous.map(|watched| &watched.monitor)))
            }
            (None, None) => None,
        };
        Some(health::judge(candidate, reference, trial.since, at, &self.bounds))
    }

    /// What the instance in a slot used at the last look.
    pub fn usage(&self, slot: Slot) -> Option<ProcessUsage> {
        self.usage[slot.index()]
    }

    /// The last reports of Active, oldest first.
    pub fn series(&self) -> Vec<RuntimeHealthReport> {
        self.series.iter().cloned().collect()
    }
}

impl Shell {
    /// A health signal of the instance in a slot.
    pub(super) fn saw(&mut self, slot: Slot, signal: Signal) {
        let at = self.clock.now();
        if let Signal::Usage(usage) = &signal {
            self.watch.usage[slot.index()] = Some(*usage);
        }
        let found = self.watch.monitor(slot).map(|monitor| monitor.observe(at, signal)).unwrap_or_default();
        self.found(slot, found);
    }

    /// How an instance crashed, once its last words are read. The version may be running again by now.
    pub(super) fn saw_crash(&mut self, slot: Slot, store_path: &str, exit: Exit) {
        let same = self.watch.slots[slot.index()].as_ref().is_some_and(|watched| watched.store_path == store_path);
        if same {
            self.saw(slot, Signal::Exited(exit));
            if self.runs(slot) {
                self.saw(slot, Signal::Restarted);
            }
        }
    }

    fn found(&mut self, slot: Slot, findings: Vec<health::Finding>) {
        // What is wrong with a candidate is told by its judgement, with what is wrong with standby nothing is done.
        // While nothing can be written down, findings would pile up; what is wrong still then is found again.
        if self.core.active_slot() == Some(slot) && self.stalled.is_none() {
            for finding in findings {
                self.pending.push_back(Event::Found(finding.into()));
            }
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
            self.watch.series.push_back(report);
            if self.watch.series.len() > SERIES_MAX {
                self.watch.series.pop_front();
            }
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
