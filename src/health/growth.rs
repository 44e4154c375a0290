//! Growth of a resource: the slope of a robust line.
//!
//! The slope is Theil–Sen's, the median of the slopes of all pairs of points (Theil 1950; Sen 1968): up to 29 % of
//! outliers do not move it. A point is the smallest value in its slot of time: that removes the saw-tooth of a garbage
//! collector and shows the floor below it (teeth longer than a slot, a sixteenth of the bound's time, hide a leak until
//! it is larger than they are). A slope counts as growth only when the points really
//! rise one after the other: Kendall's tau, the rising pairs less the falling over all pairs, of at least one half.

use std::collections::VecDeque;

use crate::config::GrowthBound;
use crate::time::{Timestamp, millis};

use super::condition::Detection;

/// Slots in the time that a slope must hold.
const SLOTS: u64 = 16;
/// Points below which a line says nothing.
const POINTS_MIN: usize = 8;
/// Left out after each start, in milliseconds: caches fill and pools open.
const WARM_UP_MS: u64 = 30_000;
/// Kendall's tau from which a rise is a trend.
const TAU_MIN: f64 = 0.5;
/// A leak continues as it began; a warm-up slows down. The second half of the points brings at least this part of the rise.
const LATE_PART: f64 = 0.25;

/// One growing thing.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    bound: Option<GrowthBound>,
    unit: &'static str,
    started: Option<Timestamp>,
    /// The smallest value of each slot, oldest first; at most `SLOTS + 1`.
    points: VecDeque<(Timestamp, u64)>,
}

impl Growth {
    pub fn new(bound: Option<GrowthBound>, unit: &'static str) -> Self {
        Self { bound, unit, started: None, points: VecDeque::new() }
    }

    /// A new process begins from nothing.
    pub fn restart(&mut self) {
        self.started = None;
        self.points.clear();
    }

    pub fn add(&mut self, at: Timestamp, value: u64) {
        let Some(bound) = &self.bound else { return };
        let started = *self.started.get_or_insert(at);
        // A configured time shorter than the warm-up shortens the warm-up: the operator knows the runtime.
        if at.ms_since(started) < WARM_UP_MS.min(for_ms(bound)) {
            return;
        }
        let slot_ms = (for_ms(bound) / SLOTS).max(1);
        match self.points.back_mut() {
            Some((when, low)) if at.as_unix_ms() / slot_ms == when.as_unix_ms() / slot_ms => *low = value.min(*low),
            _ => self.points.push_back((at, value)),
        }
        while self.points.len() as u64 > SLOTS + 1 {
            self.points.pop_front();
        }
    }

    pub fn detect(&self) -> Detection {
        let Some(bound) = &self.bound else { return Detection::pass("no bound configured") };
        let span = match (self.points.front(), self.points.back()) {
            (Some((first, _)), Some((last, _))) => last.ms_since(*first),
            _ => 0,
        };
        // A slot less than the whole: the first and the last point lie anywhere within theirs.
        let needed = for_ms(bound) / SLOTS * (SLOTS - 2);
        if self.points.len() < POINTS_MIN || span < needed {
            let what = format!("{} s of {} measurements, has {} s", for_ms(bound) / 1_000, self.unit, span / 1_000);
            return Detection::inconclusive("not enough points for a slope", what);
        }
        let (per_hour, tau) = slope(&self.points);
        let shown = |amount| amount_of(amount, self.unit);
        let figure = format!("{} per hour, bound {}", shown(per_hour), shown(bound.per_hour as f64));
        if per_hour > bound.per_hour as f64 && tau >= TAU_MIN && self.continues() {
            Detection::fail(format!("grows by {figure}"))
        } else {
            Detection::pass(format!("slope {figure}"))
        }
    }

    /// Whether it still grows at the end as it did before.
    fn continues(&self) -> bool {
        let at = |index: usize| self.points.get(index).map_or(0.0, |(_, value)| *value as f64);
        let last = self.points.len().saturating_sub(1);
        at(last) - at(last / 2) >= LATE_PART * (at(last) - at(0))
    }

    pub fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<(Timestamp, u64)>()
    }
}

