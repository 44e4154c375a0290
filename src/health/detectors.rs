//! The detectors: one row for each cause, and the questions that they ask.
//!
//! This table is the one place that knows what a cause means. The monitor, the health report and the judgement of a
//! candidate walk it and name no cause themselves, so a new detector is a new [`Cause`] and a new row here.

use crate::interface::types::{HealthStatus, PolicyAnomaly, RuntimeHealthReport, Verdict};
use crate::time::millis;

use super::condition::{Detection, Sustained};
use super::evidence::{ANOMALIES_MAX, COLD, Evidence, LEARN, MISSES_MAX, RESTARTS_MAX};
use super::finding::Cause;
use super::fingerprint::{fingerprint, fingerprint_of_end, normalise, truncate};
use super::self_report::TEXT_BYTES_MAX;
use super::signal::{Exit, Signal, Sources};

/// Equal policy anomalies and equal garbage are found at most once in this time, in milliseconds; all are counted.
pub(super) const PACE_MS: u64 = 60_000;
/// Distinct policy anomalies that get an incident each; all others share one, so that no runtime floods the operator.
const ANOMALY_INCIDENTS_MAX: usize = 8;

/// How a cause is found, and what follows from it.
pub(super) struct Detector {
    /// What is wrong if it fails.
    pub cause: Cause,
    /// What a signal by itself says is wrong; asked before the evidence takes the signal.
    pub occurred: fn(&mut Evidence, &Signal) -> Vec<Occurrence>,
    /// What the evidence says at any time. The worst of them is a check of the health report.
    pub measures: &'static [Measure],
    /// What a failure does to the health of the runtime.
    pub impact: Impact,
    /// What a failure does to a candidate under trial.
    pub trial: Trial,
}

/// One question about the evidence.
pub(super) struct Measure {
    /// Tells the measures of one cause apart, in their fingerprints; empty if there is one.
    pub part: &'static str,
    /// The question.
    pub detect: fn(&Evidence) -> Detection,
    /// How a failure becomes a finding; `None` if signals alone are findings.
    pub lasting: Option<Lasting>,
}

/// A condition that is found once when it opens.
pub(super) struct Lasting {
    /// How long it must pass until it closes, in milliseconds.
    pub close_ms: fn(&Evidence) -> u64,
    /// What else tells this fault from others, as frames of the fingerprint.
    pub frames: fn(&Evidence) -> Vec<String>,
    /// Whether it asks for an evolution.
    pub evolve: fn(&Evidence) -> bool,
}

/// What a signal by itself says is wrong.
pub(super) struct Occurrence {
    pub fingerprint: String,
    /// One line for a person.
    pub summary: String,
    /// Whether equal ones are found at most once in [`PACE_MS`].
    pub paced: bool,
    pub evolve: Evolve,
}

/// When an occurrence asks for an evolution.
#[derive(Clone, Copy)]
pub(super) enum Evolve {
    AtOnce,
    /// When it was seen as often as the operator says.
    Repeated,
}

/// What a detector means for the health of the runtime.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Impact {
    /// While a measure fails, the runtime is failed.
    Failed,
    /// While a condition is open, the runtime is degraded.
    Degraded,
    None,
}

/// What a detector means for a candidate under trial.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// One finding in the window fails it, and so does a measure that fails now. Recovery does not undo it.
    FoundOrFailing,
    /// One finding in the window fails it.
    Found,
    /// One finding in the window fails it if it was seen as often as asks for an evolution of Active.
    Repeated,
    /// It fails while a measure fails.
    Failing,
    Ignored,
}

impl Trial {
    /// Whether a finding in the window fails the candidate. `repeated`: it was seen as often as asks for an evolution.
    pub fn ends_by_finding(self, repeated: bool) -> bool {
        match self {
            Self::FoundOrFailing | Self::Found => true,
            Self::Repeated => repeated,
            Self::Failing | Self::Ignored => false,
        }
    }

    /// Whether a measure that fails now fails the candidate.
    pub fn ends_by_failing(self) -> bool {
        matches!(self, Self::FoundOrFailing | Self::Failing)
    }
}

/// A detector that finds nothing: the ground of each row.
const NONE: Detector = Detector {
    cause: Cause::Crash,
    occurred: |_, _| Vec::new(),
    measures: &[],
    impact: Impact::None,
    trial: Trial::Ignored,
};

