//! Whether the candidate's requests take longer on average, second by second.
//!
//! A library of metrics often has wide steps: 100 ms, 250 ms, 500 ms. A version that takes 60 ms in place of 40 ms changes
//! no step, but the sum of the durations shows it. Of a sum, no single duration is known, so one request of a minute can make
//! the mean of a second. So a second counts only as a sign: the candidate's mean is longer by more than the tolerance, or it
//! is not. If both versions are alike, then each request of the second could as well have gone to the other one, and the
//! sign is a matter of chance: see [`chance`].

use super::sample::Sample;
use super::sequential::Odds;

/// The tolerated difference of the means, and at least so much in microseconds.
const TOLERATED: f64 = 1.25;
const SHIFT_US: f64 = 1_000.0;
/// Requests of each side in a second from which their means say something.
const REQUESTS_MIN: u64 = 5;
/// The chance of a longer mean is at most this, while the candidate has no larger part of the requests.
const CHANCE: f64 = 0.7;
/// If nearly all requests of a second went to the candidate, its sign says nothing.
const CHANCE_MAX: f64 = 0.95;
/// A sign is a matter of chance; suspected are odds that are so many times as high.
pub(super) const LONGER: Odds =
    Odds { tolerated: 1.0, suspected: &[3.0, 10.0, 40.0], cap: 2.0, burst: 2.0, doubt: 2.0 };

/// The sign of one second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sign {
    /// Whether the candidate's mean is longer.
    pub longer: bool,
    /// The most that the chance of that is, if both versions are alike.
    pub chance: f64,
}

/// The sign of a second in which both served. Each of the candidate's routes is compared with the same route of the
/// reference, so that another mix of routes is no difference.
pub(super) fn sign(candidate: &Sample, reference: &Sample) -> Option<Sign> {
    let (mut own, mut usual, mut requests) = (0.0, 0.0, [0_u64; 2]);
    for (route, here) in candidate.routes().filter(|(_, here)| here.measured > 0) {
        let Some(other) = reference.get(route).filter(|other| other.measured > 0) else { continue };
        own += here.sum_us as f64;
        usual += here.measured as f64 * (other.sum_us as f64 / other.measured as f64);
        requests = [requests[0].saturating_add(here.measured), requests[1].saturating_add(other.measured)];
    }
    let [one, two] = requests;
    let longer = own > usual * TOLERATED && own > usual + one as f64 * SHIFT_US;
    chance(one, two).filter(|_| one.min(two) >= REQUESTS_MIN).map(|chance| Sign { longer, chance })
}

/// One slow request makes the mean of the side that has it, and it goes to the candidate with the chance of its part. Several
/// together can make the longer mean a little more likely than one half on a side with fewer requests: of two slow ones, at
/// least one goes to a side with 44 % of the requests with a chance of 69 %, the most of all cases.
fn chance(candidate: u64, reference: u64) -> Option<f64> {
    let part = candidate as f64 / (candidate as f64 + reference as f64);
    (part <= CHANCE_MAX).then_some(part.max(CHANCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Route;

    fn sample(routes: &[(&str, u64, u64)]) -> Sample {
        let mut sample = Sample::default();
        for (name, measured, mean_ms) in routes {
            let counts = sample.route(Route::of_request("GET", name));
            (counts.measured, counts.sum_us) = (*measured, measured * mean_ms * 1_000);
        }
        sample
    }

    #[test]
    fn a_mean_is_compared_on_each_route() {
        let longer = |one: &[_], two: &[_]| sign(&sample(one), &sample(two)).map(|sign| sign.longer);
        assert_eq!(longer(&[("/a", 10, 60)], &[("/a", 30, 40)]), Some(true));
        assert_eq!(longer(&[("/a", 10, 49)], &[("/a", 30, 40)]), Some(false));
        assert_eq!(longer(&[("/a", 10, 1)], &[("/a", 30, 0)]), Some(false), "a millisecond");
        // Another mix of routes, and routes that only one side has.
        let mixed = [("/a", 10, 40), ("/b", 90, 400), ("/c", 10, 9_000)];
        assert_eq!(longer(&mixed, &[("/a", 90, 40), ("/b", 10, 400)]), Some(false));
        assert_eq!(longer(&[("/a", 4, 60)], &[("/a", 30, 40)]), None, "too few");
    }

    /// The worst case of the comment at [`chance`], by counting all cases of a few slow requests among many.
    #[test]
    fn slow_requests_that_go_to_a_side_by_chance_stay_within_the_bound() {
        for part in 1..200_u32 {
            let p = f64::from(part) / 200.0;
            for slow in 1..=60_i32 {
                let choose = |k: i32| (0..k).fold(1.0, |c, i| c * f64::from(slow - i) / f64::from(i + 1));
                let is_longer = |k: i32| f64::from(k) / p > TOLERATED * f64::from(slow - k) / (1.0 - p);
                let all = (0..=slow).filter(|k| is_longer(*k));
                let chance_of: f64 = all.map(|k| choose(k) * p.powi(k) * (1.0 - p).powi(slow - k)).sum();
                let Some(bound) = chance(part.into(), (200 - part).into()) else { continue };
                assert!(chance_of <= bound + 1e-9, "{slow} slow requests, part {p}: {chance_of} > {bound}");
            }
        }
    }
}
