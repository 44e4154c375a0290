//! Counts the outcomes of the requests from outside. Pure.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The largest recorded latency, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// The significant digits of a recorded latency: people read two.
const DIGITS: u8 = 2;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// An answer with the expected status and body.
    Ok,
    /// Another answer.
    Failed,
    /// The connection was refused.
    Refused,
    /// The connection ended before the answer did.
    Broken,
    /// No answer in time.
    Late,
}

impl RequestOutcome {
    const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Refused, Self::Broken, Self::Late];
}

/// Requests by outcome, and how long the answered ones took.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: [u64; RequestOutcome::ALL.len()],
    latency_us: Histogram<u64>,
    /// Requests that were due but not sent, because too many were in progress. They are not part of the load.
    pub held_back: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        let latency_us = latency_us.expect("the bounds are constants that fit");
        Self { counts: Default::default(), latency_us, held_back: 0 }
    }
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, outcome: RequestOutcome, took: Duration) {
        self.counts[outcome as usize] += 1;
        if matches!(outcome, RequestOutcome::Ok | RequestOutcome::Failed) {
            self.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Requests with this outcome.
    pub fn of(&self, outcome: RequestOutcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Requests that did not get the right answer.
    pub fn lost(&self) -> u64 {
        self.total() - self.of(RequestOutcome::Ok)
    }

    /// A quantile of the latencies, in microseconds; 0 without answers.
    pub fn latency_us(&self, quantile: f64) -> u64 {
        if self.latency_us.is_empty() { 0 } else { self.latency_us.value_at_quantile(quantile) }
    }

    /// The counts since `earlier`, an older state of the same tally.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.clone();
        for (count, before) in later.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        // The bounds are the same, and no count was larger in an older state, so this cannot fail.
        let _ = later.latency_us.subtract(&earlier.latency_us);
        later.held_back = later.held_back.saturating_sub(earlier.held_back);
        later
    }
}

impl fmt::Display for Tally {
    /// `1200 requests, 0 lost, p99 2.1 ms`; lost requests are listed by outcome.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.total() == 1 { "request" } else { "requests" };
        write!(f, "{} {word}, {} lost", self.total(), self.lost())?;
        let ways = [
            (RequestOutcome::Refused, "refused"),
            (RequestOutcome::Broken, "broken off"),
            (RequestOutcome::Late, "late"),
            (RequestOutcome::Failed, "answered wrongly"),
        ];
        let ways = ways.into_iter().filter(|(outcome, _)| self.of(*outcome) > 0);
        let ways: Vec<String> = ways.map(|(outcome, word)| format!("{} {word}", self.of(outcome))).collect();
        if !ways.is_empty() {
            write!(f, " ({})", ways.join(", "))?;
        }
        write!(f, ", p99 {}", Latency(self.latency_us(0.99)))
    }
}

/// Microseconds in readable form: `87 µs`, `2.1 ms`, `154 ms`, `3.2 s`.
#[derive(Clone, Copy, Debug)]
pub struct Latency(pub u64);

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "the output has only two digits")]
        let us = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} µs", self.0),
            1_000..10_000 => write!(f, "{:.1} ms", us / 1e3),
            10_000..1_000_000 => write!(f, "{:.0} ms", us / 1e3),
            _ => write!(f, "{:.1} s", us / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_once_and_a_part_can_be_taken() {
        let mut tally = Tally::default();
        tally.count(RequestOutcome::Ok, Duration::from_millis(1));
        tally.count(RequestOutcome::Refused, Duration::from_secs(9));
        let before = tally.clone();
        for outcome in RequestOutcome::ALL {
            tally.count(outcome, Duration::from_millis(50));
        }
        assert_eq!((tally.total(), tally.lost(), tally.of(RequestOutcome::Ok)), (7, 5, 2));
        let part = tally.since(&before);
        assert_eq!((part.total(), part.lost(), part.of(RequestOutcome::Refused)), (5, 4, 1));
        assert!((50_000..51_000).contains(&part.latency_us(0.5)), "only answers have a latency, and only later ones");
        assert_eq!(part.since(&part).latency_us(0.99), 0);
    }

    #[test]
    fn a_tally_is_printed_in_one_line() {
        let mut tally = Tally::default();
        tally.count(RequestOutcome::Ok, Duration::from_micros(87));
        assert_eq!(tally.to_string(), "1 request, 0 lost, p99 87 µs");
        tally.count(RequestOutcome::Broken, Duration::ZERO);
        assert_eq!(tally.to_string(), "2 requests, 1 lost (1 broken off), p99 87 µs");
        let printed: Vec<String> =
            [999, 2_140, 154_000, 3_200_000].map(|us| Latency(us).to_string()).into_iter().collect();
        assert_eq!(printed, ["999 µs", "2.1 ms", "154 ms", "3.2 s"]);
    }
}
