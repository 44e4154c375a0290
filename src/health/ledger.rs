//! How often each fingerprint was seen, in bounded memory.

use crate::time::Timestamp;

/// Fingerprints that are kept. A runtime with a new panic message each time pushes out its own oldest ones.
const FINGERPRINTS_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    fingerprints: Vec<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    fingerprint: String,
    count: u64,
    last_seen: Timestamp,
    last_reported: Option<Timestamp>,
}

impl Ledger {
    /// Counts one occurrence. Returns how many there were, this one included, and whether it is to be reported: not if
    /// one was reported in the last `pause_ms`.
    pub fn count(&mut self, at: Timestamp, fingerprint: &str, pause_ms: u64) -> (u64, bool) {
        let seen = self.seen(at, fingerprint);
        seen.count = seen.count.saturating_add(1);
        let due = seen.last_reported.is_none_or(|reported| at.ms_since(reported) >= pause_ms);
        if due {
            seen.last_reported = Some(at);
        }
        (seen.count, due)
    }

    /// Takes over what an earlier monitor, or the journal, has counted.
    pub fn remember(&mut self, at: Timestamp, fingerprint: &str, count: u64) {
        let seen = self.seen(at, fingerprint);
        seen.count = seen.count.max(count);
    }

    /// The clock was set back: a time in the future would never be due again.
    pub fn rewind(&mut self, at: Timestamp) {
        for seen in &mut self.fingerprints {
            seen.last_seen = seen.last_seen.min(at);
            seen.last_reported = seen.last_reported.map(|reported| reported.min(at));
        }
    }

    fn seen(&mut self, at: Timestamp, fingerprint: &str) -> &mut Seen {
        let known = self.fingerprints.iter().position(|seen| seen.fingerprint == fingerprint);
        let index = known.unwrap_or_else(|| {
            if self.fingerprints.len() >= FINGERPRINTS_MAX {
                let oldest = (0..self.fingerprints.len()).min_by_key(|&i| self.fingerprints[i].last_seen);
                self.fingerprints.swap_remove(oldest.unwrap_or(0));
            }
            self.fingerprints.push(Seen {
                fingerprint: fingerprint.into(),
                count: 0,
                last_seen: at,
                last_reported: None,
            });
            self.fingerprints.len() - 1
        });
        let seen = &mut self.fingerprints[index];
        seen.last_seen = at;
        seen
    }

    pub fn bytes(&self) -> usize {
        let text: usize = self.fingerprints.iter().map(|seen| seen.fingerprint.capacity()).sum();
        self.fingerprints.capacity() * size_of::<Seen>() + text
    }
}
