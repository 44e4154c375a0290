//! Is the candidate degraded in this window? Pass, fail, or inconclusive with what it waits for.
//!
//! In the order of the questions: did it crash, hang or break a policy (one is enough); does a detector fail now; does it
//! fail too often; is it too slow; and only then, is there enough data to say that it is well. If there is a baseline,
//! "too often" and "too slow" mean the operator's bound *or* clearly worse than the baseline:
//! - failures: the conditional binomial test of two rates, so that sparse failures against a clean baseline count;
//! - the bulk of latencies: Mann–Whitney with the Hodges–Lehmann shift beyond a quarter of the baseline's median, the
//!   band that Kayenta's classifier uses, but with the point estimate: the lower end of an interval let seven of ten
//!   samples be a hundred times slower;
//! - their tail: the binomial test of a quantile against twice the baseline's worst.
//!
//! No data on the candidate is inconclusive; no data on the baseline leaves the bounds to decide. The first latencies of its
//! process are not compared: everything is slow while it is cold. The operator's bound counts them.
//!
//! A baseline of the time before says nothing about the machine as it is now. If Previous runs beside the candidate, it is
//! the control: a candidate that is slower than the baseline and not slower than Previous, which has no traffic, is
//! held and not failed, unless the candidate itself uses the processors.

use serde::{Deserialize, Serialize};

use crate::config::{ErrorBound, Incidents, LatencyBound};
use crate::interface::types::{ErrorCount, HealthStatus, Verdict};
use crate::time::Timestamp;

use super::condition::SAMPLES_MIN;
use super::detectors::DETECTORS;
use super::evidence::P99_RATIO;
use super::monitor::Monitor;
use super::stats::{binomial_tail, hodges_lehmann, mann_whitney_greater};
use super::window::quantile;

/// Failures from which a comparison of rates means something: one or two are an accident.
const FAILURES_MIN: u64 = 3;
/// Three failures against none among as many has this chance when both sides are alike (1/8).
const RATE_P: f64 = 0.126;
/// The share of failures that is too many if the operator set no bound.
const RATIO_DEFAULT: f64 = 0.05;
/// A shift of the bulk must be this sure (one-sided; Kayenta's users set 98 %, but ask once; we ask every second) …
const SHIFT_P: f64 = 0.005;
/// … and this large, as a part of the baseline's median (Kayenta's band) …
const SHIFT_BAND: f64 = 0.25;
/// … and this large in microseconds: below it is scheduling noise of probes on one host.
const SHIFT_FLOOR_US: f64 = 1_000.0;
/// The tail is worse when this sure; up to [`TAIL_DOUBT`], more samples are asked for.
const TAIL_P: f64 = 0.05;
const TAIL_DOUBT: f64 = 0.3;
/// The tail begins at this many times the baseline's p99, and so much above it, in microseconds.
const TAIL_FACTOR: u64 = 2;
const TAIL_FLOOR_US: u64 = 5_000;
/// Samples from which Previous can be a control. Half of what a verdict needs: few samples make the tests against it
/// unsure, and a candidate that is clearly slower fails all the same.
const CONTROL_MIN: usize = (SAMPLES_MIN / 2) as usize;
/// A candidate that uses so many more processors than Active did, and so many times as much, is not slowed by others. Less
/// than half a processor slows nobody.
const TAKEN_MORE: f64 = 0.5;
const TAKEN_FACTOR: f64 = 1.5;
/// Latencies that a learned baseline keeps: 1 KiB, and a p99 with two values above it.
const LEARNED_MAX: usize = 256;
/// A learned baseline looks back at most this far, in milliseconds.
const LEARNED_BACK_MS: u64 = 900_000;

/// What is too slow, too often, and too few.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// The operator's bound of latency.
    pub latency: Option<LatencyBound>,
    /// The operator's bound of failures.
    pub errors: Option<ErrorBound>,
    /// Samples below which a window without findings is inconclusive.
    pub samples_min: u64,
    /// Whether the latency of probes is compared with the bound and with the baseline's: not if the durations of users' requests are compared,
    /// which are many more, and which are what counts.
    pub compares_probes: bool,
}

impl Bounds {
    /// The bounds of `[incidents]`, and the least number of samples that a rank test can use.
    pub fn of(incidents: &Incidents) -> Self {
        Self {
            latency: incidents.latency.clone(),
            errors: incidents.errors.clone(),
            samples_min: SAMPLES_MIN,
            compares_probes: true,
        }
    }
}

