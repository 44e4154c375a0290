//! The joined report: the supervisor's evidence first, the runtime's own words only where they are worse.

use std::collections::BTreeMap;

use crate::interface::types::{
    ErrorCount, HealthCheck, HealthStatus, PolicyAnomaly, ProcessUsage, RuntimeHealthReport, SCHEMA, Verdict,
};
use crate::time::Timestamp;

use super::finding::Cause;
use super::monitor::{MISSES_MAX, Monitor};
use super::own::Own;
use super::window::summary;

/// The time that a report's figures cover, in milliseconds, where probes are not rarer than a third of it.
const WINDOW_MS: u64 = 60_000;

impl Monitor {
    /// The whole in one word, as of the last signal: evidence of the supervisor, lowered by the runtime's own report.
    pub fn status(&self) -> HealthStatus {
        let evidence = self.evidence();
        match self.own().map(|own| own.status) {
            // A runtime that does not know says nothing against what was seen.
            None | Some(HealthStatus::Unknown) => evidence,
            Some(own) => evidence.worse_of(own),
        }
    }

    /// The supervisor's own word. Ok needs fresh evidence: a good probe, or, where no probe is configured, a live
    /// process that did not say it is unready.
    pub(super) fn evidence(&self) -> HealthStatus {
        let hangs = self.detect_hang().verdict == Verdict::Fail;
        if self.down.is_some() || hangs || self.failed_in_a_row >= MISSES_MAX {
            return HealthStatus::Failed;
        }
        let slow = self.slow.as_ref().is_some_and(|(_, slow)| slow.is_open());
        let lasting = [&self.crash_loop, &self.memory.1, &self.fds.1].iter().any(|condition| condition.is_open());
        if slow || lasting || self.probes.is_open() || self.traffic.is_open() || self.ready == Some(false) {
            return HealthStatus::Degraded;
        }
        let fresh = |when: Option<Timestamp>| when.is_some_and(|when| self.now.ms_since(when) <= self.window_ms());
        let good = match self.sources.probe_ms {
            Some(_) => fresh(self.last_good_probe),
            None => self.ready == Some(true) && fresh(self.usage.as_ref().map(|(when, _)| *when)),
        };
        if good { HealthStatus::Ok } else { HealthStatus::Unknown }
    }

    /// The own report, while it is fresh: three intervals.
    pub(super) fn own(&self) -> Option<&Own> {
        let fresh_ms = self.sources.interface_ms.unwrap_or(WINDOW_MS).saturating_mul(3);
        self.own.as_ref().filter(|own| self.now.ms_since(own.at) <= fresh_ms)
    }

    pub(super) fn window_ms(&self) -> u64 {
        WINDOW_MS.max(self.sources.probe_ms.unwrap_or(0).saturating_mul(3))
    }

    pub(super) fn joined(&self) -> RuntimeHealthReport {
        let window_ms = self.window_ms();
        let since = Timestamp::from_unix_ms(self.now.as_unix_ms().saturating_sub(window_ms));
        let own = self.own();
        let mut latency = own.map(|own| own.latency.clone()).unwrap_or_default();
        let samples = self.samples.between(since, self.now);
        if !samples.is_empty() {
            latency.insert("probe".into(), summary(samples));
        }
        let mut errors = own.map(|own| own.errors.clone()).unwrap_or_default();
        self.count(&mut errors, since);
        let mut checks: Vec<HealthCheck> = self.checks();
        checks.extend(own.into_iter().flat_map(|own| own.checks.clone()));
        let mut report = RuntimeHealthReport {
            schema: SCHEMA.into(),
            runtime: self.runtime.clone(),
            seq: self.seq,
            observed_at: self.now,
            window_ms,
            provider: "joined".into(),
            status: self.status(),
            ready: match (self.ready, own.and_then(|own| own.ready)) {
                (_, Some(false)) => Some(false),
                (evidence, _) => evidence,
            },
            process: self.process(),
            latency,
            errors,
            checks,
            policy_anomalies: self.policy(since),
            upgrade_wanted: own.and_then(|own| own.upgrade_wanted.clone()),
            unavailable: Vec::new(),
            other: BTreeMap::new(),
        };
        report.unavailable = unavailable(&report, own.is_some());
        report
    }

    fn count(&self, errors: &mut BTreeMap<String, ErrorCount>, since: Timestamp) {
        for (name, sustained) in [("probe", &self.probes), ("traffic", &self.traffic)] {
            let seen = sustained.tally().between(since, self.now);
            if seen.total > 0 {
                errors.insert(name.into(), ErrorCount { total: seen.total, failed: seen.bad });
            }
        }
    }

    /// Each detector as a named check; an inconclusive one says what it waits for.
    fn checks(&self) -> Vec<HealthCheck> {
        let check = |(cause, seen): (Cause, super::Detection)| HealthCheck {
            name: cause.word().into(),
            status: match seen.verdict {
                Verdict::Pass => HealthStatus::Ok,
                Verdict::Inconclusive => HealthStatus::Unknown,
                Verdict::Fail if matches!(cause, Cause::Crash | Cause::Hang) => HealthStatus::Failed,
                Verdict::Fail => HealthStatus::Degraded,
            },
            critical: matches!(cause, Cause::Crash | Cause::Hang),
            message: Some(match seen.waits_for {
                Some(waits) => format!("{}; waits for {waits}", seen.detail),
                None => seen.detail,
            }),
        };
        self.detections().into_iter().map(check).collect()
    }

    fn process(&self) -> ProcessUsage {
        let fresh = self.usage.as_ref().filter(|(when, _)| self.now.ms_since(*when) <= self.window_ms());
        let usage = fresh.map(|(_, usage)| *usage).unwrap_or_default();
        ProcessUsage { restarts: Some(self.restarts), ..usage }
    }

    /// Anomalies in the window; `None` when neither the runtime nor the supervisor looks.
    fn policy(&self, since: Timestamp) -> Option<Vec<PolicyAnomaly>> {
        let recent = self.anomalies.iter().filter(|(when, _)| *when >= since);
        let recent: Vec<PolicyAnomaly> = recent.map(|(_, anomaly)| anomaly.clone()).collect();
        (!recent.is_empty() || self.own().is_some_and(|own| own.policy)).then_some(recent)
    }
}

/// The names of everything that is `null` or absent for want of a source.
fn unavailable(report: &RuntimeHealthReport, native: bool) -> Vec<String> {
    let usage = &report.process;
    let signals = [
        ("ready", report.ready.is_none()),
        ("latency.probe", !report.latency.contains_key("probe")),
        ("errors.probe", !report.errors.contains_key("probe")),
        ("errors.traffic", !report.errors.contains_key("traffic")),
        ("process.pid", usage.pid.is_none()),
        ("process.uptime_ms", usage.uptime_ms.is_none()),
        ("process.rss_bytes", usage.rss_bytes.is_none()),
        ("process.fds", usage.fds.is_none()),
        ("process.cpu_ms", usage.cpu_ms.is_none()),
        ("process.processes", usage.processes.is_none()),
        ("policy_anomalies", report.policy_anomalies.is_none()),
        ("native", !native),
    ];
    signals.iter().filter(|(_, missing)| *missing).map(|(name, _)| (*name).into()).collect()
}
