//! Growth of memory and descriptors of a candidate, compared with Active at the same age.
//!
//! A process that begins grows: caches fill, pools open, code is compiled. So growth by itself is no fault. A process
//! leaks if it grows by more than Active did at the same age, and after as many requests, if it still grows at the end as
//! it did before, and if that is much. If nobody watched Active from its start, only growth beyond all that Active has
//! now counts.

use crate::interface::types::Verdict;

/// Points of a curve. With more, two neighbours become one.
const POINTS_MAX: usize = 128;
/// The time between points of a young process, in milliseconds; it doubles each time that the points are joined.
const SPACING_MS: u64 = 500;
/// A process that is first seen at this age or younger was watched from its start, in milliseconds.
const YOUNG_MS: u64 = 5_000;
/// Points of a candidate below which a curve says nothing.
const POINTS_MIN: usize = 8;
/// Growth that is much, beyond what Active explains: bytes, or this part of Active's memory; and descriptors.
const BYTES_MIN: u64 = 64 << 20;
const BYTES_PART: f64 = 0.25;
const FDS_MIN: u64 = 64;
/// Growth with the requests is much from less on, because it continues for as long as users come: bytes, bytes of each request;
/// and descriptors of each request.
const BYTES_MIN_SERVED: u64 = 8 << 20;
const BYTES_EACH: f64 = 16.0 * 1_024.0;
const FDS_MIN_SERVED: u64 = 24;
const FDS_EACH: f64 = 0.05;
/// Requests from which growth can be counted for each.
const REQUESTS_MIN: u64 = 50;
/// Without Active's start, a process is warm at this age, in milliseconds: what it grows before is asked again later.
const WARM_MS: u64 = 30_000;
/// In steady growth, the second half of the time brings at least this part of the whole.
const STEADY_PART: f64 = 0.35;
/// Kendall's tau from which a rise is a trend.
const TAU_MIN: f64 = 0.5;

/// What a process used at one age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Milliseconds since its start.
    pub age_ms: u64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Requests that it had served.
    pub requests: u64,
}

/// What one process used over its life, in a bounded number of points. A point has the smallest values of its time: that
/// removes the saw-tooth of a garbage collector and shows the floor below it.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    points: Vec<Usage>,
    spacing_ms: u64,
}

/// What a comparison of curves says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Fail: it leaks. Inconclusive: it grows, and it is too early to say why.
    pub verdict: Verdict,
    /// What grows, by how much, for a person. Empty if nothing does.
    pub reasons: Vec<String>,
}

impl Curve {
    /// Adds a measurement. Ages rise; a younger one is another process, and the curve begins anew.
    pub fn add(&mut self, usage: Usage) {
        if self.points.last().is_some_and(|last| usage.age_ms < last.age_ms) {
            *self = Self::default();
        }
        self.spacing_ms = self.spacing_ms.max(SPACING_MS);
        match self.points.last_mut() {
            Some(last) if usage.age_ms / self.spacing_ms == last.age_ms / self.spacing_ms => join(last, usage),
            _ => self.points.push(usage),
        }
        if self.points.len() > POINTS_MAX {
            self.spacing_ms *= 2;
            let mut joined: Vec<Usage> = Vec::with_capacity(POINTS_MAX + 1);
            for point in &self.points {
                match joined.last_mut() {
                    Some(last) if point.age_ms / self.spacing_ms == last.age_ms / self.spacing_ms => join(last, *point),
                    _ => joined.push(*point),
                }
            }
            self.points = joined;
        }
    }

