//! Sliding windows of bounded memory.

use crate::interface::types::LatencySummary;
use crate::time::Timestamp;

/// Fine cells: one second each, five minutes of them. Canary steps and most bounds look no further back.
const FINE: (u64, usize) = (1_000, 300);
/// Coarse cells: half a minute each, two hours of them, for long observation windows.
const COARSE: (u64, usize) = (30_000, 240);

/// Probe latencies that are kept: 17 minutes at one probe a second; more would not make a quantile or a rank test better.
const SAMPLES_MAX: usize = 1024;

/// Counts over time at two grains.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    fine: Ring,
    coarse: Ring,
}

/// What a [`Tally`] counted in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// All.
    pub total: u64,
    /// The bad ones.
    pub bad: u64,
    /// From the first bad one to the last, in milliseconds, give or take a cell.
    pub bad_span_ms: u64,
}

#[derive(Clone, Debug)]
struct Ring {
    grain_ms: u64,
    /// Empty until the first count; then cell `slot % len` holds that slot.
    cells: Vec<Cell>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    slot: u64,
    total: u32,
    bad: u32,
}

impl Tally {
    pub fn new() -> Self {
        let ring = |(grain_ms, len)| Ring { grain_ms, cells: Vec::new(), len };
        Self { fine: ring(FINE), coarse: ring(COARSE) }
    }

    pub fn add(&mut self, at: Timestamp, total: u64, bad: u64) {
        for ring in [&mut self.fine, &mut self.coarse] {
            ring.add(at, total, bad);
        }
    }

    /// The counts from `since` to `at`. A window that began before the fine cells is read from the coarse ones, whose
    /// first may hold up to half a minute more than was asked for.
    pub fn between(&self, since: Timestamp, at: Timestamp) -> Counted {
        let fine_ms = FINE.0 * (FINE.1 as u64 - 1);
        let ring = if at.ms_since(since) <= fine_ms { &self.fine } else { &self.coarse };
        ring.between(since, at)
    }

    pub fn bytes(&self) -> usize {
        (self.fine.cells.capacity() + self.coarse.cells.capacity()) * size_of::<Cell>()
    }
}

impl Ring {
    fn add(&mut self, at: Timestamp, total: u64, bad: u64) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::default(); self.len];
        }
        let slot = at.as_unix_ms() / self.grain_ms;
        let index = (slot % self.len as u64) as usize;
        let cell = &mut self.cells[index];
        if cell.slot != slot {
            *cell = Cell { slot, ..Cell::default() };
        }
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        cell.total = cell.total.saturating_add(narrow(total));
        cell.bad = cell.bad.saturating_add(narrow(bad)).min(cell.total);
    }

    fn between(&self, since: Timestamp, at: Timestamp) -> Counted {
        let (first, last) = (since.as_unix_ms() / self.grain_ms, at.as_unix_ms() / self.grain_ms);
        let mut counted = Counted::default();
        let mut bad_slots: Option<(u64, u64)> = None;
        for cell in self.cells.iter().filter(|cell| cell.total > 0 && (first..=last).contains(&cell.slot)) {
            counted.total += u64::from(cell.total);
            counted.bad += u64::from(cell.bad);
            if cell.bad > 0 {
                let (low, high) = bad_slots.unwrap_or((cell.slot, cell.slot));
                bad_slots = Some((low.min(cell.slot), high.max(cell.slot)));
            }
        }
        counted.bad_span_ms = bad_slots.map_or(0, |(low, high)| (high - low) * self.grain_ms);
        counted
    }
}

/// The last probe latencies, each with its time.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// Oldest first from `next` on, once the ring is full.
    ring: Vec<(Timestamp, u32)>,
    next: usize,
}

impl Samples {
    pub fn add(&mut self, at: Timestamp, latency_us: u64) {
        let sample = (at, u32::try_from(latency_us).unwrap_or(u32::MAX));
        if self.ring.len() < SAMPLES_MAX {
            self.ring.push(sample);
        } else {
            self.ring[self.next] = sample;
            self.next = (self.next + 1) % SAMPLES_MAX;
        }
    }

    /// Latencies from `since` to `at`, in microseconds, oldest first.
    pub fn between(&self, since: Timestamp, at: Timestamp) -> Vec<u32> {
        let (newer, older) = self.ring.split_at(self.next);
        let within = |(when, _): &&(Timestamp, u32)| (since..=at).contains(when);
        older.iter().chain(newer).filter(within).map(|(_, latency)| *latency).collect()
    }

    pub fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<(Timestamp, u32)>()
    }
}

/// The summary of latencies in microseconds; quantiles are nearest-rank, so each is a value that was measured.
pub(super) fn summary(mut latencies: Vec<u32>) -> LatencySummary {
    latencies.sort_unstable();
    LatencySummary {
        count: latencies.len() as u64,
        p50_us: quantile(&latencies, 0.50),
        p90_us: quantile(&latencies, 0.90),
        p99_us: quantile(&latencies, 0.99),
        max_us: latencies.last().copied().unwrap_or(0).into(),
    }
}

/// The nearest-rank quantile of sorted values; 0 when there are none.
pub(super) fn quantile(sorted: &[u32], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_000_000_000_000 + ms)
    }

    #[test]
    fn a_tally_forgets_what_is_older_than_its_window() {
        let mut tally = Tally::new();
        for second in 0..100 {
            tally.add(at(second * 1_000), 10, u64::from(second < 10));
        }
        let all = tally.between(at(0), at(99_000));
        assert_eq!((all.total, all.bad, all.bad_span_ms), (1_000, 10, 9_000));
        assert_eq!(tally.between(at(50_000), at(99_000)).bad, 0);
        let later = 100 * 3_600 * 1_000;
        assert_eq!(tally.between(at(later), at(later + 60_000)), Counted::default());
    }

    #[test]
    fn a_long_window_is_read_from_coarse_cells() {
        let mut tally = Tally::new();
        for second in 0..3_600 {
            tally.add(at(second * 1_000), 1, u64::from(second == 5));
        }
        let hour = tally.between(at(0), at(3_600_000));
        assert_eq!((hour.total, hour.bad), (3_600, 1));
    }

    #[test]
    fn counts_saturate_and_memory_stays() {
        let mut tally = Tally::new();
        for i in 0..10_000 {
            tally.add(at(i * 700), u64::MAX, u64::MAX);
        }
        assert!(tally.bytes() < 10_000, "{}", tally.bytes());
        let mut samples = Samples::default();
        for i in 0..10_000 {
            samples.add(at(i), i);
        }
        assert!(samples.bytes() <= 16 * 1_024, "{}", samples.bytes());
        let kept = samples.between(at(0), at(10_000));
        assert_eq!((kept.len(), kept[0], kept[1_023]), (1_024, 8_976, 9_999), "the newest are kept, oldest first");
    }

    #[test]
    fn quantiles_are_measured_values() {
        let summary = summary((1..=100).collect());
        assert_eq!((summary.p50_us, summary.p90_us, summary.p99_us, summary.max_us), (50, 90, 99, 100));
        assert_eq!(super::summary(vec![]), LatencySummary::default());
        assert_eq!(super::summary(vec![7]).p50_us, 7);
    }
}
