//! What a monitor has seen of its version. Detectors ask it; nothing here decides what is wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::{ErrorBound, Incidents};
use crate::interface::types::{PolicyAnomaly, ProcessUsage};
use crate::live::{Curve, Latencies, Sample, Series, Source, Usage};
use crate::time::Timestamp;

use super::condition::Sustained;
use super::finding::Cause;
use super::fingerprint::truncate;
use super::growth::Growth;
use super::self_report::{SelfReport, TEXT_BYTES_MAX};
use super::signal::{Probe, ProbeOutcome, Signal, Sources};

use super::window::{Samples, Tally, quantile};

/// Probes in a row that miss their deadline, or own reports in a row that do not come, until it hangs. A missed watchdog
/// is enough by itself: its time is the runtime's own promise, as under systemd.
pub(super) const MISSES_MAX: u32 = 3;
/// The error condition if none is configured: whatever the bounds are, a runtime that fails half of its probes is broken.
const ERRORS_DEFAULT: ErrorBound = ErrorBound { ratio: 0.5, r#for: Duration::from_secs(10) };
/// The share of latencies that may exceed the bound of a 99th percentile.
pub(super) const P99_RATIO: f64 = 0.01;
/// Healthy probes from which the latency of this version is learned; the first [`COLD`] are left out.
pub(super) const LEARN: usize = 200;
/// The first probes of a process, whose latency says little: caches are empty, code is not compiled yet.
pub(super) const COLD: u64 = 10;
/// If no bound is configured, latency is bad over this many times the learned p99, and at least so much above it, in
/// microseconds: a p99 of 200 µs that becomes 800 µs is seldom worth waking anyone.
const LEARNED_FACTOR: u64 = 3;
const LEARNED_FLOOR_US: u64 = 20_000;
/// And for so long.
const LEARNED_FOR: Duration = Duration::from_secs(30);
/// Policy anomalies that are read in one own report, and that are kept for the health report.
pub(super) const ANOMALIES_MAX: usize = 32;
/// Restart times that are kept for the crash loop, whatever number is configured.
pub(super) const RESTARTS_MAX: usize = 256;
/// The time that a report's figures cover, in milliseconds; more if probes are rarer than a third of it.
const WINDOW_MS: u64 = 60_000;

/// What was seen of one process. The next process begins with none of it.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessEvidence {
    pub ready: Option<bool>,
    /// Latencies that were measured, and since when they count: the first ones are of a cold process.
    pub measured: u64,
    pub warm_since: Option<Timestamp>,
    pub usage: Option<(Timestamp, ProcessUsage)>,
    /// When it was first measured, what it served since, and its memory and descriptors over its life.
    pub measured_since: Option<Timestamp>,
    pub served: u64,
    pub curve: Curve,
    pub report: Option<SelfReport>,
    pub last_good_probe: Option<Timestamp>,
    pub failed_in_a_row: u32,
    pub timed_out_in_a_row: u32,
    pub reports_missed: u32,
    pub watchdog_missed: bool,
}

/// The last time that a cause was noted, and how often it was.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub at: Timestamp,
    /// How often the cause was noted, whatever the fingerprint.
    pub count: u64,
    /// The fingerprint of the last finding, and how often that one was found.
    pub fingerprint: String,
    pub occurrence: u64,
}

/// All that a monitor has seen.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub now: Timestamp,
    pub sources: Sources,
    pub incidents: Incidents,

    pub process: ProcessEvidence,
    /// How it ended, until it is started again.
    pub down: Option<String>,
    pub restarts: u64,
    pub restarted_at: VecDeque<Timestamp>,
    noted: BTreeMap<Cause, Noted>,

    pub samples: Samples,
    pub probes: Sustained,
    /// Requests of users, as the source counts them that saw most.
    pub traffic: Sustained,
    /// The same requests over the operator's bound of latency.
    pub slow_traffic: Option<Sustained>,
    /// Requests of users as each source saw them.
    pub requests: Series,
    /// Signs of life.
    pub alive: Tally,
    /// Processor time between two looks, and of how much time, both in milliseconds.
    processors: [Tally; 2],
    /// The latency bound in microseconds, and the probes over it.
    pub slow: Option<(u64, Sustained)>,
    pub healthy_probes: u64,
    pub memory: Growth,
    pub fds: Growth,
    /// The last policy anomalies.
    pub anomalies: VecDeque<(Timestamp, PolicyAnomaly)>,
    /// Fingerprints of policy anomalies that have an incident of their own.
    pub anomaly_fingerprints: Vec<String>,
    /// The version that the runtime asked for last.
    pub upgrade_wanted: Option<String>,
}

