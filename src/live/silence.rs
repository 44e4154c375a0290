//! Does the candidate still answer? Requests that never end are in no count of requests.

use crate::time::Timestamp;

/// Requests that must be missing: by chance alone none of 30 expected ones comes once in 10^13 times.
const EXPECTED_MIN: f64 = 30.0;
/// And for so long, in milliseconds: clients that keep their connections come and go together.
const SILENT_MS: u64 = 5_000;
/// Connections that were sent to a silent candidate, from which it is broken.
const OFFERED_MIN: u64 = 10;
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
    /// Since then: requests of the reference, and connections that were sent to the candidate.
    since: u64,
    offered: u64,
    /// Requests in a millisecond that were usual before the trial.
    usual_per_ms: Option<f64>,
}

/// What is known of a silent candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Silent {
    pub for_ms: u64,
    /// Requests that were expected meanwhile, if the candidate's part was known.
    pub expected: Option<f64>,
    /// Connections that were sent to it meanwhile.
    pub offered: u64,
}

impl Silence {
    pub fn offered(&mut self, connections: u64) {
        self.offered = self.offered.saturating_add(connections);
    }

    pub fn block(&mut self, at: Timestamp, candidate: u64, reference: u64, usual_per_ms: Option<f64>) {
        self.at = at;
        self.usual_per_ms = usual_per_ms;
        self.last.get_or_insert(at);
        self.since = self.since.saturating_add(reference);
        if candidate > 0 {
            self.until = [self.until[0].saturating_add(candidate), self.until[1].saturating_add(self.since)];
            (self.last, self.since, self.offered) = (Some(at), 0, 0);
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
        let silent = Silent { for_ms, expected, offered: self.offered };
        (for_ms >= SILENT_MS && (missing || silent.is_broken())).then_some(silent)
    }
}

impl Silent {
    /// Whether users came and got no answer.
    pub fn is_broken(self) -> bool {
        self.offered >= OFFERED_MIN
    }
}
