//! The runtime's own counts: the number of answered requests, and their latencies.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::interface::types::{ErrorCount, HealthStatus, LatencySummary, RuntimeHealthReport};
use crate::time::millis;

/// Half of the longest time that a report covers.
const HALF_WINDOW: Duration = Duration::from_secs(5);
/// The largest recorded latency, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// The significant digits of a recorded latency: people read two.
const DIGITS: u8 = 2;

/// The requests of one half of the window, and their latencies.
struct Half {
    since: Instant,
    latency_us: Histogram<u64>,
    failed: u64,
}

impl Half {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        Self { since: Instant::now(), latency_us: histogram.expect("the bounds are constants that fit"), failed: 0 }
    }
}

/// Counts the runtime's requests.
pub struct Record {
    halves: Mutex<(Half, Half)>,
}

impl Default for Record {
    fn default() -> Self {
        Self { halves: Mutex::new((Half::new(), Half::new())) }
    }
}

impl Record {
    /// Counts an answered request.
    pub fn request(&self, took: Duration, status: u16) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&mut halves);
        halves.1.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        halves.1.failed += u64::from(status >= 500);
    }

    /// The runtime's own health report: status ok, with the counts and latencies.
    pub fn health(&self) -> RuntimeHealthReport {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&mut halves);
        let mut both = halves.0.latency_us.clone();
        // Both histograms have the same bounds, so this cannot fail.
        let _ = both.add(&halves.1.latency_us);
        let at = |quantile| both.value_at_quantile(quantile);
        let summary = LatencySummary {
            count: both.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: both.max(),
        };
        let errors = ErrorCount { total: both.len(), failed: halves.0.failed + halves.1.failed };
        RuntimeHealthReport {
            status: HealthStatus::Ok,
            ready: Some(true),
            window_ms: millis(halves.0.since.elapsed()),
            latency: BTreeMap::from([("request".to_owned(), summary)]),
            errors: BTreeMap::from([("request".to_owned(), errors)]),
            ..RuntimeHealthReport::default()
        }
    }
}

fn rotate(halves: &mut (Half, Half)) {
    if halves.1.since.elapsed() >= HALF_WINDOW {
        halves.0 = std::mem::replace(&mut halves.1, Half::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_reports_the_counts() {
        let record = Record::default();
        for (ms, status) in [(1, 200), (2, 404), (50, 500)] {
            record.request(Duration::from_millis(ms), status);
        }
        let health = record.health();
        assert_eq!(health.errors["request"], ErrorCount { total: 3, failed: 1 });
        assert!(health.latency["request"].max_us >= 50_000 && health.latency["request"].p50_us < 3_000);
    }
}