/// How Active did before the candidate came: for windows in which Active has no traffic, so that comparing with it now
/// would compare a loaded process with an idle one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Probe latencies in microseconds.
    pub latencies_us: Vec<u32>,
    /// Probes and those that failed.
    pub probes: ErrorCount,
    /// Processors taken on average, in thousandths; `None` if nobody measured.
    pub processors_milli: Option<u64>,
}

/// What a candidate is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Comparison<'a> {
    /// Active, beside it in the same window.
    Beside(&'a Monitor),
    /// Active, before it; and if that runs on as Previous, the same in this window, without traffic.
    Before(&'a Baseline, Option<&'a Monitor>),
}

/// The verdict on a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// Whether the candidate is well.
    pub verdict: Verdict,
    /// Why, most telling first, for a person. Never empty.
    pub reasons: Vec<String>,
    /// What would make an inconclusive verdict a clear one.
    pub waits_for: Option<String>,
}

impl Monitor {
    /// What a later candidate can be compared with; `None` while this one is not well or too little is known.
    pub fn learned(&self) -> Option<Baseline> {
        let since = Timestamp::from_unix_ms(self.evidence.now.as_unix_ms().saturating_sub(LEARNED_BACK_MS));
        let seen = Side::of(self, since, self.evidence.now);
        let enough = seen.latencies.len() as u64 >= SAMPLES_MIN && self.status() == HealthStatus::Ok;
        let newest = seen.latencies.len().saturating_sub(LEARNED_MAX);
        enough.then(|| Baseline {
            latencies_us: seen.latencies[newest..].to_vec(),
            probes: seen.probes,
            processors_milli: seen.processors_milli,
        })
    }
}

/// One side's figures in the window.
#[derive(Default)]
struct Side {
    latencies: Vec<u32>,
    probes: ErrorCount,
    traffic: ErrorCount,
    processors_milli: Option<u64>,
}

impl Side {
    fn of(monitor: &Monitor, since: Timestamp, at: Timestamp) -> Self {
        let evidence = &monitor.evidence;
        let count = |tally: &super::window::Tally| {
            let seen = tally.between(since, at);
            ErrorCount { total: seen.total, failed: seen.bad }
        };
        Self {
            latencies: evidence.samples.between(since, at),
            probes: count(evidence.probes.tally()),
            traffic: count(evidence.traffic.tally()),
            processors_milli: evidence.processors_milli(since, at),
        }
    }

    fn takes_more_than(&self, reference: &Self) -> bool {
        let (Some(own), Some(before)) = (self.processors_milli, reference.processors_milli) else { return false };
        let (own, before) = (own as f64 / 1_000.0, before as f64 / 1_000.0);
        own - before > TAKEN_MORE && own > before * TAKEN_FACTOR
    }
}

/// Judges `candidate` in the window from `since` to `at`, beside or after `baseline`.
pub fn judge(
    candidate: &Monitor,
    baseline: Option<Comparison<'_>>,
    since: Timestamp,
    at: Timestamp,
    bounds: &Bounds,
) -> Analysis {
    let mut case = Case::default();
    case.detectors(candidate, since);
    case.conditions(candidate);
    case.growth(candidate, baseline);
    let seen = Side::of(candidate, since, at);
    let evidence = &candidate.evidence;
    let warm_since = evidence.process.warm_since;
    let warm = warm_since.map(|warm| evidence.samples.between(warm.max(since), at)).unwrap_or_default();
    let mut reference = match baseline {
        Some(Comparison::Beside(active)) => Side::of(active, since, at),
        Some(Comparison::Before(it, _)) => Side {
            latencies: it.latencies_us.clone(),
            probes: it.probes,
            processors_milli: it.processors_milli,
            ..Side::default()
        },
        None => Side::default(),
    };
    let mut control = match baseline {
        Some(Comparison::Before(_, Some(previous)))
            if previous.observed_status() != HealthStatus::Failed && !seen.takes_more_than(&reference) =>
        {
            previous.evidence.samples.between(since, at)
        }
        Some(Comparison::Before(..) | Comparison::Beside(_)) | None => Vec::new(),
    };
    case.failures("probes", seen.probes, reference.probes, bounds);
    if bounds.compares_probes {
        case.bound(&seen.latencies, bounds);
        case.latency(&warm, &mut reference.latencies, &mut control);
    }
    case.enough(candidate, &seen, since, at, bounds);
    case.close(&seen)
}

/// What speaks against the candidate, and what is still wanted.
#[derive(Default)]
struct Case {
    failed: Vec<String>,
    wanted: Vec<(String, String)>,
    noted: Vec<String>,
}