/// A condition that closes as soon as it may, has no more to its fingerprint and asks for an evolution.
const LASTING: Lasting = Lasting { close_ms: |_| 0, frames: |_| Vec::new(), evolve: |_| true };

/// All detectors, in the order in which a report shows them.
pub(super) static DETECTORS: &[Detector] = &[
    Detector {
        cause: Cause::Crash,
        occurred: crashed,
        measures: &[Measure { part: "", detect: down, lasting: None }],
        impact: Impact::Failed,
        trial: Trial::FoundOrFailing,
    },
    Detector {
        cause: Cause::CrashLoop,
        measures: &[Measure {
            part: "",
            detect: crash_loop,
            lasting: Some(Lasting {
                close_ms: |evidence| millis(evidence.incidents.crash.within),
                frames: |evidence| vec![last_crash(evidence).map_or_else(String::new, |(print, _)| print.to_owned())],
                // If equal crashes have asked for an evolution already, the loop is the same fault and asks for no second.
                evolve: |evidence| last_crash(evidence).is_none_or(|(_, count)| count < evidence.repeats()),
            }),
        }],
        impact: Impact::Degraded,
        trial: Trial::Found,
        ..NONE
    },
    Detector {
        cause: Cause::Hang,
        measures: &[Measure { part: "", detect: hang, lasting: Some(LASTING) }],
        impact: Impact::Failed,
        trial: Trial::FoundOrFailing,
        ..NONE
    },
    Detector {
        cause: Cause::Latency,
        measures: &[
            Measure {
                part: "",
                detect: latency,
                lasting: Some(Lasting {
                    close_ms: |evidence| evidence.slow.as_ref().map_or(0, |(_, slow)| slow.for_ms()),
                    ..LASTING
                }),
            },
            Measure {
                part: "traffic",
                detect: latency_of_requests,
                lasting: Some(Lasting {
                    close_ms: |evidence| evidence.slow_traffic.as_ref().map_or(0, Sustained::for_ms),
                    ..LASTING
                }),
            },
        ],
        impact: Impact::Degraded,
        trial: Trial::Failing,
        ..NONE
    },
    Detector {
        cause: Cause::Errors,
        measures: &[
            Measure {
                part: "probe",
                detect: |evidence| evidence.probes.detect(evidence.now, "probes failed"),
                lasting: Some(Lasting { close_ms: |evidence| evidence.probes.for_ms(), ..LASTING }),
            },
            Measure {
                part: "traffic",
                detect: |evidence| evidence.traffic.detect(evidence.now, "requests failed"),
                lasting: Some(Lasting { close_ms: |evidence| evidence.traffic.for_ms(), ..LASTING }),
            },
        ],
        impact: Impact::Degraded,
        trial: Trial::Failing,
        ..NONE
    },
    Detector {
        cause: Cause::MemoryGrowth,
        measures: &[Measure { part: "", detect: |evidence| evidence.memory.detect(), lasting: Some(LASTING) }],
        impact: Impact::Degraded,
        // A process that begins grows: the judge compares it with Active at the same age.
        trial: Trial::Ignored,
        ..NONE
    },
    Detector {
        cause: Cause::FdGrowth,
        measures: &[Measure { part: "", detect: |evidence| evidence.fds.detect(), lasting: Some(LASTING) }],
        impact: Impact::Degraded,
        // A process that begins grows: the judge compares it with Active at the same age.
        trial: Trial::Ignored,
        ..NONE
    },
    Detector { cause: Cause::PolicyAnomaly, occurred: policy_anomalies, trial: Trial::Found, ..NONE },
    // Garbage can be an accident.
    Detector { cause: Cause::InterfaceGarbage, occurred: garbage, trial: Trial::Repeated, ..NONE },
    Detector { cause: Cause::UpgradeWanted, occurred: upgrade_wanted, ..NONE },
];

/// Each measure with its detector, always in the same order.
pub(super) fn measures() -> impl Iterator<Item = (&'static Detector, &'static Measure)> {
    DETECTORS.iter().flat_map(|detector| detector.measures.iter().map(move |measure| (detector, measure)))
}