impl Evidence {
    /// Nothing is seen yet.
    pub fn new(incidents: &Incidents, sources: Sources, at: Timestamp) -> Self {
        let errors = incidents.errors.clone().unwrap_or(ERRORS_DEFAULT);
        let slow = incidents.latency.as_ref().map(|bound| {
            let us = u64::try_from(bound.p99.as_micros()).unwrap_or(u64::MAX);
            (us, Sustained::new(P99_RATIO, bound.r#for))
        });
        Self {
            now: at,
            sources,
            incidents: incidents.clone(),
            process: ProcessEvidence::default(),
            down: None,
            restarts: 0,
            restarted_at: VecDeque::new(),
            noted: BTreeMap::new(),
            samples: Samples::default(),
            probes: Sustained::new(errors.ratio, errors.r#for),
            traffic: Sustained::of_requests(errors.ratio, errors.r#for),
            slow_traffic: incidents.latency.as_ref().map(|it| Sustained::of_requests(P99_RATIO, it.r#for)),
            requests: Series::default(),
            alive: Tally::new(),
            processors: [Tally::new(), Tally::new()],
            slow,
            healthy_probes: 0,
            memory: Growth::new(incidents.memory.clone(), "bytes"),
            fds: Growth::new(incidents.fds.clone(), "descriptors"),
            anomalies: VecDeque::new(),
            anomaly_fingerprints: Vec::new(),
            upgrade_wanted: None,
        }
    }

    /// Takes a signal that came now.
    pub fn take(&mut self, signal: Signal) {
        match signal {
            Signal::Probe(probe) => self.probe(&probe),
            Signal::Exited(exit) => {
                self.new_process();
                self.down = Some(exit.status());
            }
            Signal::Restarted => self.restarted(),
            Signal::Usage(usage) => self.used(usage),
            Signal::NativeReport(report) => {
                for anomaly in report.policy_anomalies.iter().flatten().take(ANOMALIES_MAX) {
                    self.anomaly(anomaly);
                }
                self.process.reports_missed = 0;
                self.process.report = Some(SelfReport::of(self.now, &report));
            }
            Signal::ReportGarbage { .. } => {}
            Signal::ReportMissed => self.process.reports_missed = self.process.reports_missed.saturating_add(1),
            Signal::Watchdog => self.process.watchdog_missed = false,
            Signal::WatchdogMissed => self.process.watchdog_missed = true,
            Signal::Ready(ready) => self.process.ready = Some(ready),
            Signal::PolicyAnomaly(anomaly) => self.anomaly(&anomaly),
            Signal::Traffic(source, sample) => self.requested(source, &sample),
        }
    }

    /// Notes an occurrence of a cause now.
    pub fn note(&mut self, cause: Cause, fingerprint: &str, occurrence: u64) {
        let count = self.noted.get(&cause).map_or(0, |noted| noted.count).saturating_add(1);
        self.noted.insert(cause, Noted { at: self.now, count, fingerprint: fingerprint.to_owned(), occurrence });
    }

    /// The last time that a cause was noted; `None` if it never was.
    pub fn noted(&self, cause: Cause) -> Option<&Noted> {
        self.noted.get(&cause)
    }

    /// Brings what lasts up to now, before detectors ask.
    pub fn settle(&mut self) {
        let slow = self.slow.as_mut().map(|(_, slow)| slow).into_iter().chain(&mut self.slow_traffic);
        for sustained in [&mut self.probes, &mut self.traffic].into_iter().chain(slow) {
            sustained.settle(self.now);
        }
    }

    /// Equal occurrences that a cause needs before it asks for an evolution.
    pub fn repeats(&self) -> u64 {
        self.incidents.repeats.max(1)
    }

    /// The own report, while it is fresh: for three intervals.
    pub fn report(&self) -> Option<&SelfReport> {
        let fresh_ms = self.sources.interface_ms.unwrap_or(WINDOW_MS).saturating_mul(3);
        self.process.report.as_ref().filter(|report| self.now.ms_since(report.at) <= fresh_ms)
    }

    pub fn window_ms(&self) -> u64 {
        WINDOW_MS.max(self.sources.probe_ms.unwrap_or(0).saturating_mul(3))
    }

    /// Whether this happened within the time that a report covers.
    pub fn is_fresh(&self, when: Option<Timestamp>) -> bool {
        when.is_some_and(|when| self.now.ms_since(when) <= self.window_ms())
    }

    /// Processors that its processes took on average, in thousandths; `None` if nobody measured.
    pub fn processors_milli(&self, since: Timestamp, at: Timestamp) -> Option<u64> {
        let [used_ms, of_ms] = self.processors.each_ref().map(|tally| tally.between(since, at).total);
        used_ms.saturating_mul(1_000).checked_div(of_ms)
    }

    /// The clock was set back to `at`: the windows begin anew.
    pub fn rewind(&mut self, at: Timestamp) {
        self.probes.rewind();
        self.traffic.rewind();
        self.slow_traffic.iter_mut().for_each(Sustained::rewind);
        self.requests.rewind();
        self.alive = Tally::new();
        self.processors = [Tally::new(), Tally::new()];
        if let Some((_, slow)) = &mut self.slow {
            slow.rewind();
        }
        self.samples = Samples::default();
        self.memory.restart();
        self.fds.restart();
        self.process.last_good_probe = None;
        self.process.usage = None;
        self.process.measured_since = None;
        self.process.curve = Curve::default();
        self.process.report = None;
        self.process.warm_since = self.process.warm_since.map(|time| time.min(at));
        for time in self.restarted_at.iter_mut().chain(self.anomalies.iter_mut().map(|(time, _)| time)) {
            *time = at.min(*time);
        }
        for noted in self.noted.values_mut() {
            noted.at = noted.at.min(at);
        }
        self.now = at;
    }

    /// What is kept, in bytes, without the size of this struct itself.
    pub fn bytes(&self) -> usize {
        let slow = self.slow.as_ref().map_or(0, |(_, slow)| slow.tally().bytes());
        let [used, of] = &self.processors;
        let tallies = [self.probes.tally(), self.traffic.tally(), &self.alive, used, of];
        let anomaly = |(_, it): &(Timestamp, PolicyAnomaly)| it.kind.len() + it.detail.len() + size_of_val(it);
        let noted = |it: &Noted| it.fingerprint.len() + size_of::<(Cause, Noted)>();
        tallies.map(Tally::bytes).iter().sum::<usize>()
            + slow
            + self.slow_traffic.as_ref().map_or(0, |slow| slow.tally().bytes())
            + self.requests.bytes()
            + self.samples.bytes()
            + self.memory.bytes()
            + self.fds.bytes()
            + self.process.curve.bytes()
            + self.process.report.as_ref().map_or(0, SelfReport::bytes)
            + self.restarted_at.capacity() * size_of::<Timestamp>()
            + self.noted.values().map(noted).sum::<usize>()
            + self.anomalies.iter().map(anomaly).sum::<usize>()
            + self.anomaly_fingerprints.iter().map(String::capacity).sum::<usize>()
    }

    fn probe(&mut self, probe: &Probe) {
        let (ok, late) = (probe.outcome == ProbeOutcome::Ok, probe.outcome == ProbeOutcome::TimedOut);
        let process = &mut self.process;
        self.probes.add(self.now, 1, u64::from(!ok));
        process.failed_in_a_row = if ok { 0 } else { process.failed_in_a_row.saturating_add(1) };
        process.timed_out_in_a_row = if late { process.timed_out_in_a_row.saturating_add(1) } else { 0 };
        if probe.outcome == ProbeOutcome::Failed {
            // How fast a refusal came says nothing about how fast an answer comes.
            return;
        }
        self.samples.add(self.now, probe.latency_us);
        process.measured = process.measured.saturating_add(1);
        if process.measured == COLD + 1 {
            process.warm_since = Some(self.now);
        }
        if let Some((bound_us, slow)) = &mut self.slow {
            slow.add(self.now, 1, u64::from(late || probe.latency_us > *bound_us));
        }
        if ok {
            process.last_good_probe = Some(self.now);
            self.learn();
        }
    }

    fn requested(&mut self, source: Source, sample: &Sample) {
        self.requests.add(self.now, source, sample);
        if self.requests.main_source() != Some(source) {
            return;
        }
        let all = sample.total();
        self.process.served = self.process.served.saturating_add(all.total());
        self.traffic.add(self.now, all.total(), all.failed());
        if let (Some(bound), Some(slow)) = (&self.incidents.latency, &mut self.slow_traffic) {
            let bound_us = u64::try_from(bound.p99.as_micros()).unwrap_or(u64::MAX);
            slow.add(self.now, all.latencies.total(), all.latencies.above(Latencies::bucket(bound_us)));
        }
    }

    /// Sets the latency bound from the first healthy probes if the operator has set none. It is learned once: a bound
    /// that followed the runtime would follow a slow decline as well.
    fn learn(&mut self) {
        self.healthy_probes = self.healthy_probes.saturating_add(1);
        if self.slow.is_some() || self.healthy_probes < COLD + LEARN as u64 {
            return;
        }
        let all = self.samples.between(Timestamp::default(), self.now);
        let mut steady = all[all.len().saturating_sub(LEARN)..].to_vec();
        steady.sort_unstable();
        let p99_us = quantile(&steady, 0.99);
        let bound_us = p99_us.saturating_mul(LEARNED_FACTOR).max(p99_us.saturating_add(LEARNED_FLOOR_US));
        self.slow = Some((bound_us, Sustained::new(P99_RATIO, LEARNED_FOR)));
    }

    fn restarted(&mut self) {
        self.new_process();
        self.down = None;
        self.restarts = self.restarts.saturating_add(1);
        self.restarted_at.push_back(self.now);
        let keep = usize::try_from(self.incidents.crash.restarts).unwrap_or(RESTARTS_MAX).clamp(1, RESTARTS_MAX);
        while self.restarted_at.len() > keep {
            self.restarted_at.pop_front();
        }
    }

    fn new_process(&mut self) {
        self.process = ProcessEvidence::default();
        self.memory.restart();
        self.fds.restart();
    }

    fn used(&mut self, usage: ProcessUsage) {
        let since = *self.process.measured_since.get_or_insert(self.now);
        if let Some(rss_bytes) = usage.rss_bytes {
            let age_ms = usage.uptime_ms.unwrap_or_else(|| self.now.ms_since(since));
            let fds = usage.fds.unwrap_or_default();
            self.process.curve.add(Usage { age_ms, rss_bytes, fds, requests: self.process.served });
        }
        if let Some(rss) = usage.rss_bytes {
            self.memory.add(self.now, rss);
        }
        if let Some(fds) = usage.fds {
            self.fds.add(self.now, fds);
        }
        if let Some((before, Some(was))) = self.process.usage.map(|(when, usage)| (when, usage.cpu_ms))
            && let Some(is) = usage.cpu_ms
        {
            let [used, of] = &mut self.processors;
            used.add(self.now, is.saturating_sub(was), 0);
            of.add(self.now, self.now.ms_since(before), 0);
        }
        if usage.pid.is_some() || usage.processes.is_some_and(|processes| processes > 0) {
            self.alive.add(self.now, 1, 0);
            self.process.usage = Some((self.now, usage));
        }
    }

    fn anomaly(&mut self, anomaly: &PolicyAnomaly) {
        let kept = |text: &str| truncate(text, TEXT_BYTES_MAX).to_owned();
        let anomaly = PolicyAnomaly { kind: kept(&anomaly.kind), detail: kept(&anomaly.detail) };
        self.anomalies.push_back((self.now, anomaly));
        while self.anomalies.len() > ANOMALIES_MAX {
            self.anomalies.pop_front();
        }
    }
}
