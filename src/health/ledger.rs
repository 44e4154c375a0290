//! How often each fingerprint was seen, in bounded memory.

use crate::time::Timestamp;

/// Fingerprints that are kept. A runtime that makes up a new panic message each time pushes out its own oldest ones.
const ENTRIES_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    fingerprint: String,
    count: u64,
    last_seen: Timestamp,
    last_told: Option<Timestamp>,
}

impl Ledger {
    /// Counts one occurrence and returns how many there were, this one included.
    pub fn count(&mut self, at: Timestamp, fingerprint: &str) -> u64 {
        let entry = self.entry(at, fingerprint);
        entry.count = entry.count.saturating_add(1);
        entry.count
    }

    /// Counts one occurrence; `Some` with the count when none was told in the last `pause_ms`.
    pub fn count_paced(&mut self, at: Timestamp, fingerprint: &str, pause_ms: u64) -> Option<u64> {
        let entry = self.entry(at, fingerprint);
        entry.count = entry.count.saturating_add(1);
        if entry.last_told.is_some_and(|told| at.ms_since(told) < pause_ms) {
            return None;
        }
        entry.last_told = Some(at);
        Some(entry.count)
    }

    /// Takes over what an earlier monitor, or the journal, has counted.
    pub fn remember(&mut self, at: Timestamp, fingerprint: &str, count: u64) {
        let entry = self.entry(at, fingerprint);
        entry.count = entry.count.max(count);
    }

    /// Time was set back: an entry of the future would never be due again.
    pub fn rewind(&mut self, at: Timestamp) {
        for entry in &mut self.entries {
            entry.last_seen = entry.last_seen.min(at);
            entry.last_told = entry.last_told.map(|told| told.min(at));
        }
    }

    fn entry(&mut self, at: Timestamp, fingerprint: &str) -> &mut Entry {
        let known = self.entries.iter().position(|entry| entry.fingerprint == fingerprint);
        let index = known.unwrap_or_else(|| {
            if self.entries.len() >= ENTRIES_MAX {
                let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].last_seen);
                self.entries.swap_remove(oldest.unwrap_or(0));
            }
            self.entries.push(Entry { fingerprint: fingerprint.into(), count: 0, last_seen: at, last_told: None });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        entry.last_seen = at;
        entry
    }

    pub fn bytes(&self) -> usize {
        let text: usize = self.entries.iter().map(|entry| entry.fingerprint.capacity()).sum();
        self.entries.capacity() * size_of::<Entry>() + text
    }
}
