//! What a detector found.

use serde::{Deserialize, Serialize};

use crate::interface::types::{IncidentClass, IncidentId, RuntimeIncident, RuntimeRef, SCHEMA, Severity};
use crate::time::Timestamp;

/// The detector's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ended unasked.
    Crash,
    /// It was started again too often in a time.
    CrashLoop,
    /// It lives and does not answer.
    Hang,
    /// It answers too late.
    Latency,
    /// It fails too often.
    Errors,
    /// Its memory grows without an end.
    MemoryGrowth,
    /// Its descriptors grow without an end.
    FdGrowth,
    /// It did or tried what it must not.
    PolicyAnomaly,
    /// It sent what is no message.
    InterfaceGarbage,
    /// It would like to become another version.
    UpgradeWanted,
}

impl Cause {
    /// The word as it is stored in an incident.
    pub fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashLoop => "crash_loop",
            Self::Hang => "hang",
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::MemoryGrowth => "memory_growth",
            Self::FdGrowth => "fd_growth",
            Self::PolicyAnomaly => "policy_anomaly",
            Self::InterfaceGarbage => "interface_garbage",
            Self::UpgradeWanted => "upgrade_wanted",
        }
    }

    /// The seed's trigger that it belongs to.
    pub fn class(self) -> IncidentClass {
        match self {
            Self::Crash | Self::CrashLoop | Self::Hang => IncidentClass::RuntimeFailure,
            Self::Latency | Self::Errors | Self::MemoryGrowth | Self::FdGrowth => IncidentClass::BehavioralDegradation,
            Self::PolicyAnomaly => IncidentClass::PolicyViolation,
            Self::InterfaceGarbage => IncidentClass::ObservabilitySignal,
            Self::UpgradeWanted => IncidentClass::UpgradeRequest,
        }
    }

    /// How bad it is by itself.
    pub fn severity(self) -> Severity {
        match self {
            Self::Crash | Self::CrashLoop | Self::Hang | Self::PolicyAnomaly => Severity::Critical,
            Self::Latency | Self::Errors | Self::MemoryGrowth | Self::FdGrowth | Self::InterfaceGarbage => {
                Severity::Warning
            }
            Self::UpgradeWanted => Severity::Info,
        }
    }
}

/// Something is wrong: opens an incident, or is one more occurrence of the open one with this fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// By the seed's triggers.
    pub class: IncidentClass,
    /// The detector's word.
    pub cause: Cause,
    /// How bad.
    pub severity: Severity,
    /// `sha256:…`; equal findings have equal ones.
    pub fingerprint: String,
    /// One line for a person.
    pub summary: String,
    /// How often this monitor has seen it, this time included.
    pub occurrence: u64,
    /// Whether an evolution is wanted now. A first crash is only recorded.
    pub evolve: bool,
}

impl Finding {
    /// The incident that this finding opens. Later findings with the same fingerprint add to its `occurrences`.
    pub fn incident(&self, id: IncidentId, runtime: RuntimeRef, at: Timestamp) -> RuntimeIncident {
        RuntimeIncident {
            schema: SCHEMA.into(),
            id,
            class: self.class,
            cause: self.cause.word().into(),
            severity: self.severity,
            runtime,
            fingerprint: self.fingerprint.clone(),
            first_seen: at,
            last_seen: at,
            occurrences: 1,
            summary: self.summary.clone(),
            evidence: Vec::new(),
        }
    }
}
