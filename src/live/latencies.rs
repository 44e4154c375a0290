//! A histogram of durations.

use serde::{Deserialize, Serialize};

use crate::interface::types::LatencySummary;

/// Buckets for each doubling: a bucket is 9 % wide.
const PER_OCTAVE: f64 = 8.0;
/// The upper edge of the first bucket, in microseconds.
const FIRST_US: f64 = 64.0;
/// The index of the last bucket: it begins at about four minutes.
const LAST: u8 = 175;

/// Durations in logarithmic buckets, 8 for each doubling, from 64 µs to four minutes. Shorter and longer durations are in
/// the first and the last bucket. Only buckets with a count use memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u8, u32)>", into = "Vec<(u8, u32)>")]
pub struct Latencies {
    /// Buckets in rising order, each with its count: 8 bytes for a bucket that is used.
    buckets: Vec<(u8, u32)>,
}

impl From<Vec<(u8, u32)>> for Latencies {
    fn from(buckets: Vec<(u8, u32)>) -> Self {
        let mut all = Self::default();
        buckets.into_iter().for_each(|(bucket, count)| all.add_to(bucket, count.into()));
        all
    }
}

impl From<Latencies> for Vec<(u8, u32)> {
    fn from(all: Latencies) -> Self {
        all.buckets
    }
}

impl Latencies {
    /// The bucket of a duration in microseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is limited to 0..=LAST before"
    )]
    pub fn bucket(us: u64) -> u8 {
        let octaves = (us as f64 / FIRST_US).max(1.0).log2();
        (octaves * PER_OCTAVE).ceil().clamp(0.0, f64::from(LAST)) as u8
    }

    /// The upper edge of a bucket, in microseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and the value is positive"
    )]
    pub fn edge_us(bucket: u8) -> u64 {
        (FIRST_US * (f64::from(bucket) / PER_OCTAVE).exp2()) as u64
    }

    /// Counts `count` requests of this duration.
    pub fn add(&mut self, us: u64, count: u64) {
        self.add_to(Self::bucket(us), count);
    }

    /// Counts `count` requests in a bucket.
    pub fn add_to(&mut self, bucket: u8, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let bucket = bucket.min(LAST);
        match self.buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.buckets() {
            self.add_to(bucket, count);
        }
    }

    /// The number of durations.
    pub fn total(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// The number of durations in buckets above this one.
    pub fn above(&self, bucket: u8) -> u64 {
        self.buckets().filter(|(it, _)| *it > bucket).map(|(_, count)| count).sum()
    }

    /// The bucket of a quantile (nearest rank); `None` if there are no durations.
    pub fn quantile_bucket(&self, q: f64) -> Option<u8> {
        let total = self.total();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is between 1 and the total"
        )]
        let rank = ((q * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0_u64;
        self.buckets().find_map(|(bucket, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then_some(bucket)
        })
    }

    /// The upper edge of the bucket of a quantile, in microseconds; 0 if there are no durations.
    pub fn quantile_us(&self, q: f64) -> u64 {
        self.quantile_bucket(q).map_or(0, Self::edge_us)
    }

    /// The summary: each figure is the upper edge of its bucket.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            count: self.total(),
            p50_us: self.quantile_us(0.50),
            p90_us: self.quantile_us(0.90),
            p99_us: self.quantile_us(0.99),
            max_us: self.quantile_us(1.0),
        }
    }

    /// The buckets with their counts, in rising order.
    pub fn buckets(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.buckets.iter().map(|&(bucket, count)| (bucket, count.into()))
    }

    /// The memory of the buckets, in bytes.
    pub fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<(u8, u32)>()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_at_or_below_the_edge_of_its_bucket() {
        for us in [0, 1, 64, 65, 100, 1_000, 12_345, 1_000_000, 90_000_000, u64::MAX] {
            let bucket = Latencies::bucket(us);
            assert!(Latencies::edge_us(bucket) + 1 >= us || bucket == LAST, "{us} is in bucket {bucket}");
            assert!(bucket == 0 || Latencies::edge_us(bucket - 1) <= us, "{us} is in bucket {bucket}");
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut all = Latencies::default();
        for ms in 1..=100 {
            all.add(ms * 1_000, 1);
        }
        for (q, us) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let found = all.quantile_us(q) as f64;
            assert!((us..us * 1.1).contains(&found), "quantile {q} is {found}");
        }
        let edge = Latencies::edge_us(Latencies::bucket(50_000));
        let beyond = (1..=100).filter(|ms| ms * 1_000 > edge).count() as u64;
        assert_eq!((all.total(), all.above(Latencies::bucket(50_000))), (100, beyond));
        assert_eq!(Latencies::default().quantile_us(0.5), 0);
    }
}