impl Detector {
    /// What the evidence says, all measures together; `None` if there is nothing to ask.
    pub fn detect(&self, evidence: &Evidence) -> Option<Detection> {
        let worse = |a: Detection, b: Detection| if rank(&b) > rank(&a) { b } else { a };
        self.measures.iter().map(|measure| (measure.detect)(evidence)).reduce(worse)
    }

    /// Whether a measure fails now.
    pub fn fails(&self, evidence: &Evidence) -> bool {
        self.detect(evidence).is_some_and(|seen| seen.verdict == Verdict::Fail)
    }

    /// How a failure is shown as a check of the health report.
    pub fn failed_status(&self) -> HealthStatus {
        if self.impact == Impact::Failed { HealthStatus::Failed } else { HealthStatus::Degraded }
    }
}

/// Fail over pass over inconclusive: of two measures of one cause, the one without data must not hide the other.
fn rank(detection: &Detection) -> u8 {
    match detection.verdict {
        Verdict::Fail => 2,
        Verdict::Pass => 1,
        Verdict::Inconclusive => 0,
    }
}

fn crashed(_: &mut Evidence, signal: &Signal) -> Vec<Occurrence> {
    let Signal::Exited(exit) = signal else { return Vec::new() };
    let fingerprint = match &exit.reason {
        Some(reason) => fingerprint(Cause::Crash.word(), reason, &exit.frames),
        None => fingerprint_of_end(Cause::Crash.word(), &exit.status(), &exit.last_output),
    };
    vec![Occurrence { fingerprint, summary: summary_of(exit), paced: false, evolve: Evolve::Repeated }]
}

fn summary_of(exit: &Exit) -> String {
    let (status, lived) = (exit.status(), exit.ran_ms as f64 / 1_000.0);
    let line = |text: &str| truncate(text.lines().next().unwrap_or(""), TEXT_BYTES_MAX).to_owned();
    match (&exit.reason, exit.last_output.first().or(exit.last_line.as_ref())) {
        (Some(reason), _) => format!("{} ({status} after {lived} s)", line(reason)),
        (None, Some(words)) => format!("ended with {status} after {lived} s; it said last: {}", line(words)),
        (None, None) => format!("ended with {status} after {lived} s"),
    }
}

fn down(evidence: &Evidence) -> Detection {
    match &evidence.down {
        Some(status) => Detection::fail(format!("ended with {status}, not started again yet")),
        None => Detection::pass(format!("{} crashes", evidence.noted(Cause::Crash).map_or(0, |noted| noted.count))),
    }
}

/// The fingerprint of the last crash, and how often it was found.
fn last_crash(evidence: &Evidence) -> Option<(&str, u64)> {
    evidence.noted(Cause::Crash).map(|noted| (noted.fingerprint.as_str(), noted.occurrence))
}

fn crash_loop(evidence: &Evidence) -> Detection {
    let bound = &evidence.incidents.crash;
    let within_ms = millis(bound.within);
    let recent = evidence.restarted_at.iter().filter(|when| evidence.now.ms_since(**when) < within_ms).count() as u64;
    let figure = format!("{recent} restarts in {:?}, bound {}", bound.within, bound.restarts);
    if recent >= bound.restarts.clamp(1, RESTARTS_MAX as u64) {
        Detection::fail(figure)
    } else {
        Detection::pass(figure)
    }
}

fn hang(evidence: &Evidence) -> Detection {
    let Sources { probe_ms, watchdog, interface_ms } = evidence.sources;
    let process = &evidence.process;
    if process.watchdog_missed {
        Detection::fail("the watchdog was not fed in its time")
    } else if process.timed_out_in_a_row >= MISSES_MAX {
        Detection::fail(format!("{} probes in a row missed their deadline", process.timed_out_in_a_row))
    } else if process.reports_missed >= MISSES_MAX {
        Detection::fail(format!("{} reports of the instance in a row did not come", process.reports_missed))
    } else if probe_ms.is_none() && !watchdog && interface_ms.is_none() {
        Detection::inconclusive("no process watches it", "a probe, a watchdog or the interface in [health]")
    } else {
        Detection::pass("answers")
    }
}

