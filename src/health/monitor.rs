//! Watches one version of the runtime: takes signals, returns findings.

use std::collections::BTreeMap;

use crate::config::Incidents;
use crate::interface::types::{HealthStatus, RuntimeHealthReport, RuntimeRef};
use crate::live::{Sample, Series, Source};
use crate::time::Timestamp;

use super::condition::{Condition, Detection};
use super::detectors::{DETECTORS, Evolve, Impact, Occurrence, PACE_MS, measures};
use super::evidence::{Evidence, MISSES_MAX};
use super::finding::{Cause, Finding};
use super::fingerprint::fingerprint;
use super::ledger::Ledger;
use super::report::{joined, lowered};
use super::signal::{Signal, Sources};

/// What a monitor may keep, in bytes, whatever signals come. Without requests of users it keeps less than 128 KiB; three
/// sources with 64 routes each, and latencies of every length on each route, are the rest.
pub const MONITOR_BYTES_MAX: usize = 2 << 20;

/// A clock that goes back by more milliseconds than this was set: windows begin anew. Less is taken as the time before.
const REWIND_MS: u64 = 5_000;

/// Watches one version: takes signals, returns findings. Restarts of the same version stay with the same monitor.
#[derive(Clone, Debug)]
pub struct Monitor {
    runtime: RuntimeRef,
    seq: u64,
    pub(super) evidence: Evidence,
    /// One for each of [`measures`], in that order.
    conditions: Vec<Condition>,
    ledger: Ledger,
}

impl Monitor {
    /// A monitor that has seen nothing.
    pub fn new(runtime: RuntimeRef, incidents: &Incidents, sources: Sources, at: Timestamp) -> Self {
        Self {
            runtime,
            seq: 0,
            evidence: Evidence::new(incidents, sources, at),
            conditions: measures().map(|_| Condition::default()).collect(),
            ledger: Ledger::default(),
        }
    }

    /// Says anew whose health this is, when the version's state or its instance changes.
    pub fn set_runtime(&mut self, runtime: RuntimeRef) {
        self.runtime = runtime;
    }

    /// Takes over how often a fingerprint was seen before this monitor began, from the journal.
    pub fn remember(&mut self, fingerprint: &str, occurrences: u64) {
        self.ledger.remember(self.evidence.now, fingerprint, occurrences);
    }

    /// Takes a signal that came at `at` and returns what follows from it.
    pub fn observe(&mut self, at: Timestamp, signal: Signal) -> Vec<Finding> {
        self.advance(at);
        let mut found = Vec::new();
        for detector in DETECTORS {
            for occurrence in (detector.occurred)(&mut self.evidence, &signal) {
                found.extend(self.occurred(detector.cause, occurrence));
            }
        }
        self.evidence.take(signal);
        found.extend(self.update());
        found
    }

    /// Lets time pass and returns what follows from it. Once a second is enough.
    pub fn tick(&mut self, at: Timestamp) -> Vec<Finding> {
        self.advance(at);
        self.update()
    }

    /// The requests of users, as each source saw them.
    pub fn requests(&self) -> &Series {
        &self.evidence.requests
    }

    /// Takes what each source saw since the last call.
    pub fn take_requests(&mut self) -> BTreeMap<Source, Sample> {
        self.evidence.requests.take_pending()
    }

    /// What each detector says of the evidence.
    pub fn detections(&self) -> Vec<(Cause, Detection)> {
        let detect = |detector: &super::detectors::Detector| Some((detector.cause, detector.detect(&self.evidence)?));
        DETECTORS.iter().filter_map(detect).collect()
    }

    /// The joined report: the supervisor's evidence, lowered by the runtime's own report if that is worse.
    pub fn report(&mut self, at: Timestamp) -> RuntimeHealthReport {
        self.advance(at);
        self.seq += 1;
        joined(&self.evidence, self.runtime.clone(), self.seq, self.status())
    }

