//! What the runtime knows of itself: how long its answers take, and which request stopped its predecessor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::interface::types::{ErrorCount, HealthStatus, LatencySummary, RuntimeHealthReport};

/// Half of the time that the figures of a report cover at most.
const HALF_WINDOW: Duration = Duration::from_secs(5);
/// The longest answer that is told apart from longer ones, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Two digits are what a person reads of a latency.
const DIGITS: u8 = 2;
/// The largest note of a crash that is read, in bytes.
const CRASH_BYTES_MAX: u64 = 64 << 10;

/// Requests and their latencies since some moment.
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

/// Counts what the runtime does.
pub struct Record {
    halves: Mutex<(Half, Half)>,
    note: Option<PathBuf>,
    earlier: Value,
}

impl Record {
    /// A new record; in `state` the process before may have left the request that stopped it.
    pub fn new(state: Option<PathBuf>) -> Self {
        let note = state.map(|state| state.join("crash.json"));
        let earlier = note.as_ref().and_then(read).unwrap_or(Value::Null);
        Self { halves: Mutex::new((Half::new(), Half::new())), note, earlier }
    }

    /// A request was answered.
    pub fn request(&self, took: Duration, status: u16) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&mut halves);
        halves.1.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        halves.1.failed += u64::from(status >= 500);
    }

    /// The process is about to end because of this request: left for the next one, which tells it to the supervisor.
    pub fn crash(&self, method: &str, target: &str) {
        let Some(note) = &self.note else { return };
        let told = json!([{ "request": { "method": method, "path": target } }]);
        // A note that cannot be left is missing from the context, and that is all.
        let _ = std::fs::write(note, told.to_string());
    }

    /// The health as the runtime sees it: it answers, and this is how fast.
    pub fn health(&self) -> RuntimeHealthReport {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&mut halves);
        let mut both = halves.0.latency_us.clone();
        // Of equal bounds, so that it cannot fail.
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
            window_ms: u64::try_from(halves.0.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            latency: BTreeMap::from([("request".to_owned(), summary)]),
            errors: BTreeMap::from([("request".to_owned(), errors)]),
            ..RuntimeHealthReport::default()
        }
    }

    /// `exchanges`: the requests that stopped the process before this one, in the lines of a golden run.
    pub fn context(&self) -> Value {
        json!({ "interpreter": concat!("rei-demo-runtime ", env!("CARGO_PKG_VERSION")), "exchanges": self.earlier })
    }
}

fn rotate(halves: &mut (Half, Half)) {
    if halves.1.since.elapsed() >= HALF_WINDOW {
        halves.0 = std::mem::replace(&mut halves.1, Half::new());
    }
}

fn read(note: &PathBuf) -> Option<Value> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(note).ok()?.take(CRASH_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_what_stopped_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = Some(dir.path().to_owned());
        let record = Record::new(state.clone());
        assert_eq!(record.context()["exchanges"], Value::Null);
        record.crash("GET", "/greet?style=3");
        let expected = json!([{ "request": { "method": "GET", "path": "/greet?style=3" } }]);
        assert_eq!(Record::new(state).context()["exchanges"], expected);
    }

    #[test]
    fn health_tells_what_was_counted() {
        let record = Record::new(None);
        for (ms, status) in [(1, 200), (2, 404), (50, 500)] {
            record.request(Duration::from_millis(ms), status);
        }
        let health = record.health();
        assert_eq!(health.errors["request"], ErrorCount { total: 3, failed: 1 });
        assert!(health.latency["request"].max_us >= 50_000 && health.latency["request"].p50_us < 3_000);
    }
}
