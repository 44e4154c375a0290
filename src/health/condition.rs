//! What a detector says, and how a condition that lasts opens and closes without flapping.

use crate::interface::types::Verdict;
use crate::time::{Timestamp, millis};

use super::window::{Counted, Tally};

/// Samples below which a ratio says nothing.
pub(super) const SAMPLES_MIN: u64 = 10;

/// Bad samples that a lasting condition needs: one or two are an accident.
const BAD_MIN: u64 = 3;

/// How far a window stretches back for [`SAMPLES_MIN`], in milliseconds, if probes are rarer than the bound's time.
const STRETCH_MAX_MS: u64 = 600_000;

/// How far over the bound a sure share is, in standard deviations of a binomial count.
const SURE: f64 = 3.0;

/// A condition must be fine for at least this long before it can open again, in milliseconds.
const CLOSE_MIN_MS: u64 = 10_000;

/// What one detector says: pass (nothing is wrong), fail, or inconclusive with what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// Pass, fail or inconclusive.
    pub verdict: Verdict,
    /// What was found, for a person.
    pub detail: String,
    /// What would make an inconclusive answer a clear one.
    pub waits_for: Option<String>,
}

impl Detection {
    pub(super) fn pass(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, detail: detail.into(), waits_for: None }
    }

    pub(super) fn fail(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, detail: detail.into(), waits_for: None }
    }

    pub(super) fn inconclusive(detail: impl Into<String>, waits_for: impl Into<String>) -> Self {
        Self { verdict: Verdict::Inconclusive, detail: detail.into(), waits_for: Some(waits_for.into()) }
    }
}

/// Opens at a fail and closes when it has passed for a while; an inconclusive answer changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    open: bool,
    fine_since: Option<Timestamp>,
}

