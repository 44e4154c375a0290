//! Does the candidate still answer? Requests that never end are in no count of requests.

use crate::time::Timestamp;

/// Requests that must be missing: by chance alone none of 30 expected ones comes once in 10^13 times.
const EXPECTED_MIN: f64 = 30.0;
/// And for so long, in milliseconds: clients that keep their connections come and go together.
const SILENT_MS: u64 = 5_000;
/// Users whom a silent candidate has left waiting, from which it is broken.
const WAITING_MIN: u64 = 10;
/// Requests of the candidate from which its part of all requests is known.
const KNOWN_MIN: u64 = 10;

/// Since when, and how much was expected.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    /// Requests of both sides until the candidate's last one.
    until: [u64; 2],
    /// When that was; before the first request, when the trial began.
    last: Option<Timestamp>,
    at: Timestamp,
    /// Since then: requests of the reference, and users whom the candidate has left waiting.
    since: u64,
    waiting: u64,
    /// Requests in a millisecond that were usual before the trial.
    usual_per_ms: Option<f64>,
}

/// What is known of a silent candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Silent {
    pub for_ms: u64,
    /// Requests that were expected meanwhile, if the candidate's part was known.
    pub expected: Option<f64>,
    /// Users whom it has left waiting meanwhile.
    pub waiting: u64,
}

impl Silence {
    pub fn left_waiting(&mut self, connections: u64) {
        self.waiting = self.waiting.saturating_add(connections);
    }

    /// Whether the last block had no answer.
    pub fn has_begun(&self) -> bool {
        self.last.is_none_or(|last| last < self.at)
    }

    pub fn block(&mut self, at: Timestamp, candidate: u64, reference: u64, usual_per_ms: Option<f64>) {
        self.at = at;
        self.usual_per_ms = usual_per_ms;
        self.last.get_or_insert(at);
        self.since = self.since.saturating_add(reference);
        if candidate > 0 {
            self.until = [self.until[0].saturating_add(candidate), self.until[1].saturating_add(self.since)];
            (self.last, self.since, self.waiting) = (Some(at), 0, 0);
        }
    }

    /// The silence, if it lasts and requests were expected.
    pub fn lasting(&self) -> Option<Silent> {
        let for_ms = self.last.map_or(0, |last| self.at.ms_since(last));
        let beside = (self.until[0] >= KNOWN_MIN && self.until[1] > 0)
            .then(|| self.since as f64 * self.until[0] as f64 / self.until[1] as f64);
        let expected = match self.usual_per_ms {
            Some(per_ms) => Some(per_ms * for_ms as f64),
            None => beside,
        };
        let missing = expected.is_some_and(|expected| expected >= EXPECTED_MIN);
        // A receiver of logs answers no client, and neither does the reference.
        let answers = self.until[1] > 0 || self.since > 0 || self.usual_per_ms.is_some_and(|usual| usual > 0.0);
        let silent = Silent { for_ms, expected, waiting: if answers { self.waiting } else { 0 } };
        (for_ms >= SILENT_MS && (missing || silent.is_broken())).then_some(silent)
    }
}

impl Silent {
    /// Whether users came and got no answer.
    pub fn is_broken(self) -> bool {
        self.waiting >= WAITING_MIN
    }
}