    /// What is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Usage>()
    }

    /// Judges the growth of this process against Active's.
    pub fn judge(&self, active: Option<&Self>) -> Growth {
        let found = [MEMORY, DESCRIPTORS].map(|thing| self.judge_one(&thing, active));
        let mut growth = Growth { verdict: Verdict::Pass, reasons: Vec::new() };
        for (verdict, reason) in found.into_iter().flatten() {
            if verdict == Verdict::Fail && growth.verdict != Verdict::Fail {
                growth = Growth { verdict, reasons: Vec::new() };
            } else if growth.verdict == Verdict::Pass {
                growth.verdict = verdict;
            }
            if growth.verdict == verdict {
                growth.reasons.push(reason);
            }
        }
        growth
    }

    fn judge_one(&self, thing: &Thing, active: Option<&Self>) -> Option<(Verdict, String)> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let is_known = active.is_some_and(Self::is_from_start);
        let grown: Vec<(Usage, f64)> =
            self.points.iter().map(|point| (*point, self.excess(thing, active, first, point))).collect();
        let total = grown.last().map_or(0.0, |(_, excess)| *excess);
        let served = last.requests.saturating_sub(first.requests);
        let each = total / served.max(1) as f64;
        let level = active.and_then(|active| active.points.iter().map(thing.of).max()).unwrap_or_default();
        let much = total > (thing.min as f64).max(level as f64 * thing.part);
        let much_each = served >= REQUESTS_MIN && total > thing.min_served as f64 && each > thing.each;
        if self.points.len() < POINTS_MIN || !(much || much_each) || !is_steady(&grown) {
            return None;
        }
        let seconds = last.age_ms.saturating_sub(first.age_ms) / 1_000;
        let against = match (active, is_known) {
            (None, _) => "with nothing to compare with",
            (Some(_), true) => "more than Active at the same age",
            (Some(_), false) => "and is beyond all that Active has",
        };
        let per_request =
            if served >= REQUESTS_MIN { format!(", {} for each request", (thing.show)(each)) } else { String::new() };
        let figure = format!("{} grew by {} in {seconds} s{per_request}, {against}", thing.name, (thing.show)(total));
        let is_early = !is_known && last.age_ms < WARM_MS;
        Some((if is_early { Verdict::Inconclusive } else { Verdict::Fail }, figure))
    }

    /// How much more this process has grown from `first` to `point` than Active explains.
    fn excess(&self, thing: &Thing, active: Option<&Self>, first: &Usage, point: &Usage) -> f64 {
        let of = thing.of;
        let grown = of(point) as f64 - of(first) as f64;
        let Some(active) = active else { return grown };
        let level = active.points.iter().map(of).max().unwrap_or_default() as f64;
        if thing.follows_load || !active.is_from_start() {
            // What Active has too is no leak: it serves as many connections, or was warm before anyone looked.
            return grown.min(of(point) as f64 - level).max(0.0);
        }
        // A warm-up follows the time or the requests: the larger of the two explanations counts.
        let by_age = active.growth(thing, |usage| usage.age_ms, first, point);
        let by_requests = active.growth(thing, |usage| usage.requests, first, point);
        grown - by_age.max(by_requests).max(0.0)
    }

    /// How much this process grew between two readings of a clock, which is its age or its requests.
    fn growth(&self, thing: &Thing, clock: impl Fn(&Usage) -> u64, from: &Usage, to: &Usage) -> f64 {
        let at = |time: u64| -> f64 {
            let after = self.points.iter().position(|point| clock(point) >= time);
            match after {
                Some(0) => (thing.of)(&self.points[0]) as f64,
                None => self.points.last().map_or(0.0, |last| (thing.of)(last) as f64),
                Some(index) => {
                    let (low, high) = (&self.points[index - 1], &self.points[index]);
                    let part = (time - clock(low)) as f64 / (clock(high) - clock(low)).max(1) as f64;
                    let (low, high) = ((thing.of)(low) as f64, (thing.of)(high) as f64);
                    low + (high - low) * part
                }
            }
        };
        at(clock(to)) - at(clock(from))
    }

    fn is_from_start(&self) -> bool {
        self.points.first().is_some_and(|first| first.age_ms <= YOUNG_MS)
    }
}

/// The smallest values; the age and the requests of the first.
fn join(point: &mut Usage, other: Usage) {
    point.rss_bytes = point.rss_bytes.min(other.rss_bytes);
    point.fds = point.fds.min(other.fds);
}

/// One thing that can grow.
struct Thing {
    name: &'static str,
    of: fn(&Usage) -> u64,
    min: u64,
    part: f64,
    min_served: u64,
    each: f64,
    /// Each connection needs one: as many as Active has are no leak.
    follows_load: bool,
    show: fn(f64) -> String,
}

const MEMORY: Thing = Thing {
    name: "memory",
    of: |usage| usage.rss_bytes,
    min: BYTES_MIN,
    part: BYTES_PART,
    min_served: BYTES_MIN_SERVED,
    each: BYTES_EACH,
    follows_load: false,
    show: |bytes| {
        let (kib, mib) = (bytes / 1_024.0, bytes / 1_048_576.0);
        if mib < 1.0 { format!("{kib:.0} KiB") } else { format!("{mib:.0} MiB") }
    },
};

const DESCRIPTORS: Thing = Thing {
    name: "open descriptors",
    of: |usage| usage.fds,
    min: FDS_MIN,
    part: 0.0,
    min_served: FDS_MIN_SERVED,
    each: FDS_EACH,
    follows_load: true,
    show: |count| if count < 10.0 { format!("{count:.2}") } else { format!("{count:.0}") },
};

