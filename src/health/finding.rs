//! What a detector found, and the causes that it can name.

use serde::{Deserialize, Serialize};

use crate::interface::types::{IncidentClass, IncidentId, RuntimeIncident, RuntimeRef, SCHEMA, Severity};
use crate::time::Timestamp;

/// Defines [`Cause`]: one line for each cause, with the word that is stored, its class and its severity.
macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $class:ident, $severity:ident;)*) => {
        /// What is wrong, in one word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Cause {
            $($(#[$doc])* $name,)*
        }

        impl Cause {
            /// All causes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that is stored in an incident.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The trigger of the interface that it belongs to.
            pub fn class(self) -> IncidentClass {
                match self { $(Self::$name => IncidentClass::$class,)* }
            }

            /// How bad it is by itself.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

causes! {
    /// It exited, and nobody had asked it to.
    Crash = "crash", RuntimeFailure, Critical;
    /// It was restarted too often in a time.
    CrashLoop = "crash_loop", RuntimeFailure, Critical;
    /// It runs and does not answer.
    Hang = "hang", RuntimeFailure, Critical;
    /// It answers too late.
    Latency = "latency", BehavioralDegradation, Warning;
    /// It fails too often.
    Errors = "errors", BehavioralDegradation, Warning;
    /// Its memory grows and does not stop growing.
    MemoryGrowth = "memory_growth", BehavioralDegradation, Warning;
    /// Its open descriptors grow and do not stop growing.
    FdGrowth = "fd_growth", BehavioralDegradation, Warning;
    /// It did or tried something that is forbidden.
    PolicyAnomaly = "policy_anomaly", PolicyViolation, Critical;
    /// It sent something that is no valid message.
    InterfaceGarbage = "interface_garbage", ObservabilitySignal, Warning;
    /// It asks to become another version.
    UpgradeWanted = "upgrade_wanted", UpgradeRequest, Info;
}

/// Something is wrong: it opens an incident, or it is one more occurrence of the open incident with this fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The trigger of the interface.
    pub class: IncidentClass,
    /// What is wrong.
    pub cause: Cause,
    /// How bad it is.
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
