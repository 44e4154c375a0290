//! What is kept of the runtime's own report: it is bounded, and can only lower the status.

use std::collections::BTreeMap;

use crate::interface::types::{ErrorCount, HealthCheck, HealthStatus, LatencySummary, RuntimeHealthReport};
use crate::time::Timestamp;

use super::fingerprint::truncate;

/// Named checks, latencies and error counts that are kept of a report: a message may carry a megabyte of them.
const NAMES_MAX: usize = 16;
/// What is kept of a name or a message, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 200;

/// The last own report, cut to size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SelfReport {
    pub at: Timestamp,
    pub status: HealthStatus,
    pub ready: Option<bool>,
    pub checks: Vec<HealthCheck>,
    pub latency: BTreeMap<String, LatencySummary>,
    pub errors: BTreeMap<String, ErrorCount>,
    /// Whether it says anything about policy.
    pub policy: bool,
    pub upgrade_wanted: Option<String>,
}

impl SelfReport {
    pub fn of(at: Timestamp, report: &RuntimeHealthReport) -> Self {
        // Every failing check counts, also one that the runtime's own status leaves out and one that is not kept.
        let checks = report.checks.iter().map(|check| match check.status {
            HealthStatus::Failed if !check.critical => HealthStatus::Degraded,
            status => status,
        });
        let status = checks
            .fold(report.status, |sum, check| if check == HealthStatus::Unknown { sum } else { sum.worse_of(check) });
        let kept = |check: &HealthCheck| HealthCheck {
            name: owned(&check.name),
            status: check.status,
            critical: check.critical,
            message: check.message.as_deref().map(|text| truncate(text, TEXT_BYTES_MAX).to_owned()),
        };
        Self {
            at,
            status,
            ready: report.ready,
            checks: report.checks.iter().take(NAMES_MAX).map(kept).collect(),
            latency: report.latency.iter().take(NAMES_MAX).map(|(name, it)| (owned(name), *it)).collect(),
            errors: report.errors.iter().take(NAMES_MAX).map(|(name, it)| (owned(name), *it)).collect(),
            policy: report.policy_anomalies.is_some(),
            upgrade_wanted: report.upgrade_wanted.as_deref().map(|rev| truncate(rev, TEXT_BYTES_MAX).to_owned()),
        }
    }

    pub fn bytes(&self) -> usize {
        let check =
            |it: &HealthCheck| it.name.len() + it.message.as_ref().map_or(0, String::len) + size_of::<HealthCheck>();
        let named = |name: &String, value: usize| name.len() + size_of::<String>() + value;
        self.checks.iter().map(check).sum::<usize>()
            + self.latency.keys().map(|name| named(name, size_of::<LatencySummary>())).sum::<usize>()
            + self.errors.keys().map(|name| named(name, size_of::<ErrorCount>())).sum::<usize>()
            + self.upgrade_wanted.as_ref().map_or(0, String::len)
    }
}

/// `runtime.NAME`, so that the runtime cannot overwrite a figure of the supervisor.
fn owned(name: &str) -> String {
    format!("runtime.{}", truncate(name, TEXT_BYTES_MAX))
}