impl Case {
    fn fail(&mut self, reason: impl Into<String>) {
        self.failed.push(reason.into());
    }

    fn want(&mut self, reason: impl Into<String>, waits_for: impl Into<String>) {
        self.wanted.push((reason.into(), waits_for.into()));
    }

    fn detectors(&mut self, candidate: &Monitor, since: Timestamp) {
        let evidence = &candidate.evidence;
        for detector in DETECTORS {
            let word = detector.cause.word();
            let noted = evidence.noted(detector.cause).filter(|noted| noted.at >= since);
            if noted.is_some_and(|noted| detector.trial.ends_by_finding(noted.occurrence >= evidence.repeats())) {
                self.fail(format!("{word} in the window"));
            }
            let failing = detector.detect(evidence).filter(|seen| seen.verdict == Verdict::Fail);
            if let Some(seen) = failing.filter(|_| detector.trial.ends_by_failing()) {
                self.fail(format!("{word}: {}", seen.detail));
            }
        }
    }

    /// Memory and descriptors, against Active at the same age and after as many requests.
    fn growth(&mut self, candidate: &Monitor, baseline: Option<Comparison<'_>>) {
        let active = match baseline {
            Some(Comparison::Beside(active) | Comparison::Before(_, Some(active))) => Some(active),
            Some(Comparison::Before(_, None)) | None => None,
        };
        let growth = candidate.evidence.process.curve.judge(active.map(|active| &active.evidence.process.curve));
        for reason in growth.reasons {
            match growth.verdict {
                Verdict::Fail => self.fail(reason),
                _ => self.want(reason, "more time, to tell a leak from a warm-up"),
            }
        }
    }

    fn conditions(&mut self, candidate: &Monitor) {
        let process = &candidate.evidence.process;
        if candidate.observed_status() == HealthStatus::Failed && self.failed.is_empty() {
            self.fail(format!("{} probes in a row failed", process.failed_in_a_row));
        }
        if process.ready == Some(false) {
            self.want("the candidate is not ready", "readiness");
        }
        match candidate.evidence.report().map(|own| own.status) {
            Some(HealthStatus::Failed) => self.fail("the candidate reports that it failed"),
            Some(HealthStatus::Degraded) => {
                self.want("the candidate reports that it is degraded", "its own report to say otherwise");
            }
            Some(HealthStatus::Ok | HealthStatus::Unknown) | None => {}
        }
    }

    fn failures(&mut self, what: &str, seen: ErrorCount, reference: ErrorCount, bounds: &Bounds) {
        if seen.failed == 0 {
            return;
        }
        let ErrorCount { total, failed } = seen;
        let ratio = bounds.errors.as_ref().map_or(RATIO_DEFAULT, |bound| bound.ratio);
        let over = failed as f64 > ratio * total as f64;
        let figure = format!("{failed} of {total} {what} failed");
        if over && failed >= FAILURES_MIN {
            return self.fail(format!("{figure}, over the bound of {} %", ratio * 100.0));
        }
        // A bound that one failure in so few breaks is not broken for good: more samples will tell.
        if over {
            return self.want(figure, format!("more {what}, to tell an accident from a rate"));
        }
        if failed >= FAILURES_MIN && reference.total >= SAMPLES_MIN {
            let part = total as f64 / (total + reference.total) as f64;
            let p = binomial_tail(failed + reference.failed, failed, part);
            if p <= RATE_P {
                let beside = format!("{} of {} on the baseline", reference.failed, reference.total);
                return self.fail(format!("{figure}, {beside} (p = {p:.3})"));
            }
        }
        if failed >= FAILURES_MIN && reference.total < SAMPLES_MIN && bounds.errors.is_none() {
            return self.fail(format!("{figure}, with neither a bound nor a baseline that would excuse it"));
        }
        self.noted.push(figure);
    }

    /// The operator's bound: for every answer, also of a process that is cold.
    fn bound(&mut self, seen: &[u32], bounds: &Bounds) {
        if let Some(bound) = &bounds.latency {
            let bound_us = u64::try_from(bound.p99.as_micros()).unwrap_or(u64::MAX);
            self.tail(seen, bound_us, P99_RATIO, "the bound");
        }
    }

