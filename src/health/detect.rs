//! The detectors of a monitor, each a plain question about what it has seen.

use crate::interface::types::Verdict;
use crate::time::millis;

use super::condition::Detection;
use super::finding::Cause;
use super::monitor::{COLD, LEARN, MISSES_MAX, Monitor, RESTARTS_MAX};
use super::signal::Sources;

impl Monitor {
    /// The detectors, each with its word.
    pub fn detections(&self) -> Vec<(Cause, Detection)> {
        let worse = |a: Detection, b: Detection| if rank(&b) > rank(&a) { b } else { a };
        let errors =
            worse(self.probes.detect(self.now, "probes failed"), self.traffic.detect(self.now, "exchanges failed"));
        vec![
            (Cause::Crash, self.detect_crash()),
            (Cause::CrashLoop, self.detect_crash_loop()),
            (Cause::Hang, self.detect_hang()),
            (Cause::Latency, self.detect_latency()),
            (Cause::Errors, errors),
            (Cause::MemoryGrowth, self.memory.0.detect()),
            (Cause::FdGrowth, self.fds.0.detect()),
        ]
    }

    pub(super) fn detect_crash(&self) -> Detection {
        match &self.down {
            Some(status) => Detection::fail(format!("ended with {status}, not started again yet")),
            None => Detection::pass(format!("{} crashes", self.seen[Cause::Crash as usize].1)),
        }
    }

    pub(super) fn detect_crash_loop(&self) -> Detection {
        let bound = &self.incidents.crash;
        let within_ms = millis(bound.within);
        let recent = self.restarted_at.iter().filter(|when| self.now.ms_since(**when) < within_ms).count() as u64;
        let figure = format!("{recent} restarts in {:?}, bound {}", bound.within, bound.restarts);
        if recent >= bound.restarts.clamp(1, RESTARTS_MAX as u64) {
            Detection::fail(figure)
        } else {
            Detection::pass(figure)
        }
    }

    pub(super) fn detect_hang(&self) -> Detection {
        let Sources { probe_ms, watchdog, interface_ms } = self.sources;
        if self.watchdog_missed {
            Detection::fail("the watchdog was not fed in its time")
        } else if self.timed_out_in_a_row >= MISSES_MAX {
            Detection::fail(format!("{} probes in a row missed their deadline", self.timed_out_in_a_row))
        } else if self.reports_missed >= MISSES_MAX {
            Detection::fail(format!("{} own reports in a row did not come", self.reports_missed))
        } else if probe_ms.is_none() && !watchdog && interface_ms.is_none() {
            Detection::inconclusive("nobody looks", "a probe, a watchdog or the interface in [health]")
        } else {
            Detection::pass("answers")
        }
    }

    pub(super) fn detect_latency(&self) -> Detection {
        match &self.slow {
            Some((bound_us, slow)) => slow.detect(self.now, &format!("probes over {} ms", *bound_us as f64 / 1_000.0)),
            None if self.sources.probe_ms.is_none() => {
                Detection::inconclusive("nobody measures", "a probe in [health]")
            }
            None => {
                let missing = (LEARN as u64 + COLD).saturating_sub(self.healthy_probes);
                Detection::inconclusive(
                    "no bound configured, none learned yet",
                    format!("{missing} more healthy probes"),
                )
            }
        }
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
