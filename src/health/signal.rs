//! The signals that a monitor takes.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::interface::types::{PolicyAnomaly, ProcessUsage, RuntimeHealthReport};
use crate::live::{Sample, Source};
use crate::time::millis;

/// One observation of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// A probe of the supervisor ended. Probes that wait for the first readiness of a process are no signals.
    Probe(Probe),
    /// The instance exited, and nobody had asked it to.
    Exited(Exit),
    /// The supervisor restarted the instance.
    Restarted,
    /// What its process tree uses now. It is a sign of life, too.
    Usage(ProcessUsage),
    /// The runtime's own report, as it came.
    NativeReport(Box<RuntimeHealthReport>),
    /// Something on the interface was no valid message.
    ReportGarbage {
        /// What was wrong, for a person.
        detail: String,
    },
    /// A report did not come in its interval.
    ReportMissed,
    /// `WATCHDOG=1` came.
    Watchdog,
    /// `WATCHDOG=1` did not come in its time.
    WatchdogMissed,
    /// Whether it is ready, as the configured probes say.
    Ready(bool),
    /// The supervisor saw that it did or tried something forbidden.
    PolicyAnomaly(PolicyAnomaly),
    /// Requests of users since the last signal of this source.
    Traffic(Source, Box<Sample>),
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// As it should.
    Ok,
    /// With a refusal or a wrong answer.
    Failed,
    /// Not within its time.
    TimedOut,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// How it ended.
    pub outcome: ProbeOutcome,
    /// How long it took, in microseconds; for one that timed out, how long the supervisor waited.
    pub latency_us: u64,
    /// What was wrong, for a person; empty when nothing was.
    pub detail: String,
}

/// How an instance exited, when nobody had asked it to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, if it exited with one.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// How long it ran, in milliseconds.
    pub ran_ms: u64,
    /// The panic message or exception that its log ends with, if one was found.
    pub reason: Option<String>,
    /// The frames of that panic, innermost first, without those of the language's own panic machinery.
    pub frames: Vec<String>,
    /// If no panic was found: the last meaningful lines of its log, oldest first.
    #[serde(rename = "last_words", default, skip_serializing_if = "Vec::is_empty")]
    pub last_output: Vec<String>,
    /// If all of these lines are routine too: the last one. An operator sees it; it tells no fault from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_line: Option<String>,
}

impl Exit {
    /// `exit code 2`, `signal 11 (SIGSEGV)`.
    pub fn status(&self) -> String {
        match (self.signal, self.code) {
            (Some(signal), _) => match signal_name(signal) {
                Some(name) => format!("signal {signal} ({name})"),
                None => format!("signal {signal}"),
            },
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "unknown exit status".into(),
        }
    }
}

/// The names of the signals that end a process by default, as Linux numbers them on x86-64 and aarch64.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [(i32, &str); 15] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (31, "SIGSYS"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// Which signals can come at all. What has no source is named in `unavailable` and never read as healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The pause between HTTP, TCP or command probes, in milliseconds; the longest if there are several.
    pub probe_ms: Option<u64>,
    /// Whether `WATCHDOG=1` is expected.
    pub watchdog: bool,
    /// The pause between the runtime's own reports, in milliseconds.
    pub interface_ms: Option<u64>,
}

impl Sources {
    /// The sources that `[health]` names.
    pub fn of(health: &config::Health) -> Self {
        let pauses = [
            health.http.as_ref().map(|probe| millis(probe.interval)),
            health.tcp.as_ref().map(|probe| millis(probe.interval)),
            health.command.as_ref().map(|probe| millis(probe.interval)),
        ];
        Self {
            probe_ms: pauses.into_iter().flatten().max(),
            watchdog: health.notify.as_ref().is_some_and(|notify| notify.watchdog.is_some()),
            interface_ms: health.interface.as_ref().map(|interface| millis(interface.interval)),
        }
    }
}