    /// Compares a warm process with the baseline; if it is worse, also with the control.
    fn latency(&mut self, seen: &[u32], reference: &mut [u32], control: &mut [u32]) {
        let enough = |side: &[u32]| side.len() as u64 >= SAMPLES_MIN;
        if !enough(reference) {
            return;
        }
        if !enough(seen) {
            let missing = SAMPLES_MIN - seen.len() as u64;
            return self.want(
                "too few probes since the process is warm, to compare its latency",
                format!("{missing} more probes of the warm process"),
            );
        }
        let mut case = Self::default();
        case.slower(seen, reference);
        if !case.failed.is_empty() && control.len() >= CONTROL_MIN {
            let mut beside = Self::default();
            beside.slower(seen, control);
            if beside.failed.is_empty() {
                for reason in std::mem::take(&mut case.failed) {
                    let reason = format!("{reason}, and no higher than Previous's beside it, which has no traffic");
                    case.want(reason, "the machine to be less busy: Previous answers as slowly as the candidate");
                }
            }
        }
        self.failed.append(&mut case.failed);
        self.wanted.append(&mut case.wanted);
        self.noted.append(&mut case.noted);
    }

    /// The tests against a baseline.
    fn slower(&mut self, seen: &[u32], reference: &mut [u32]) {
        let p = mann_whitney_greater(seen, reference);
        // All pairs are compared only if the ranks say that it is slower: that is dear.
        let shift_us = if p < SHIFT_P { hodges_lehmann(seen, reference) } else { 0.0 };
        reference.sort_unstable();
        let (median_us, p99_us) = (quantile(reference, 0.5), quantile(reference, 0.99));
        if p < SHIFT_P && shift_us > SHIFT_FLOOR_US.max(SHIFT_BAND * median_us as f64) {
            let ms = |us: f64| us / 1_000.0;
            self.fail(format!(
                "latency is {} ms higher than the baseline's median of {} ms (p = {p:.4})",
                ms(shift_us),
                ms(median_us as f64),
            ));
        }
        let tail_us = p99_us.saturating_mul(TAIL_FACTOR).max(p99_us.saturating_add(TAIL_FLOOR_US));
        // One more value exceeds the largest of n alike ones with a chance of 1 in n + 1: a short baseline knows no p99.
        let ratio = P99_RATIO.max(1.0 / (reference.len() as f64 + 1.0));
        self.tail(seen, tail_us, ratio, "twice the baseline's p99");
    }

    /// The quantile test of "at most this ratio is over `bound_us`".
    fn tail(&mut self, seen: &[u32], bound_us: u64, ratio: f64, name: &str) {
        let (total, over) = (seen.len() as u64, seen.iter().filter(|&&us| u64::from(us) > bound_us).count() as u64);
        if over == 0 {
            return;
        }
        let p = binomial_tail(total, over, ratio);
        let figure = format!("{over} of {total} probes over {name}, {} ms", bound_us as f64 / 1_000.0);
        if total >= SAMPLES_MIN && over > 1 && p <= TAIL_P {
            self.fail(format!("{figure} (p = {p:.4})"));
        } else if p <= TAIL_DOUBT {
            self.want(figure, "more probes, to tell an accident from a tail");
        } else {
            self.noted.push(figure);
        }
    }

    /// Is there enough data to call it well? If probes are configured, probes; else requests or signs of life.
    fn enough(&mut self, candidate: &Monitor, seen: &Side, since: Timestamp, at: Timestamp, bounds: &Bounds) {
        let (what, have) = match candidate.evidence.sources.probe_ms {
            Some(_) => ("probes", seen.probes.total),
            None => {
                let alive = candidate.evidence.alive.between(since, at).total;
                ("signs of life or requests (no probe is configured)", alive.max(seen.traffic.total))
            }
        };
        if have < bounds.samples_min {
            let waits = format!("{} more {what}", bounds.samples_min - have);
            self.want(format!("{have} {what}, {} needed", bounds.samples_min), waits);
        } else if candidate.status() == HealthStatus::Unknown {
            self.want("nothing is known of the candidate at this moment", "a fresh sign of health");
        } else if candidate.evidence.sources.probe_ms.is_none() {
            self.noted.push("known by its process alone: no probe is configured".into());
        }
    }

    fn close(self, seen: &Side) -> Analysis {
        if !self.failed.is_empty() {
            return Analysis { verdict: Verdict::Fail, reasons: self.failed, waits_for: None };
        }
        if !self.wanted.is_empty() {
            let (reasons, waits): (Vec<String>, Vec<String>) = self.wanted.into_iter().unzip();
            return Analysis { verdict: Verdict::Inconclusive, reasons, waits_for: Some(waits.join("; ")) };
        }
        let sum = format!("{} probes, {} failed", seen.probes.total, seen.probes.failed);
        let reasons = std::iter::once(sum).chain(self.noted).collect();
        Analysis { verdict: Verdict::Pass, reasons, waits_for: None }
    }
}