    /// The whole in one word, as of the last signal: evidence of the supervisor, lowered by the runtime's own report.
    pub fn status(&self) -> HealthStatus {
        lowered(self.observed_status(), self.evidence.report())
    }

    /// What the supervisor's own evidence says. Ok needs fresh evidence: a good probe, or, if no probe is configured, a
    /// live process that did not say it is unready.
    pub(super) fn observed_status(&self) -> HealthStatus {
        let evidence = &self.evidence;
        let process = &evidence.process;
        let mut fatal = DETECTORS.iter().filter(|detector| detector.impact == Impact::Failed);
        if process.failed_in_a_row >= MISSES_MAX || fatal.any(|detector| detector.fails(evidence)) {
            return HealthStatus::Failed;
        }
        let degraded = |cause| DETECTORS.iter().any(|it| it.cause == cause && it.impact == Impact::Degraded);
        if process.ready == Some(false) || self.open().any(degraded) {
            return HealthStatus::Degraded;
        }
        let good = match evidence.sources.probe_ms {
            Some(_) => evidence.is_fresh(process.last_good_probe),
            None => process.ready == Some(true) && evidence.is_fresh(process.usage.as_ref().map(|(when, _)| *when)),
        };
        if good { HealthStatus::Ok } else { HealthStatus::Unknown }
    }

    /// The causes whose conditions are open.
    pub(super) fn open(&self) -> impl Iterator<Item = Cause> {
        let each = measures().zip(&self.conditions);
        each.filter(|(_, condition)| condition.is_open()).map(|((detector, _), _)| detector.cause)
    }

    /// What this monitor keeps, in bytes; below [`MONITOR_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        let conditions = self.conditions.capacity() * size_of::<Condition>();
        size_of::<Self>() + self.evidence.bytes() + conditions + self.ledger.bytes()
    }

    /// The clock never goes back by a little; a big step back begins the windows anew.
    fn advance(&mut self, at: Timestamp) {
        if self.evidence.now.ms_since(at) > REWIND_MS {
            self.evidence.rewind(at);
            self.conditions.iter_mut().for_each(Condition::rewind);
            self.ledger.rewind(at);
        }
        self.evidence.now = self.evidence.now.max(at);
    }

    fn occurred(&mut self, cause: Cause, occurrence: Occurrence) -> Option<Finding> {
        let Occurrence { fingerprint, summary, paced, evolve } = occurrence;
        let pause_ms = if paced { PACE_MS } else { 0 };
        let (count, due) = self.ledger.count(self.evidence.now, &fingerprint, pause_ms);
        self.evidence.note(cause, &fingerprint, count);
        let evolve = match evolve {
            Evolve::AtOnce => true,
            Evolve::Repeated => count >= self.evidence.repeats(),
        };
        due.then(|| finding(cause, fingerprint, summary, count, evolve))
    }

    /// Brings every condition up to now and returns a finding for each that opens.
    fn update(&mut self) -> Vec<Finding> {
        self.evidence.settle();
        let now = self.evidence.now;
        let mut found = Vec::new();
        for ((detector, measure), condition) in measures().zip(&mut self.conditions) {
            let Some(lasting) = &measure.lasting else { continue };
            let Detection { verdict, detail, .. } = (measure.detect)(&self.evidence);
            if condition.update(now, verdict, (lasting.close_ms)(&self.evidence)) {
                let frames = (lasting.frames)(&self.evidence);
                let fingerprint = fingerprint(detector.cause.word(), measure.part, &frames);
                let (count, _) = self.ledger.count(now, &fingerprint, 0);
                let evolve = (lasting.evolve)(&self.evidence);
                self.evidence.note(detector.cause, &fingerprint, count);
                found.push(finding(detector.cause, fingerprint, detail, count, evolve));
            }
        }
        found
    }
}

fn finding(cause: Cause, fingerprint: String, summary: String, occurrence: u64, evolve: bool) -> Finding {
    Finding { class: cause.class(), cause, severity: cause.severity(), fingerprint, summary, occurrence, evolve }
}