fn for_ms(bound: &GrowthBound) -> u64 {
    millis(bound.r#for).max(SLOTS)
}

/// An amount for a person.
fn amount_of(amount: f64, unit: &str) -> String {
    const MIB: f64 = 1_048_576.0;
    if unit == "bytes" { format!("{:.1} MiB", amount / MIB) } else { format!("{amount:.0} {unit}") }
}

/// Theil–Sen slope per hour and Kendall's tau of at most `SLOTS + 1` points (136 pairs).
fn slope(points: &VecDeque<(Timestamp, u64)>) -> (f64, f64) {
    let (mut slopes, mut rising, mut falling) = (Vec::new(), 0_i64, 0_i64);
    for (i, (t0, v0)) in points.iter().enumerate() {
        for (t1, v1) in points.iter().skip(i + 1).filter(|(t1, _)| t1 > t0) {
            let hours = t1.ms_since(*t0) as f64 / 3_600_000.0;
            slopes.push((*v1 as f64 - *v0 as f64) / hours);
            rising += i64::from(v1 > v0);
            falling += i64::from(v1 < v0);
        }
    }
    if slopes.is_empty() {
        return (0.0, 0.0);
    }
    let tau = (rising - falling) as f64 / slopes.len() as f64;
    let middle = slopes.len() / 2;
    let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
    (*median, tau)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::interface::types::Verdict;

    const MIB: u64 = 1 << 20;

    fn fed(value: impl Fn(u64) -> u64, seconds: u64) -> Growth {
        let bound = GrowthBound { per_hour: 60 * MIB, r#for: Duration::from_secs(600) };
        let mut growth = Growth::new(Some(bound), "bytes");
        for second in 0..seconds {
            growth.add(Timestamp::from_unix_ms(1_000_000_000_000 + second * 1_000), value(second));
        }
        growth
    }

    #[test]
    fn a_leak_is_seen_and_a_plateau_is_not() {
        let leak = fed(|second| 100 * MIB + second * MIB / 30, 700);
        assert_eq!(leak.detect().verdict, Verdict::Fail, "{:?}", leak.detect());
        let plateau = fed(|second| 100 * MIB + second.min(20) * 5 * MIB, 700);
        assert_eq!(plateau.detect().verdict, Verdict::Pass, "warm-up is no growth");
    }

    /// A bound whose time is shorter than the warm-up.
    #[test]
    fn a_warm_up_that_slows_down_is_no_growth_and_a_leak_is() {
        let fed = |value: fn(u64) -> u64| {
            let bound = GrowthBound { per_hour: 60 * MIB, r#for: Duration::from_secs(10) };
            let mut growth = Growth::new(Some(bound), "bytes");
            let begin = Timestamp::from_unix_ms(1_000_000_000_000).as_unix_ms();
            let mut failed = false;
            for ms in (0..60_000).step_by(500) {
                growth.add(Timestamp::from_unix_ms(begin + ms), value(ms));
                failed |= growth.detect().verdict == Verdict::Fail;
            }
            failed
        };
        assert!(!fed(|ms| 100 * MIB + ms.min(14_000) * MIB / 100), "a cache of 140 MiB is full after 14 s");
        assert!(fed(|ms| 100 * MIB + ms * MIB / 100));
    }

    #[test]
    fn a_collectors_saw_is_no_leak_and_a_leak_under_the_saw_is() {
        let saw = |second: u64| 100 * MIB + (second % 30) * 8 * MIB;
        assert_eq!(fed(saw, 700).detect().verdict, Verdict::Pass);
        let rising = fed(|second| saw(second) + second * MIB / 10, 700);
        assert_eq!(rising.detect().verdict, Verdict::Fail, "{:?}", rising.detect());
    }

    #[test]
    fn wild_points_do_not_move_the_slope() {
        let wild = fed(|second| if second / 20 % 5 == 0 { 900 * MIB } else { 100 * MIB }, 700);
        assert_eq!(wild.detect().verdict, Verdict::Pass, "{:?}", wild.detect());
    }

    #[test]
    fn too_short_is_inconclusive_and_says_what_it_waits_for() {
        let short = fed(|second| second * MIB, 120).detect();
        assert_eq!(short.verdict, Verdict::Inconclusive);
        assert!(short.waits_for.unwrap().contains("600 s"));
        let mut restarted = fed(|second| second * MIB, 700);
        restarted.restart();
        assert_eq!(restarted.detect().verdict, Verdict::Inconclusive, "a new process begins from nothing");
    }
}