/// Whether an excess rises, and at the end as before: a warm-up slows down, a step ends, a leak continues.
fn is_steady(grown: &[(Usage, f64)]) -> bool {
    let (Some((first, low)), Some((last, high))) = (grown.first(), grown.last()) else { return false };
    let half = |from: u64, to: u64| from + (to - from) / 2;
    // Half of the requests, if requests are counted: a leak follows them, and users do not come evenly.
    let by_requests = last.requests.saturating_sub(first.requests) >= REQUESTS_MIN;
    let clock = |usage: &Usage| if by_requests { usage.requests } else { usage.age_ms };
    let middle = half(clock(first), clock(last).max(clock(first)));
    let late: Vec<f64> = grown.iter().filter(|(usage, _)| clock(usage) >= middle).map(|(_, excess)| *excess).collect();
    let late_growth = late.first().map_or(0.0, |begin| high - begin);
    let (mut rising, mut pairs) = (0_i64, 0_i64);
    for (index, one) in late.iter().enumerate() {
        for other in &late[index + 1..] {
            pairs += 1;
            rising += i64::from(other > one) - i64::from(other < one);
        }
    }
    pairs >= 3 && rising as f64 >= TAU_MIN * pairs as f64 && late_growth >= STEADY_PART * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A process that is measured each second of its life, from `from` to `to`.
    fn curve(from: u64, to: u64, usage: impl Fn(u64) -> (u64, u64, u64)) -> Curve {
        let mut curve = Curve::default();
        for second in from..to {
            let (rss_bytes, fds, requests) = usage(second);
            curve.add(Usage { age_ms: second * 1_000, rss_bytes, fds, requests });
        }
        curve
    }

    /// Warms up to 400 MiB in 40 s, ever slower.
    fn warm(second: u64) -> u64 {
        let rest = 40_u64.saturating_sub(second);
        400 * MIB - rest * rest * 360 * MIB / 1_600
    }

    #[test]
    fn a_warm_up_like_actives_is_no_growth() {
        let active = curve(0, 3_600, |second| (warm(second), 20, second * 80));
        // Today an honest version was rolled back in its first seconds: it "grows by 1,575 MiB per hour".
        for age in [5, 10, 20, 40, 80, 200] {
            let candidate = curve(0, age, |second| (warm(second) + 3 * MIB, 20, second * 34));
            let growth = candidate.judge(Some(&active));
            assert_eq!(growth, Growth { verdict: Verdict::Pass, reasons: vec![] }, "at {age} s");
        }
    }

    #[test]
    fn a_warm_up_is_no_leak_if_nobody_saw_actives() {
        let active = curve(1_000, 1_100, |_| (400 * MIB, 20, 0));
        for age in [10, 20, 40, 80, 200] {
            let candidate = curve(0, age, |second| (warm(second), 20, second * 34));
            assert_eq!(candidate.judge(Some(&active)).verdict, Verdict::Pass, "at {age} s");
        }
        // Without any reference it is asked again until it is warm.
        let candidate = curve(0, 200, |second| (warm(second), 20, second * 34));
        assert_eq!(candidate.judge(None).verdict, Verdict::Pass);
        let young = curve(0, 15, |second| (warm(second), 20, second * 34));
        assert_eq!(young.judge(None).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_leak_of_each_request_is_found_in_the_seconds_of_a_canary() {
        let active = curve(0, 600, |second| (100 * MIB, 20, second * 80));
        let leak = curve(0, 12, |second| (100 * MIB + second * 34 * MIB / 4, 20, second * 34));
        let growth = leak.judge(Some(&active));
        assert_eq!(growth.verdict, Verdict::Fail);
        assert!(growth.reasons[0].contains("256 KiB for each request"), "{growth:?}");
        let descriptors = curve(0, 12, |second| (100 * MIB, 20 + second * 34, second * 34));
        let growth = descriptors.judge(Some(&active));
        assert_eq!(growth.verdict, Verdict::Fail);
        assert!(growth.reasons[0].starts_with("open descriptors grew by 374"), "{growth:?}");
    }

    #[test]
    fn a_leak_under_a_warm_up_is_found() {
        let active = curve(0, 600, |second| (warm(second), 20, second * 80));
        let leak = curve(0, 20, |second| (warm(second) + second * 34 * MIB / 4, 20, second * 34));
        assert_eq!(leak.judge(Some(&active)).verdict, Verdict::Fail);
    }

    #[test]
    fn a_leak_without_counted_requests_and_without_actives_start_is_found() {
        let active = curve(1_000, 1_100, |_| (100 * MIB, 20, 0));
        let leak = |age| curve(0, age, |second| (100 * MIB + second * 8 * MIB, 20, 0));
        assert_eq!(leak(20).judge(Some(&active)).verdict, Verdict::Inconclusive, "it could be a warm-up");
        assert_eq!(leak(40).judge(Some(&active)).verdict, Verdict::Fail);
        assert_eq!(leak(40).judge(None).verdict, Verdict::Fail);
    }

    #[test]
    fn steps_and_descriptors_of_users_are_no_leak() {
        let active = curve(0, 600, |second| (100 * MIB, 20 + second.min(5) * 60, second * 80));
        // The window begins: all connections come to the candidate.
        let moved = curve(0, 60, |second| (100 * MIB, if second < 20 { 110 } else { 310 }, second * 80));
        assert_eq!(moved.judge(Some(&active)).verdict, Verdict::Pass);
        let step = curve(0, 60, |second| (if second < 20 { 100 * MIB } else { 190 * MIB }, 20, second * 80));
        assert_eq!(step.judge(Some(&active)).verdict, Verdict::Pass, "one step is no growth");
    }

    #[test]
    fn a_curve_is_bounded_and_another_process_begins_anew() {
        let mut long = curve(0, 100_000, |second| (100 * MIB, 20, second));
        assert!(long.points.len() <= POINTS_MAX && long.bytes() < 16 << 10, "{}", long.points.len());
        long.add(Usage { age_ms: 10, ..Usage::default() });
        assert_eq!(long.points.len(), 1);
    }
}
