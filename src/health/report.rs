//! The joined report: the supervisor's evidence first, the runtime's own report only where it is worse.

use std::collections::BTreeMap;

use crate::interface::types::{
    ErrorCount, HealthCheck, HealthStatus, PolicyAnomaly, ProcessUsage, RuntimeHealthReport, RuntimeRef, SCHEMA,
    Verdict,
};
use crate::time::Timestamp;

use super::detectors::{DETECTORS, Detector};
use super::evidence::Evidence;
use super::self_report::SelfReport;
use super::window::summary;

/// What was observed, lowered by the runtime's own report if that is worse.
pub(super) fn lowered(observed: HealthStatus, own: Option<&SelfReport>) -> HealthStatus {
    match own.map(|own| own.status) {
        // A runtime that does not know says nothing against what was seen.
        None | Some(HealthStatus::Unknown) => observed,
        Some(own) => observed.worse_of(own),
    }
}

/// The report of the evidence as it is now.
pub(super) fn joined(evidence: &Evidence, runtime: RuntimeRef, seq: u64, status: HealthStatus) -> RuntimeHealthReport {
    let window_ms = evidence.window_ms();
    let since = Timestamp::from_unix_ms(evidence.now.as_unix_ms().saturating_sub(window_ms));
    let own = evidence.report();
    let mut latency = own.map(|own| own.latency.clone()).unwrap_or_default();
    let samples = evidence.samples.between(since, evidence.now);
    if !samples.is_empty() {
        latency.insert("probe".into(), summary(samples));
    }
    let requests = &evidence.requests;
    let seen = requests.recent(evidence.now).find(|(source, _)| requests.main_source() == Some(*source));
    let durations = seen.map(|(_, recent)| recent.sample.total().latencies).filter(|durations| !durations.is_empty());
    latency.extend(durations.map(|durations| ("traffic".into(), durations.summary())));
    let mut errors = own.map(|own| own.errors.clone()).unwrap_or_default();
    count(evidence, &mut errors, since);
    let mut checks: Vec<HealthCheck> = DETECTORS.iter().filter_map(|detector| check(detector, evidence)).collect();
    checks.extend(own.into_iter().flat_map(|own| own.checks.clone()));
    let mut report = RuntimeHealthReport {
        schema: SCHEMA.into(),
        runtime,
        seq,
        observed_at: evidence.now,
        window_ms,
        provider: "joined".into(),
        status,
        ready: match (evidence.process.ready, own.and_then(|own| own.ready)) {
            (_, Some(false)) => Some(false),
            (observed, _) => observed,
        },
        process: process(evidence),
        latency,
        errors,
        checks,
        policy_anomalies: policy(evidence, since),
        upgrade_wanted: own.and_then(|own| own.upgrade_wanted.clone()),
        unavailable: Vec::new(),
        other: BTreeMap::new(),
    };
    report.unavailable = unavailable(&report, own.is_some());
    report
}

fn count(evidence: &Evidence, errors: &mut BTreeMap<String, ErrorCount>, since: Timestamp) {
    for (name, sustained) in [("probe", &evidence.probes), ("traffic", &evidence.traffic)] {
        let seen = sustained.tally().between(since, evidence.now);
        if seen.total > 0 {
            errors.insert(name.into(), ErrorCount { total: seen.total, failed: seen.bad });
        }
    }
}

/// A detector as a named check; an inconclusive one says what it waits for.
fn check(detector: &Detector, evidence: &Evidence) -> Option<HealthCheck> {
    let seen = detector.detect(evidence)?;
    let failed = detector.failed_status();
    Some(HealthCheck {
        name: detector.cause.word().into(),
        status: match seen.verdict {
            Verdict::Pass => HealthStatus::Ok,
            Verdict::Inconclusive => HealthStatus::Unknown,
            Verdict::Fail => failed,
        },
        critical: failed == HealthStatus::Failed,
        message: Some(match seen.waits_for {
            Some(waits) => format!("{}; waits for {waits}", seen.detail),
            None => seen.detail,
        }),
    })
}

fn process(evidence: &Evidence) -> ProcessUsage {
    let fresh = evidence.process.usage.as_ref().filter(|(when, _)| evidence.is_fresh(Some(*when)));
    let usage = fresh.map(|(_, usage)| *usage).unwrap_or_default();
    ProcessUsage { restarts: Some(evidence.restarts), ..usage }
}

/// Anomalies in the window; `None` if neither the runtime nor the supervisor looks.
fn policy(evidence: &Evidence, since: Timestamp) -> Option<Vec<PolicyAnomaly>> {
    let recent = evidence.anomalies.iter().filter(|(when, _)| *when >= since);
    let recent: Vec<PolicyAnomaly> = recent.map(|(_, anomaly)| anomaly.clone()).collect();
    (!recent.is_empty() || evidence.report().is_some_and(|own| own.policy)).then_some(recent)
}

/// The names of everything that is `null` or absent because nothing measures it.
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
