//! The time before a trial, as a reference: a fixed pool of requests, of which each block takes a part.
//!
//! If the candidate is like the version before it, then its requests and those of the pool are exchangeable. Parts that are drawn
//! without replacement are then like requests of the same second, and no request is compared twice.

use super::counts::Counts;
use super::draws::Draws;
use super::latencies::Latencies;
use super::route::Route;
use super::sample::{Connections, Sample};

/// The most requests of one route that are set aside to learn what is slow.
const LEARN_MAX: u64 = 2_000;
/// This part of a route's requests is set aside, one in so many.
const LEARN_PART: u64 = 4;
/// A pool is used up if less than one in so many of its requests is left.
const USED_UP_PART: u64 = 50;
/// The seed of the draws: any fixed number.
const SEED: u64 = 0x0052_6569;

/// The requests of the time before a trial.
#[derive(Clone, Debug)]
pub struct Pool {
    whole: Sample,
    span_ms: u64,
    left: Sample,
    learned: Sample,
    draws: Draws,
}

impl Pool {
    /// A pool of what came in `span_ms` before the trial. A part is set aside at once, to learn what is slow: the rest does not
    /// depend on it.
    pub fn new(before: Sample, span_ms: u64) -> Self {
        let mut draws = Draws::new(SEED);
        let (mut left, mut learned) = (Sample::default(), Sample::default());
        left.connections = before.connections;
        left.coarse = before.coarse;
        for (route, counts) in before.routes() {
            let mut counts = counts.clone();
            let part = (counts.total() / LEARN_PART).min(LEARN_MAX);
            *learned.route(route.clone()) = draws.take(&mut counts, part);
            *left.route(route.clone()) = counts;
        }
        Self { whole: before, span_ms: span_ms.max(1), left, learned, draws }
    }

    /// All of it, for a person.
    pub fn whole(&self) -> &Sample {
        &self.whole
    }

    /// Requests in a millisecond.
    pub(super) fn per_ms(&self) -> f64 {
        self.whole.total().total() as f64 / self.span_ms as f64
    }

    /// Whether next to nothing is left to compare with.
    pub(super) fn is_used_up(&self) -> bool {
        let known = |sample: &Sample| sample.total().latencies.total();
        known(&self.left) <= known(&self.whole) / USED_UP_PART
    }

    /// The durations that were set aside, by route.
    pub(super) fn learned(&self) -> impl Iterator<Item = (&Route, &Latencies)> {
        self.learned.routes().map(|(route, counts)| (route, &counts.latencies))
    }

    /// The reference of a block: for each route on which the candidate had requests, this part of what is left.
    pub(super) fn draw(&mut self, candidate: &Sample, part: f64) -> Sample {
        let part = part.clamp(0.0, 1.0);
        let mut drawn = Sample::default();
        drawn.coarse = self.whole.coarse;
        for (route, _) in candidate.routes() {
            if self.left.get(route).is_some() {
                let left: &mut Counts = self.left.route(route.clone());
                let count = part_of(left.total(), part);
                *drawn.route(route.clone()) = self.draws.take(left, count);
            }
        }
        if candidate.connections.ended > 0 {
            drawn.connections = self.draw_connections(part);
        }
        drawn
    }

    fn draw_connections(&mut self, part: f64) -> Connections {
        let left = &mut self.left.connections;
        let ended = part_of(left.ended, part);
        let drawn = Connections {
            ended,
            reset: self.draws.marked(left.ended, left.reset, ended),
            empty: self.draws.marked(left.ended, left.empty, ended),
        };
        left.ended = left.ended.saturating_sub(drawn.ended);
        left.reset = left.reset.saturating_sub(drawn.reset);
        left.empty = left.empty.saturating_sub(drawn.empty);
        drawn
    }
}

/// A part of a count, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the value is positive"
)]
fn part_of(count: u64, part: f64) -> u64 {
    ((count as f64 * part).ceil() as u64).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Class;

    #[test]
    fn no_request_is_drawn_twice() {
        let mut before = Sample::default();
        let (a, b) = (Route::of_request("GET", "/a"), Route::of_request("GET", "/b"));
        for ms in 0..100 {
            before.route(a.clone()).request(Class::Success, ms * 1_000);
            before.route(b.clone()).request(Class::ClientError, 5_000);
        }
        let mut pool = Pool::new(before, 10_000);
        assert_eq!(pool.learned().map(|(_, it)| it.total()).sum::<u64>(), 50);
        let mut candidate = Sample::default();
        candidate.route(a.clone()).request(Class::Success, 1_000);
        let mut drawn = Sample::default();
        for _ in 0..200 {
            drawn.merge(&pool.draw(&candidate, 0.1));
        }
        assert_eq!(drawn.get(&a).unwrap().total(), 75, "the rest was set aside");
        assert_eq!(drawn.get(&b), None, "the candidate has no request there");
    }
}
