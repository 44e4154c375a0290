//! Draws without replacement, from a generator with a fixed seed: the same counts give the same draws in each run.

use super::class::Class;
use super::counts::Counts;
use super::latencies::Latencies;

/// A small generator (SplitMix64: Steele, Lea, Flood 2014). Nothing secret depends on it.
#[derive(Clone, Debug)]
pub(super) struct Draws(u64);

impl Draws {
    /// A generator with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many of `taken` things, drawn from `all`, are among the `marked` ones: hypergeometric, exactly. The cost grows
    /// with the smallest of `taken`, `marked` and what is left of each.
    pub fn marked(&mut self, all: u64, marked: u64, taken: u64) -> u64 {
        let (marked, taken) = (marked.min(all), taken.min(all));
        if marked > all - marked {
            return taken - self.marked(all, all - marked, taken);
        }
        if taken > all - taken {
            return marked - self.marked(all, marked, all - taken);
        }
        // The distribution is the same if the two numbers change places.
        let (fewer, mut places) = (marked.min(taken), marked.max(taken));
        let (mut left, mut found) = (all, 0);
        for _ in 0..fewer {
            if self.unit() * (left as f64) < places as f64 {
                places -= 1;
                found += 1;
            }
            left = left.saturating_sub(1);
        }
        found
    }

    /// Takes `count` requests out of `from`. The durations are taken in the same ratio, independently of the classes.
    pub fn take(&mut self, from: &mut Counts, count: u64) -> Counts {
        let all = from.total();
        let count = count.min(all);
        let (mut taken, mut rest) = (Counts::default(), Counts::default());
        let (mut left, mut wanted) = (all, count);
        for class in Class::ALL {
            let here = from.of(class);
            let got = self.marked(left, here, wanted).min(here);
            taken.add(class, got);
            rest.add(class, here - got);
            left = left.saturating_sub(here);
            wanted -= got;
        }
        let known = from.latencies.total();
        // A source may know more or fewer durations than ends.
        let part = u128::from(known) * u128::from(count) / u128::from(all.max(1));
        let wanted = if count == all { known } else { u64::try_from(part).unwrap_or(known) };
        let (got, left) = self.split(&from.latencies, wanted);
        taken.latencies = got;
        rest.latencies = left;
        *from = rest;
        taken
    }

    /// Takes `count` durations out of `from`, and says what is left.
    fn split(&mut self, from: &Latencies, count: u64) -> (Latencies, Latencies) {
        let (mut taken, mut rest) = (Latencies::default(), Latencies::default());
        let mut left = from.total();
        let mut wanted = count.min(left);
        for (bucket, here) in from.buckets() {
            let got = self.marked(left, here, wanted).min(here);
            taken.add_to(bucket, got);
            rest.add_to(bucket, here - got);
            left = left.saturating_sub(here);
            wanted -= got;
        }
        (taken, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_has_the_mean_and_the_variance_of_the_hypergeometric() {
        let mut draws = Draws::new(1);
        for (all, marked, taken) in [(50, 10, 20), (50, 40, 20), (50, 10, 45), (1_000, 3, 400), (7, 7, 3), (5, 0, 2)] {
            let n = 20_000;
            let values: Vec<f64> = (0..n).map(|_| draws.marked(all, marked, taken) as f64).collect();
            let mean = values.iter().sum::<f64>() / f64::from(n);
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
            let (all, marked, taken) = (all as f64, marked as f64, taken as f64);
            let part = marked / all;
            let expected = taken * part * (1.0 - part) * (all - taken) / (all - 1.0);
            assert!((mean - taken * part).abs() < 0.03 * (1.0 + expected), "{mean} for {all} {marked} {taken}");
            assert!((variance - expected).abs() < 0.05 * (0.2 + expected), "{variance} is not {expected}");
        }
    }

    #[test]
    fn what_is_taken_and_what_is_left_are_the_whole() {
        let mut whole = Counts::default();
        for ms in 1..=200 {
            whole.request(if ms % 10 == 0 { Class::ServerError } else { Class::Success }, ms * 1_000);
        }
        let (mut left, mut draws) = (whole.clone(), Draws::new(2));
        let mut taken = draws.take(&mut left, 60);
        assert_eq!((taken.total(), taken.latencies.total(), left.total()), (60, 60, 140));
        taken.merge(&left);
        assert_eq!(taken, whole);
        assert_eq!(draws.take(&mut left, 1_000).total(), 140);
        assert!(left.latencies.is_empty() && left.total() == 0);
    }
}