fn latency(evidence: &Evidence) -> Detection {
    let over = |bound_us: u64, slow: &Sustained| {
        slow.detect(evidence.now, &format!("probes over {} ms", bound_us as f64 / 1_000.0))
    };
    match &evidence.slow {
        Some((bound_us, slow)) => over(*bound_us, slow),
        None if evidence.sources.probe_ms.is_none() => {
            Detection::inconclusive("nobody measures", "a probe in [health]")
        }
        None => {
            let missing = (LEARN as u64 + COLD).saturating_sub(evidence.healthy_probes);
            Detection::inconclusive("no bound configured, none learned yet", format!("{missing} more healthy probes"))
        }
    }
}

fn latency_of_requests(evidence: &Evidence) -> Detection {
    match (&evidence.incidents.latency, &evidence.slow_traffic) {
        (Some(bound), Some(slow)) => slow.detect(evidence.now, &format!("requests over {:?}", bound.p99)),
        _ => Detection::inconclusive("no bound configured", "incidents.latency in rei.toml"),
    }
}

fn policy_anomalies(evidence: &mut Evidence, signal: &Signal) -> Vec<Occurrence> {
    match signal {
        Signal::PolicyAnomaly(anomaly) => vec![policy_anomaly(evidence, anomaly)],
        Signal::NativeReport(report) => {
            let anomalies = report.policy_anomalies.iter().flatten().take(ANOMALIES_MAX);
            anomalies.map(|anomaly| policy_anomaly(evidence, anomaly)).collect()
        }
        _ => Vec::new(),
    }
}

fn policy_anomaly(evidence: &mut Evidence, anomaly: &PolicyAnomaly) -> Occurrence {
    let kind = truncate(&anomaly.kind, TEXT_BYTES_MAX);
    let detail = truncate(&anomaly.detail, TEXT_BYTES_MAX);
    let own = fingerprint(Cause::PolicyAnomaly.word(), kind, &[normalise(detail)]);
    let known = &mut evidence.anomaly_fingerprints;
    let fingerprint = if known.contains(&own) {
        own
    } else if known.len() < ANOMALY_INCIDENTS_MAX {
        known.push(own.clone());
        own
    } else {
        fingerprint(Cause::PolicyAnomaly.word(), "others", &[])
    };
    Occurrence { fingerprint, summary: format!("{kind}: {detail}"), paced: true, evolve: Evolve::AtOnce }
}

fn garbage(_: &mut Evidence, signal: &Signal) -> Vec<Occurrence> {
    let Signal::ReportGarbage { detail } = signal else { return Vec::new() };
    // One fingerprint for all garbage: its content is whatever the runtime likes.
    let fingerprint = fingerprint(Cause::InterfaceGarbage.word(), "", &[]);
    let summary = format!("no valid message on the interface: {}", truncate(detail, TEXT_BYTES_MAX));
    vec![Occurrence { fingerprint, summary, paced: true, evolve: Evolve::Repeated }]
}

fn upgrade_wanted(evidence: &mut Evidence, signal: &Signal) -> Vec<Occurrence> {
    let wanted = |report: &RuntimeHealthReport| {
        report.upgrade_wanted.as_deref().map(|rev| truncate(rev, TEXT_BYTES_MAX).to_owned())
    };
    let Signal::NativeReport(report) = signal else { return Vec::new() };
    let Some(rev) = wanted(report).filter(|rev| evidence.upgrade_wanted.as_ref() != Some(rev)) else {
        return Vec::new();
    };
    let fingerprint = fingerprint(Cause::UpgradeWanted.word(), "", std::slice::from_ref(&rev));
    let summary = format!("the runtime asks to become {rev}");
    evidence.upgrade_wanted = Some(rev);
    vec![Occurrence { fingerprint, summary, paced: true, evolve: Evolve::AtOnce }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_one_row() {
        for cause in Cause::ALL {
            let rows = DETECTORS.iter().filter(|detector| detector.cause == *cause).count();
            assert_eq!(rows, 1, "{} has {rows} rows in DETECTORS", cause.word());
        }
    }

    #[test]
    fn the_word_of_a_cause_is_the_stored_one() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.word());
        }
    }

    /// A file that names a cause decides about it, and would be forgotten when a cause is added.
    #[test]
    fn no_other_file_of_this_module_names_a_cause() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/health");
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.ends_with("tests.rs") && name != "detectors.rs" {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains("Cause::"), "{name} names a cause: make it a column of DETECTORS");
            }
        }
    }
}
