//! One version of the runtime under watch.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{ErrorBound, Incidents};
use crate::interface::types::{PolicyAnomaly, ProcessUsage, RuntimeHealthReport, RuntimeRef};
use crate::time::{Timestamp, millis};

use super::condition::{Condition, Sustained};
use super::finding::{Cause, Finding};
use super::fingerprint::{fingerprint, fingerprint_of_end, normalise, truncate};
use super::growth::Growth;
use super::ledger::Ledger;
use super::own::{Own, TEXT_BYTES_MAX};
use super::signal::{Exit, Outcome, Probe, Signal, Sources};
use super::window::{Samples, Tally, quantile};

/// What a monitor may keep, in bytes, whatever it is told: three of them are nothing beside the supervisor's 10 MiB.
pub const MONITOR_BYTES_MAX: usize = 128 << 10;

/// Probes that miss their deadline in a row, or own reports that do not come, before it hangs. A missed watchdog is
/// one by itself: its time is the runtime's own promise, as under systemd.
pub(super) const MISSES_MAX: u32 = 3;
/// What is an error condition where none is configured: whatever the bounds, half of the probes failing is broken.
const ERRORS_DEFAULT: ErrorBound = ErrorBound { ratio: 0.5, r#for: Duration::from_secs(10) };
/// The share of latencies that may exceed the bound of a 99th percentile.
pub(super) const P99_RATIO: f64 = 0.01;
/// Healthy probes from which the latency of this version is learned; the first [`COLD`] left out.
pub(super) const LEARN: usize = 200;
/// The first probes of a process, whose latency says little: caches are empty, code is not compiled yet.
pub(super) const COLD: u64 = 10;
/// Without a configured bound, latency is bad over this many times the learned p99, and at least so much above it, in
/// microseconds: a p99 of 200 µs that becomes 800 µs is seldom worth waking anyone.
const LEARNED_FACTOR: u64 = 3;
const LEARNED_FLOOR_US: u64 = 20_000;
/// And for so long.
const LEARNED_FOR: Duration = Duration::from_secs(30);
/// Equal policy anomalies and equal garbage are told at most once in this time, in milliseconds; all are counted.
const PACE_MS: u64 = 60_000;
/// Distinct policy anomalies that get an incident each; all others share one, so that no runtime floods the operator.
const ANOMALIES_MAX: usize = 8;
/// Anomalies that are looked at in one own report.
const ANOMALIES_PER_REPORT: usize = 32;
/// Time going back further than this is a clock that was set: windows begin anew. Less is taken as the time before.
const REWIND_MS: u64 = 5_000;
/// Restart times that are kept for the crash loop, whatever the configured number.
pub(super) const RESTARTS_MAX: usize = 256;

/// Watches one version: takes signals, tells findings. Restarts of the same version stay with the same monitor.
#[derive(Clone, Debug)]
pub struct Monitor {
    pub(super) runtime: RuntimeRef,
    pub(super) sources: Sources,
    pub(super) incidents: Incidents,
    pub(super) now: Timestamp,
    pub(super) seq: u64,

    pub(super) ready: Option<bool>,
    pub(super) down: Option<String>,
    pub(super) usage: Option<(Timestamp, ProcessUsage)>,
    pub(super) own: Option<Own>,
    pub(super) last_good_probe: Option<Timestamp>,
    pub(super) failed_in_a_row: u32,
    pub(super) timed_out_in_a_row: u32,
    pub(super) reports_missed: u32,
    pub(super) watchdog_missed: bool,
    pub(super) restarts: u64,
    pub(super) restarted_at: VecDeque<Timestamp>,
    /// When each cause was last found, and how often.
    pub(super) seen: [(Option<Timestamp>, u64); CAUSES],
    last_crash: Option<(String, u64)>,
    /// When garbage was found last that asks for an evolution.
    pub(super) garbage_repeated: Option<Timestamp>,

    pub(super) samples: Samples,
    /// Latencies of this process, and since when they count.
    pub(super) measured: u64,
    pub(super) warm_since: Option<Timestamp>,
    pub(super) probes: Sustained,
    pub(super) traffic: Sustained,
    /// Signs of life.
    pub(super) alive: Tally,
    /// Processor time between two looks, and of how much time, both in milliseconds.
    processors: [Tally; 2],
    /// The bound in microseconds and those over it.
    pub(super) slow: Option<(u64, Sustained)>,
    pub(super) healthy_probes: u64,
    pub(super) memory: (Growth, Condition),
    pub(super) fds: (Growth, Condition),
    pub(super) hang: Condition,
    pub(super) crash_loop: Condition,
    ledger: Ledger,
    /// Distinct fingerprints of policy anomalies, and the last anomalies themselves.
    anomaly_fingerprints: Vec<String>,
    pub(super) anomalies: VecDeque<(Timestamp, PolicyAnomaly)>,
    upgrade_wanted: Option<String>,
}

const CAUSES: usize = Cause::UpgradeWanted as usize + 1;

impl Monitor {
    /// A monitor that has seen nothing.
    pub fn new(runtime: RuntimeRef, incidents: &Incidents, sources: Sources, at: Timestamp) -> Self {
        let errors = incidents.errors.clone().unwrap_or(ERRORS_DEFAULT);
        let slow = incidents.latency.as_ref().map(|bound| {
            let us = u64::try_from(bound.p99.as_micros()).unwrap_or(u64::MAX);
            (us, Sustained::new(P99_RATIO, bound.r#for))
        });
        Self {
            runtime,
            sources,
            incidents: incidents.clone(),
            now: at,
            seq: 0,
            ready: None,
            down: None,
            usage: None,
            own: None,
            last_good_probe: None,
            failed_in_a_row: 0,
            timed_out_in_a_row: 0,
            reports_missed: 0,
            watchdog_missed: false,
            restarts: 0,
            restarted_at: VecDeque::new(),
            seen: [(None, 0); CAUSES],
            last_crash: None,
            garbage_repeated: None,
            samples: Samples::default(),
            measured: 0,
            warm_since: None,
            probes: Sustained::new(errors.ratio, errors.r#for),
            traffic: Sustained::new(errors.ratio, errors.r#for),
            alive: Tally::new(),
            processors: [Tally::new(), Tally::new()],
            slow,
            healthy_probes: 0,
            memory: (Growth::new(incidents.memory.clone(), "bytes"), Condition::default()),
            fds: (Growth::new(incidents.fds.clone(), "descriptors"), Condition::default()),
            hang: Condition::default(),
            crash_loop: Condition::default(),
            ledger: Ledger::default(),
            anomaly_fingerprints: Vec::new(),
            anomalies: VecDeque::new(),
            upgrade_wanted: None,
        }
    }

    /// Says anew whose health this is, when the version's state or its instance changes.
    pub fn set_runtime(&mut self, runtime: RuntimeRef) {
        self.runtime = runtime;
    }

    /// Takes over how often a fingerprint was seen before this monitor began, from the journal.
    pub fn remember(&mut self, fingerprint: &str, occurrences: u64) {
        self.ledger.remember(self.now, fingerprint, occurrences);
    }

    /// Takes a signal that came at `at` and tells what follows from it.
    pub fn observe(&mut self, at: Timestamp, signal: Signal) -> Vec<Finding> {
        self.advance(at);
        let mut found = Vec::new();
        match signal {
            Signal::Probe(probe) => self.probe(&probe),
            Signal::Exited(exit) => found.push(self.exited(&exit)),
            Signal::Restarted => self.restarted(),
            Signal::Usage(usage) => self.used(usage),
            Signal::NativeReport(report) => found.extend(self.reported(&report)),
            Signal::ReportGarbage { detail } => found.extend(self.garbage(&detail)),
            Signal::ReportMissed => self.reports_missed = self.reports_missed.saturating_add(1),
            Signal::Watchdog => self.watchdog_missed = false,
            Signal::WatchdogMissed => self.watchdog_missed = true,
            Signal::Ready(ready) => self.ready = Some(ready),
            Signal::PolicyAnomaly(anomaly) => found.extend(self.anomaly(&anomaly)),
            Signal::Traffic(count) => self.traffic.add(self.now, count.total, count.failed),
        }
        found.extend(self.update());
        found
    }

    /// Lets time pass and tells what follows from it. Once a second is enough.
    pub fn tick(&mut self, at: Timestamp) -> Vec<Finding> {
        self.advance(at);
        self.update()
    }

    /// The joined report: the supervisor's evidence, lowered by the runtime's own where that is worse.
    pub fn report(&mut self, at: Timestamp) -> RuntimeHealthReport {
        self.advance(at);
        self.seq += 1;
        self.joined()
    }

    /// What this monitor keeps, in bytes; below [`MONITOR_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        let slow = self.slow.as_ref().map_or(0, |(_, slow)| slow.tally().bytes());
        let [used, of] = &self.processors;
        let tallies = [self.probes.tally(), self.traffic.tally(), &self.alive, used, of];
        let anomaly = |(_, it): &(Timestamp, PolicyAnomaly)| it.kind.len() + it.detail.len() + size_of_val(it);
        size_of::<Self>()
            + tallies.map(Tally::bytes).iter().sum::<usize>()
            + slow
            + self.samples.bytes()
            + self.memory.0.bytes()
            + self.fds.0.bytes()
            + self.ledger.bytes()
            + self.own.as_ref().map_or(0, Own::bytes)
            + self.restarted_at.capacity() * size_of::<Timestamp>()
            + self.anomalies.iter().map(anomaly).sum::<usize>()
            + self.anomaly_fingerprints.iter().map(String::capacity).sum::<usize>()
    }

    /// Processors that its processes took on average, in thousandths; `None` where nobody measured.
    pub(super) fn processors_milli(&self, since: Timestamp, at: Timestamp) -> Option<u64> {
        let [used_ms, of_ms] = self.processors.each_ref().map(|tally| tally.between(since, at).total);
        used_ms.saturating_mul(1_000).checked_div(of_ms)
    }

    /// The clock never goes back by a little; a big step back begins the windows anew.
    fn advance(&mut self, at: Timestamp) {
        if self.now.ms_since(at) > REWIND_MS {
            self.probes.rewind();
            self.traffic.rewind();
            self.alive = Tally::new();
            self.processors = [Tally::new(), Tally::new()];
            if let Some((_, slow)) = &mut self.slow {
                slow.rewind();
            }
            for condition in [&mut self.hang, &mut self.crash_loop, &mut self.memory.1, &mut self.fds.1] {
                condition.rewind();
            }
            self.samples = Samples::default();
            self.memory.0.restart();
            self.fds.0.restart();
            self.ledger.rewind(at);
            self.last_good_probe = None;
            self.usage = None;
            self.own = None;
            self.warm_since = self.warm_since.map(|time| time.min(at));
            self.garbage_repeated = self.garbage_repeated.map(|time| time.min(at));
            for time in self.restarted_at.iter_mut().chain(self.anomalies.iter_mut().map(|(time, _)| time)) {
                *time = at.min(*time);
            }
            for (time, _) in &mut self.seen {
                *time = time.map(|time| time.min(at));
            }
            self.now = at;
        }
        self.now = self.now.max(at);
    }

    fn probe(&mut self, probe: &Probe) {
        let ok = probe.outcome == Outcome::Ok;
        self.probes.add(self.now, 1, u64::from(!ok));
        self.failed_in_a_row = if ok { 0 } else { self.failed_in_a_row.saturating_add(1) };
        let late = probe.outcome == Outcome::TimedOut;
        self.timed_out_in_a_row = if late { self.timed_out_in_a_row.saturating_add(1) } else { 0 };
        if probe.outcome == Outcome::Failed {
            // How fast a refusal came says nothing about how fast an answer comes.
            return;
        }
        self.samples.add(self.now, probe.latency_us);
        self.measured = self.measured.saturating_add(1);
        if self.measured == COLD + 1 {
            self.warm_since = Some(self.now);
        }
        if let Some((bound_us, slow)) = &mut self.slow {
            slow.add(self.now, 1, u64::from(late || probe.latency_us > *bound_us));
        }
        if ok {
            self.last_good_probe = Some(self.now);
            self.learn();
        }
    }

    /// Sets the latency bound from the first healthy probes where the operator has set none. It is learned once: a bound
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

    fn exited(&mut self, exit: &Exit) -> Finding {
        let status = exit.status();
        let fingerprint = match &exit.reason {
            Some(reason) => fingerprint(Cause::Crash.word(), reason, &exit.frames),
            None => fingerprint_of_end(Cause::Crash.word(), &status, &exit.last_words),
        };
        let occurrence = self.ledger.count(self.now, &fingerprint);
        let lived = exit.ran_ms as f64 / 1_000.0;
        let line = |text: &str| truncate(text.lines().next().unwrap_or(""), TEXT_BYTES_MAX).to_owned();
        let summary = match (&exit.reason, exit.last_words.first()) {
            (Some(reason), _) => format!("{} ({status} after {lived} s)", line(reason)),
            (None, Some(words)) => format!("ended with {status} after {lived} s; it said last: {}", line(words)),
            (None, None) => format!("ended with {status} after {lived} s"),
        };
        self.new_process();
        self.down = Some(status.clone());
        self.last_crash = Some((fingerprint.clone(), occurrence));
        self.finding(Cause::Crash, fingerprint, summary, occurrence, occurrence >= self.incidents.repeats.max(1))
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

    /// Nothing that was known of the process before is true of the next.
    fn new_process(&mut self) {
        self.ready = None;
        self.measured = 0;
        self.warm_since = None;
        self.usage = None;
        self.own = None;
        self.last_good_probe = None;
        self.failed_in_a_row = 0;
        self.timed_out_in_a_row = 0;
        self.reports_missed = 0;
        self.watchdog_missed = false;
        self.memory.0.restart();
        self.fds.0.restart();
    }

    fn used(&mut self, usage: ProcessUsage) {
        if let Some(rss) = usage.rss_bytes {
            self.memory.0.add(self.now, rss);
        }
        if let Some(fds) = usage.fds {
            self.fds.0.add(self.now, fds);
        }
        if let Some((before, Some(was))) = self.usage.map(|(when, usage)| (when, usage.cpu_ms))
            && let Some(is) = usage.cpu_ms
        {
            let [used, of] = &mut self.processors;
            used.add(self.now, is.saturating_sub(was), 0);
            of.add(self.now, self.now.ms_since(before), 0);
        }
        if usage.pid.is_some() || usage.processes.is_some_and(|processes| processes > 0) {
            self.alive.add(self.now, 1, 0);
            self.usage = Some((self.now, usage));
        }
    }

    fn reported(&mut self, report: &RuntimeHealthReport) -> Vec<Finding> {
        self.reports_missed = 0;
        let own = Own::of(self.now, report);
        let mut found = Vec::new();
        let anomalies = report.policy_anomalies.iter().flatten().take(ANOMALIES_PER_REPORT);
        for anomaly in anomalies {
            found.extend(self.anomaly(anomaly));
        }
        if let Some(rev) = &own.upgrade_wanted
            && self.upgrade_wanted.as_ref() != Some(rev)
        {
            self.upgrade_wanted = Some(rev.clone());
            let fingerprint = fingerprint(Cause::UpgradeWanted.word(), "", std::slice::from_ref(rev));
            if let Some(occurrence) = self.ledger.count_paced(self.now, &fingerprint, PACE_MS) {
                let summary = format!("the runtime asks to become {rev}");
                found.push(self.finding(Cause::UpgradeWanted, fingerprint, summary, occurrence, true));
            }
        }
        self.own = Some(own);
        found
    }

    fn garbage(&mut self, detail: &str) -> Option<Finding> {
        // One fingerprint for all garbage: its content is whatever the runtime likes.
        let fingerprint = fingerprint(Cause::InterfaceGarbage.word(), "", &[]);
        let occurrence = self.ledger.count_paced(self.now, &fingerprint, PACE_MS)?;
        let summary = format!("no valid message on the interface: {}", truncate(detail, TEXT_BYTES_MAX));
        let evolve = occurrence >= self.incidents.repeats.max(1);
        if evolve {
            self.garbage_repeated = Some(self.now);
        }
        Some(self.finding(Cause::InterfaceGarbage, fingerprint, summary, occurrence, evolve))
    }

    fn anomaly(&mut self, anomaly: &PolicyAnomaly) -> Option<Finding> {
        let kind = truncate(&anomaly.kind, TEXT_BYTES_MAX);
        let detail = truncate(&anomaly.detail, TEXT_BYTES_MAX);
        self.anomalies.push_back((self.now, PolicyAnomaly { kind: kind.into(), detail: detail.into() }));
        while self.anomalies.len() > ANOMALIES_PER_REPORT {
            self.anomalies.pop_front();
        }
        let mut print = fingerprint(Cause::PolicyAnomaly.word(), kind, &[normalise(detail)]);
        if !self.anomaly_fingerprints.contains(&print) {
            if self.anomaly_fingerprints.len() < ANOMALIES_MAX {
                self.anomaly_fingerprints.push(print.clone());
            } else {
                print = fingerprint(Cause::PolicyAnomaly.word(), "others", &[]);
            }
        }
        self.seen[Cause::PolicyAnomaly as usize].0 = Some(self.now);
        let occurrence = self.ledger.count_paced(self.now, &print, PACE_MS)?;
        Some(self.finding(Cause::PolicyAnomaly, print, format!("{kind}: {detail}"), occurrence, true))
    }

    /// Brings every lasting condition up to now and tells those that open.
    fn update(&mut self) -> Vec<Finding> {
        let (now, mut found) = (self.now, Vec::new());
        let within_ms = millis(self.incidents.crash.within);
        let loops = self.detect_crash_loop();
        if self.crash_loop.update(now, loops.verdict, within_ms) {
            // Where equal crashes have asked for an evolution already, the loop is the same fault and asks for no second.
            let asked = self.last_crash.as_ref().is_some_and(|(_, count)| *count >= self.incidents.repeats.max(1));
            let of = self.last_crash.as_ref().map_or(String::new(), |(fingerprint, _)| fingerprint.clone());
            let print = fingerprint(Cause::CrashLoop.word(), "", &[of]);
            found.push(self.lasting(Cause::CrashLoop, print, loops.detail, !asked));
        }
        let hang = self.detect_hang();
        if self.hang.update(now, hang.verdict, 0) {
            let print = fingerprint(Cause::Hang.word(), "", &[]);
            found.push(self.lasting(Cause::Hang, print, hang.detail, true));
        }
        if self.slow.as_mut().is_some_and(|(_, slow)| slow.update(now)) {
            let (print, detail) = (fingerprint(Cause::Latency.word(), "", &[]), self.detect_latency().detail);
            found.push(self.lasting(Cause::Latency, print, detail, true));
        }
        if self.probes.update(now) {
            let (print, seen) =
                (fingerprint(Cause::Errors.word(), "probe", &[]), self.probes.detect(now, "probes failed"));
            found.push(self.lasting(Cause::Errors, print, seen.detail, true));
        }
        if self.traffic.update(now) {
            let seen = self.traffic.detect(now, "exchanges failed");
            found.push(self.lasting(
                Cause::Errors,
                fingerprint(Cause::Errors.word(), "traffic", &[]),
                seen.detail,
                true,
            ));
        }
        for cause in [Cause::MemoryGrowth, Cause::FdGrowth] {
            let (growth, condition) = if cause == Cause::FdGrowth { &mut self.fds } else { &mut self.memory };
            let seen = growth.detect();
            if condition.update(now, seen.verdict, 0) {
                found.push(self.lasting(cause, fingerprint(cause.word(), "", &[]), seen.detail, true));
            }
        }
        found
    }

    fn lasting(&mut self, cause: Cause, fingerprint: String, summary: String, evolve: bool) -> Finding {
        let occurrence = self.ledger.count(self.now, &fingerprint);
        self.finding(cause, fingerprint, summary, occurrence, evolve)
    }

    fn finding(
        &mut self,
        cause: Cause,
        fingerprint: String,
        summary: String,
        occurrence: u64,
        evolve: bool,
    ) -> Finding {
        let (time, count) = &mut self.seen[cause as usize];
        *time = Some(self.now);
        *count = count.saturating_add(1);
        Finding { class: cause.class(), cause, severity: cause.severity(), fingerprint, summary, occurrence, evolve }
    }
}