impl Condition {
    /// Takes what the detector says; true if the condition opens now. It closes after a pass of `close_ms`.
    pub fn update(&mut self, at: Timestamp, verdict: Verdict, close_ms: u64) -> bool {
        match verdict {
            Verdict::Fail => {
                self.fine_since = None;
                !std::mem::replace(&mut self.open, true)
            }
            Verdict::Pass => {
                let since = *self.fine_since.get_or_insert(at);
                self.open &= at.ms_since(since) < close_ms.max(CLOSE_MIN_MS);
                false
            }
            Verdict::Inconclusive => {
                self.fine_since = None;
                false
            }
        }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The clock was set back: what was measured from it is void.
    pub fn rewind(&mut self) {
        self.fine_since = None;
    }
}

/// A share of bad samples over a bound for a time.
///
/// The 99th percentile of latencies is over a bound exactly when more than 1 % of them are, so that latency is this
/// detector too, with a ratio of 0.01. It fails when the share in the window has been over the bound for the whole
/// time, with at least three bad samples that lie at least half the time apart: one burst that is slow to leave the
/// window is not a condition.
#[derive(Clone, Debug)]
pub(super) struct Sustained {
    ratio: f64,
    for_ms: u64,
    /// Whether the share must be over the bound by more than chance explains.
    sure: bool,
    tally: Tally,
    over_since: Option<Timestamp>,
}

impl Sustained {
    pub fn new(ratio: f64, r#for: std::time::Duration) -> Self {
        Self { ratio, for_ms: millis(r#for), sure: false, tally: Tally::new(), over_since: None }
    }

    /// The same, for requests of users: with a few requests a second, an accident of each kind is over the bound of five
    /// seconds sooner or later. The share must be over it by more than chance explains.
    pub fn of_requests(ratio: f64, r#for: std::time::Duration) -> Self {
        Self { sure: true, ..Self::new(ratio, r#for) }
    }

    pub fn add(&mut self, at: Timestamp, total: u64, bad: u64) {
        self.tally.add(at, total, bad);
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For how long the share must be over the bound, in milliseconds.
    pub fn for_ms(&self) -> u64 {
        self.for_ms
    }

    /// The clock was set back: forgets all counts.
    pub fn rewind(&mut self) {
        self.tally = Tally::new();
        self.over_since = None;
    }

    /// Notes since when the share is over the bound. Comes before [`Sustained::detect`] at each `at`.
    pub fn settle(&mut self, at: Timestamp) {
        if self.is_over(&self.window(at)) {
            self.over_since.get_or_insert(at);
        } else {
            self.over_since = None;
        }
    }

    /// What it says at `at`; `what` names the bad samples.
    pub fn detect(&self, at: Timestamp, what: &str) -> Detection {
        let seen = self.window(at);
        if seen.total < SAMPLES_MIN {
            let missing = SAMPLES_MIN - seen.total;
            return Detection::inconclusive(format!("{} samples", seen.total), format!("{missing} more samples"));
        }
        let figure = format!("{} of {} {what}, bound {} %", seen.bad, seen.total, self.ratio * 100.0);
        if !self.is_over(&seen) {
            return Detection::pass(figure);
        }
        let lasted = self.over_since.map_or(0, |since| at.ms_since(since));
        if lasted >= self.for_ms && seen.bad_span_ms >= self.for_ms / 2 {
            return Detection::fail(figure);
        }
        let waits = format!("it to last {} s, has lasted {} s", self.for_ms as f64 / 1_000.0, lasted as f64 / 1_000.0);
        Detection::inconclusive(figure, waits)
    }

    /// The bound's time, stretched back until it holds enough samples.
    fn window(&self, at: Timestamp) -> Counted {
        let mut span_ms = self.for_ms.max(1);
        loop {
            let since = Timestamp::from_unix_ms(at.as_unix_ms().saturating_sub(span_ms));
            let seen = self.tally.between(since, at);
            if seen.total >= SAMPLES_MIN || span_ms >= STRETCH_MAX_MS {
                return seen;
            }
            span_ms = span_ms.saturating_mul(2).min(STRETCH_MAX_MS);
        }
    }

    fn is_over(&self, seen: &Counted) -> bool {
        let allowed = self.ratio * seen.total as f64;
        let chance = if self.sure { SURE * (allowed * (1.0 - self.ratio)).sqrt() } else { 0.0 };
        seen.total >= SAMPLES_MIN && seen.bad >= BAD_MIN && seen.bad as f64 > allowed + chance
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_000_000_000_000 + second * 1_000)
    }

    /// A bound of 5 % for 10 s and its condition, as a monitor holds them.
    struct Watched(Sustained, Condition);

    impl Watched {
        fn new() -> Self {
            Self(Sustained::new(0.05, Duration::from_secs(10)), Condition::default())
        }

        /// Takes one sample; true if the condition opens now.
        fn opens(&mut self, second: u64, bad: bool) -> bool {
            self.0.add(at(second), 1, u64::from(bad));
            self.0.settle(at(second));
            self.1.update(at(second), self.0.detect(at(second), "").verdict, self.0.for_ms())
        }
    }

    /// The seconds at which it opens, one sample a second.
    fn opens(bad: impl Fn(u64) -> bool, seconds: u64) -> Vec<u64> {
        let mut watched = Watched::new();
        (0..seconds).filter(|second| watched.opens(*second, bad(*second))).collect()
    }

    #[test]
    fn a_few_requests_over_the_bound_by_chance_are_no_condition() {
        let is_over = |total, bad| {
            let mut requests = Sustained::of_requests(0.05, Duration::from_secs(5));
            requests.add(at(1), total, bad);
            requests.is_over(&requests.window(at(1)))
        };
        assert!(!is_over(100, 8) && !is_over(20, 3), "within chance");
        assert!(is_over(100, 30) && is_over(10_000, 600), "many, or many more");
    }

    #[test]
    fn a_lasting_condition_opens_once_after_its_time() {
        let opened = opens(|second| second >= 60, 300);
        assert_eq!(opened.len(), 1);
        assert!((70..=73).contains(&opened[0]), "{opened:?}");
    }

    #[test]
    fn a_burst_does_not_open_and_sparse_failures_do() {
        assert_eq!(opens(|second| (60..63).contains(&second), 300), Vec::<u64>::new());
        assert_eq!(opens(|second| second % 40 == 0, 300), Vec::<u64>::new(), "2.5 % is below 5 %");
        assert_eq!(opens(|second| second >= 60 && second % 3 == 0, 300).len(), 1);
    }

    #[test]
    fn it_reopens_only_after_it_was_fine_for_a_while() {
        assert_eq!(opens(|second| second % 12 < 10, 600).len(), 1, "a short pause does not close it");
        assert_eq!(opens(|second| second % 200 > 100, 600).len(), 3);
    }

    #[test]
    fn rare_probes_stretch_the_window() {
        let mut watched = Watched::new();
        let opened = (0..60).filter(|i| watched.opens(i * 20, *i > 20)).count();
        assert_eq!(opened, 1);
        let late = watched.0.detect(at(100_000), "").verdict;
        assert_eq!(late, Verdict::Inconclusive, "no data is not a pass");
        watched.1.update(at(100_000), late, watched.0.for_ms());
        assert!(watched.1.is_open(), "and does not close what is open");
    }
}
