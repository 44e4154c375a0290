//! A histogram of durations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets for each doubling: a bucket is 9 % wide.
const PER_OCTAVE: f64 = 8.0;
/// The upper edge of the first bucket, in microseconds.
const FIRST_US: f64 = 64.0;
/// The index of the last bucket: it begins at about four minutes.
const LAST: u8 = 175;

/// Durations in logarithmic buckets, 8 for each doubling, from 64 µs to four minutes. Shorter and longer durations are in
/// the first and the last bucket. Only buckets with a count use memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies {
    buckets: BTreeMap<u8, u64>,
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
        if count > 0 {
            let cell = self.buckets.entry(bucket.min(LAST)).or_default();
            *cell = cell.saturating_add(count);
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &count) in &other.buckets {
            self.add_to(bucket, count);
        }
    }

    /// The number of durations.
    pub fn total(&self) -> u64 {
        self.buckets.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The number of durations in buckets above this one.
    pub fn above(&self, bucket: u8) -> u64 {
        let above = (std::ops::Bound::Excluded(bucket), std::ops::Bound::Unbounded);
        self.buckets.range(above).fold(0, |sum, (_, count)| sum.saturating_add(*count))
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
        self.buckets.iter().find_map(|(&bucket, &count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then_some(bucket)
        })
    }

    /// The upper edge of the bucket of a quantile, in microseconds; 0 if there are no durations.
    pub fn quantile_us(&self, q: f64) -> u64 {
        self.quantile_bucket(q).map_or(0, Self::edge_us)
    }

    /// The buckets with their counts, in rising order.
    pub fn buckets(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.buckets.iter().map(|(&bucket, &count)| (bucket, count))
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
