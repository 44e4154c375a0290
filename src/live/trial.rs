//! One trial: a candidate against a reference, on the requests that both really served.
//!
//! A trial has an e-process (see `sequential`) for each way to be different ([`FACETS`]), for all routes together and for each
//! route by itself, for connections, and for the operator's bounds. Their weighted mean is again an e-process: an honest
//! candidate makes it reach 100 *at any time* with a chance of at most 1 %. So the trial may be judged after each second.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Incidents;
use crate::time::Timestamp;

use super::class::Class;
use super::counts::Counts;
use super::draws::Draws;
use super::facet::{FACETS, FAILURES, Facet, PAUSE, Slow};
use super::latencies::Latencies;
use super::pool::Pool;
use super::route::Route;
use super::sample::{ROUTES_MAX, Sample};
use super::sequential::{Evidence, Odds, Table};
use super::silence::Silence;

/// The chance that an honest candidate is called degraded, however long a trial is and however often it is judged.
pub const ALPHA: f64 = 0.01;
/// The share of the error bound for connections that are no HTTP/1: half for resets, half for empty answers.
const WEIGHT_CONNECTIONS: f64 = 0.06;
/// The share for the operator's bounds: half for errors, half for latency.
const WEIGHT_BOUNDS: f64 = 0.1;
/// The operator's bounds are exact: nothing above them is tolerated.
const RATE_FAILURES: Odds = Odds { tolerated: 1.0, suspected: &[1.3, 2.0, 6.0], cap: 10.0, burst: 4.0, doubt: 12.0 };
const RATE_SLOW: Odds = Odds { tolerated: 1.0, suspected: &[1.5, 4.0, 20.0], cap: 2.0, burst: 2.0, doubt: 12.0 };
/// The part of requests that may be over the bound of a 99th percentile.
const P99_RATIO: f64 = 0.01;
/// A user who waits for less than this, in milliseconds, is not left waiting, however fast the reference is.
const PATIENCE_MS: u64 = 1_000;
/// The quantile of the reference's durations that a wait must exceed.
const P99: f64 = 0.99;
/// Requests of each side below which nothing passes.
const REQUESTS_MIN: u64 = 50;
/// Durations of a process are compared from so long after its first request, in milliseconds: caches fill, code is compiled.
const COLD_MS: u64 = 5_000;
/// Blocks after which the learned durations of the reference count half: the load of now decides what is slow.
const FORGET: u32 = 30;
/// A shift of classes needs this difference of the parts of all requests: one in a hundred.
const SHIFT_MIN: f64 = 0.01;
/// Failures below which a difference is an accident.
const FAILURES_MIN: u64 = 3;
/// The part of requests that fail from which a few failures are a doubt: one in 200. If the reference has no failures at
/// all, only more good requests take the doubt back. The same for slow requests, and one block in 50 for pauses.
const DOUBT_MIN: f64 = 0.005;
const PAUSES_MIN: u64 = 50;
/// Evidence of a total from which a candidate does not pass before there is more. An honest one has it at a given time with a
/// chance of less than one in two, in practice much less, and loses it.
const DOUBT: f64 = 2.0;
/// Blocks without a comparison after which none is to be expected.
const IDLE_MAX: u32 = 3;
/// The seed of the draws: any fixed number.
const SEED: u64 = 0x7472_6961;

/// The operator's bounds, and the least number of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Requests of each side below which nothing passes.
    pub requests_min: u64,
    /// The part of requests that may fail, 0 to 1.
    pub failures: Option<f64>,
    /// The bound of the 99th percentile of durations, in microseconds.
    pub p99_us: Option<u64>,
}

impl Limits {
    /// The bounds of `[incidents]`.
    pub fn of(incidents: &Incidents) -> Self {
        let us = |p99: std::time::Duration| u64::try_from(p99.as_micros()).unwrap_or(u64::MAX);
        Self {
            requests_min: REQUESTS_MIN,
            failures: incidents.errors.as_ref().map(|bound| bound.ratio),
            p99_us: incidents.latency.as_ref().map(|bound| us(bound.p99)),
        }
    }
}

/// A candidate on trial.
#[derive(Clone, Debug)]
pub struct Trial {
    pub(super) limits: Limits,
    pub(super) after: Option<After>,
    pub(super) seen: [Sample; 2],
    pub(super) total: Vec<Evidence>,
    pub(super) routes: BTreeMap<Route, OneRoute>,
    /// Connections that were reset, and that ended without an answer.
    pub(super) connections: [Evidence; 2],
    /// Requests that failed, and that were slow, against the operator's bounds.
    pub(super) bounds: [Evidence; 2],
    /// Requests over the operator's bound of latency, of those with a known duration.
    pub(super) over_bound: [u64; 2],
    pub(super) silence: Silence,
    pub(super) failed: Option<Vec<String>>,
    first_request: Option<Timestamp>,
    /// Blocks in a row in which a warm candidate had durations and none could be compared.
    idle: u32,
    blocks: u64,
    /// Durations of the candidate that were compared.
    compared: u64,
    /// The wide steps of durations that were seen.
    steps: BTreeSet<u8>,
    draws: Draws,
}

/// The reference of a trial that comes after it.
#[derive(Clone, Debug)]
pub(super) struct After {
    pub pool: Pool,
    /// The expected time of the trial, in milliseconds.
    expected_ms: u64,
    /// The begin of the trial and the last block.
    times: Option<(Timestamp, Timestamp)>,
}

/// The evidence of one route.
#[derive(Clone, Debug)]
pub(super) struct OneRoute {
    pub evidence: Vec<Evidence>,
    learned: Latencies,
    blocks: u32,
}

impl OneRoute {
    fn new(after: bool) -> Self {
        Self { evidence: all_facets(after), learned: Latencies::default(), blocks: 0 }
    }

    /// Learns what is slow from a block, for later blocks.
    fn learn(&mut self, latencies: &Latencies) {
        self.learned.merge(latencies);
        self.blocks += 1;
        if self.blocks.is_multiple_of(FORGET) {
            let mut half = Latencies::default();
            self.learned.buckets().for_each(|(bucket, count)| half.add_to(bucket, count.div_ceil(2)));
            self.learned = half;
        }
    }
}

fn all_facets(after: bool) -> Vec<Evidence> {
    FACETS.iter().map(|facet| Evidence::new(facet.odds(after))).collect()
}

/// One part of the evidence, with its weight.
pub(super) struct Part<'a> {
    pub about: About<'a>,
    pub weight: f64,
    pub evidence: &'a Evidence,
}

/// What a part of the evidence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About<'a> {
    /// A facet of one route, or of all together.
    Facet(Facet, Option<&'a Route>),
    Reset,
    Empty,
    BoundOfFailures,
    BoundOfLatency,
}

impl Trial {
    /// A trial of a candidate that serves beside the reference, in the same seconds.
    pub fn beside(limits: Limits) -> Self {
        Self::new(limits, None)
    }

    /// A trial of a candidate that serves after the reference, for about `expected_ms`.
    pub fn after(limits: Limits, pool: Pool, expected_ms: u64) -> Self {
        let mut trial = Self::new(limits, None);
        for (route, latencies) in pool.learned() {
            let mut one = OneRoute::new(true);
            one.learned.merge(latencies);
            trial.routes.insert(route.clone(), one);
        }
        trial.total = all_facets(true);
        trial.notice_steps(pool.whole());
        trial.after = Some(After { pool, expected_ms: expected_ms.max(1), times: None });
        trial
    }

    fn new(limits: Limits, after: Option<After>) -> Self {
        Self {
            limits,
            after,
            seen: Default::default(),
            total: all_facets(false),
            routes: BTreeMap::new(),
            connections: [Evidence::new(FAILURES), Evidence::new(FAILURES)],
            bounds: [Evidence::new(RATE_FAILURES), Evidence::new(RATE_SLOW)],
            over_bound: [0, 0],
            silence: Silence::default(),
            failed: None,
            idle: 0,
            first_request: None,
            blocks: 0,
            compared: 0,
            steps: BTreeSet::new(),
            draws: Draws::new(SEED),
        }
    }

    /// Learns what is slow from the reference's requests before the trial, so that the first seconds can be compared too.
    pub fn learn(&mut self, before: &Sample) {
        if self.after.is_some() {
            return;
        }
        for (route, counts) in before.routes() {
            let route = self.place(route);
            self.route(route).learn(&counts.latencies);
        }
        self.notice_steps(before);
    }

    /// Users whose wait for the candidate's first byte has become too long since the last call: see
    /// [`Trial::patience_ms`]. A candidate that leaves users waiting and answers nothing is broken, and one that no user
    /// asks is not.
    pub fn left_waiting(&mut self, connections: u64) {
        self.silence.left_waiting(connections);
    }

    /// The time from which a wait without an answer is too long, in milliseconds: longer than nearly all answers of the
    /// reference, so that a service whose answers take long is not taken for one that has none.
    pub fn patience_ms(&self) -> u64 {
        let of_route = |one: &OneRoute| one.learned.quantile_us(P99);
        let learned = self.routes.values().map(of_route).max().unwrap_or_default();
        let seen = self.seen_of(1, None).latencies.quantile_us(P99);
        (learned.max(seen) / 1_000).max(PATIENCE_MS)
    }

    /// Whether the candidate had no answer for users in the last block.
    pub fn is_silent(&self) -> bool {
        self.silence.has_begun()
    }

    /// What was seen of the candidate, and what was seen meanwhile of the reference.
    pub fn seen(&self) -> &[Sample; 2] {
        &self.seen
    }

    /// Whether the candidate was called degraded. It stays so.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Takes what came since the last block, best one second. After a reference, `reference` is what still comes to it; it is
    /// not compared.
    pub fn block(&mut self, at: Timestamp, candidate: &Sample, reference: &Sample) {
        let drawn = self.after.as_mut().map(|after| after.draw(at, candidate));
        let expected_per_ms = self.after.as_ref().map(|after| after.pool.per_ms());
        let reference = drawn.as_ref().unwrap_or(reference);
        self.blocks += 1;
        self.silence.block(at, answered(candidate), answered(reference), expected_per_ms);
        if candidate.routes().any(|(_, counts)| counts.total() > 0) {
            self.first_request.get_or_insert(at);
        }
        let warm = self.first_request.is_some_and(|first| at.ms_since(first) >= COLD_MS);
        let compared = self.compared;
        self.compare(candidate, reference, warm);
        if self.compared > compared {
            self.idle = 0;
        } else if warm && candidate.routes().any(|(_, counts)| !counts.latencies.is_empty()) {
            self.idle = self.idle.saturating_add(1);
        }
        self.compare_connections(candidate, reference);
        if self.limits.failures.is_some() || self.limits.p99_us.is_some() {
            self.compare_bounds(&candidate.total(), candidate.coarse);
        }
        for (seen, side) in self.seen.iter_mut().zip([candidate, reference]) {
            seen.merge(side);
        }
        self.notice_steps(candidate);
        self.notice_steps(reference);
        if self.failed.is_none() {
            self.failed = self.findings();
        }
    }

    /// All parts of the evidence. Their weights sum to at most 1.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let part = |about, weight, evidence| Part { about, weight, evidence };
        let facets = move |route, share: f64, evidence| {
            let pairs = FACETS.iter().zip::<&Vec<Evidence>>(evidence);
            pairs.map(move |(facet, it)| part(About::Facet(*facet, route), facet.weight() * share, it))
        };
        let share = 1.0 / (ROUTES_MAX as f64 + 1.0);
        let of_routes = self.routes.iter().flat_map(move |(route, one)| facets(Some(route), share, &one.evidence));
        let [reset, empty] = &self.connections;
        let [failures, latency] = &self.bounds;
        let rest = [
            part(About::Reset, WEIGHT_CONNECTIONS / 2.0, reset),
            part(About::Empty, WEIGHT_CONNECTIONS / 2.0, empty),
            part(About::BoundOfFailures, WEIGHT_BOUNDS / 2.0, failures),
            part(About::BoundOfLatency, WEIGHT_BOUNDS / 2.0, latency),
        ];
        facets(None, 1.0, &self.total).chain(of_routes).chain(rest)
    }

    /// Whether a part may speak: small numbers and small differences are no finding, however sure they are.
    pub(super) fn counts(&self, about: About<'_>) -> bool {
        let (facet, route) = match about {
            About::Facet(facet, route) => (facet, route),
            About::BoundOfFailures => return self.seen[0].total().failed() >= FAILURES_MIN,
            About::Reset | About::Empty | About::BoundOfLatency => return true,
        };
        let sides = [0, 1].map(|side| self.seen_of(side, route));
        match facet {
            Facet::Failures => sides[0].failed() >= FAILURES_MIN,
            Facet::More(class) | Facet::Fewer(class) => {
                let [one, other] = sides.map(|side| side.of(class) as f64 / side.total().max(1) as f64);
                (one - other).abs() >= SHIFT_MIN
            }
            Facet::Slow(_) => true,
        }
    }

    /// What was seen of a side on one route, or on all together; of a reference before the trial, all that is known.
    pub(super) fn seen_of(&self, side: usize, route: Option<&Route>) -> Counts {
        let seen = match &self.after {
            Some(after) if side == 1 => after.pool.whole(),
            _ => &self.seen[side],
        };
        match route {
            Some(route) => seen.get(route).cloned().unwrap_or_default(),
            None => seen.total(),
        }
    }

    /// Parts that are in doubt: a verdict has to wait for more requests. The evidence of one of many routes needs to be
    /// stronger, because one of them always is the worst.
    pub(super) fn doubts(&self) -> Vec<About<'_>> {
        let many = (self.routes.len().max(1) as f64).sqrt();
        let doubtful = |part: &Part<'_>| {
            let of_route = matches!(part.about, About::Facet(_, Some(_)));
            let enough = if of_route { DOUBT * many } else { DOUBT };
            part.evidence.doubt() >= enough && self.may_be_doubted(part)
        };
        let mut found: Vec<(f64, About<'_>)> =
            self.parts().filter(doubtful).map(|part| (part.weight * part.evidence.doubt(), part.about)).collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.into_iter().map(|(_, about)| about).collect()
    }

    /// Whether more requests can be compared with the reference: it is not used up, and it has had the routes that users ask
    /// for now.
    fn has_more(&self) -> bool {
        self.idle < IDLE_MAX && self.after.as_ref().is_none_or(|after| !after.pool.is_used_up())
    }

    /// A shift that is too small to be a finding is no doubt either. One failure among few requests is. If the time before is
    /// used up, more requests can take no doubt of durations and classes away, and waiting for them would never end.
    fn may_be_doubted(&self, part: &Part<'_>) -> bool {
        match part.about {
            About::Facet(facet, _) if facet != Facet::Failures && !self.has_more() => false,
            About::Facet(Facet::Failures, route) => {
                let seen = self.seen_of(0, route);
                seen.failed() as f64 >= DOUBT_MIN * seen.total() as f64
            }
            About::Facet(Facet::Slow(PAUSE), _) => part.evidence.blocks().saturating_mul(PAUSES_MIN) >= self.blocks,
            About::Facet(Facet::Slow(_), _) => part.evidence.excess() >= DOUBT_MIN,
            About::BoundOfFailures => true,
            about => self.counts(about),
        }
    }

    /// Durations of the candidate that were compared.
    pub(super) fn durations_compared(&self) -> u64 {
        self.compared
    }

    /// Whether enough is known of the reference on any route to say what is slow, and more durations can be compared.
    pub(super) fn can_compare_durations(&self) -> bool {
        self.has_more() && self.routes.values().any(|one| Slow::of(&one.learned, None, self.after.is_some()).is_some())
    }

    fn compare(&mut self, candidate: &Sample, reference: &Sample, warm: bool) {
        let mut sides: BTreeMap<Route, [Counts; 2]> = BTreeMap::new();
        for (side, sample) in [candidate, reference].into_iter().enumerate() {
            for (route, counts) in sample.routes() {
                let place = self.place(route);
                if !self.routes.contains_key(&place) {
                    self.route(place.clone());
                }
                sides.entry(place).or_default()[side].merge(counts);
            }
        }
        let after = self.after.is_some();
        let steps = (candidate.coarse || reference.coarse).then(|| self.steps.clone());
        let mut all: Vec<Vec<Table>> = vec![Vec::new(); FACETS.len()];
        for (route, [one, other]) in &sides {
            let Some(here) = self.routes.get_mut(route) else { continue };
            let slow = if warm { Slow::of(&here.learned, steps.as_ref(), after) } else { None };
            if slow.is_some() && !other.latencies.is_empty() {
                self.compared = self.compared.saturating_add(one.latencies.total());
            }
            for ((facet, evidence), tables) in FACETS.iter().zip(&mut here.evidence).zip(&mut all) {
                let table = facet.table(one, other, slow.as_ref());
                if table.totals != [0, 0] {
                    let table = table.thinned(&mut self.draws);
                    evidence.add(&[table]);
                    tables.push(table);
                }
            }
            if !after {
                here.learn(&other.latencies);
            }
        }
        for (evidence, tables) in self.total.iter_mut().zip(&all) {
            evidence.add(tables);
        }
    }

    fn compare_connections(&mut self, candidate: &Sample, reference: &Sample) {
        let sides = [candidate.connections, reference.connections];
        let totals = sides.map(|side| side.ended);
        let events = [sides.map(|side| side.reset), sides.map(|side| side.empty)];
        for (evidence, events) in self.connections.iter_mut().zip(events) {
            evidence.add(&[Table { totals, events }.thinned(&mut self.draws)]);
        }
    }

    fn compare_bounds(&mut self, candidate: &Counts, coarse: bool) {
        let [failures, latency] = &mut self.bounds;
        if let Some(ratio) = self.limits.failures {
            failures.add_rate(candidate.total(), candidate.failed(), ratio);
        }
        if let Some(bound_us) = self.limits.p99_us {
            let mut bucket = Latencies::bucket(bound_us);
            if coarse {
                // A wide step is at its upper edge. It is over the bound for sure if the step below it is.
                bucket = self.steps.range(bucket..).next().copied().unwrap_or(u8::MAX);
            }
            let (total, over) = (candidate.latencies.total(), candidate.latencies.above(bucket));
            latency.add_rate(total, over, P99_RATIO);
            self.over_bound = [self.over_bound[0].saturating_add(over), self.over_bound[1].saturating_add(total)];
        }
    }

    /// Where a route is counted: by itself, or with the rest.
    fn place(&self, route: &Route) -> Route {
        let full = self.routes.len() >= ROUTES_MAX && !self.routes.contains_key(route);
        if full { Route::rest() } else { route.clone() }
    }

    fn route(&mut self, route: Route) -> &mut OneRoute {
        let after = self.after.is_some();
        self.routes.entry(route).or_insert_with(|| OneRoute::new(after))
    }

    fn notice_steps(&mut self, sample: &Sample) {
        for (_, counts) in sample.routes().filter(|_| sample.coarse) {
            self.steps.extend(counts.latencies.buckets().map(|(bucket, _)| bucket));
        }
    }
}

/// The requests that had an answer.
fn answered(side: &Sample) -> u64 {
    let of = |counts: &Counts| counts.total().saturating_sub(counts.of(Class::Aborted));
    side.routes().fold(0, |sum, (_, counts)| sum.saturating_add(of(counts)))
}

impl After {
    /// The part of the pool for a block: as much of what is left as the block is of the time that is left. A trial that takes longer
    /// than expected gets smaller and smaller parts.
    fn draw(&mut self, at: Timestamp, candidate: &Sample) -> Sample {
        let (began, last) = *self.times.get_or_insert((at, at));
        self.times = Some((began, at));
        let block_ms = at.ms_since(last).clamp(1_000, self.expected_ms.max(1_000)) as f64;
        let left_ms = self.expected_ms.saturating_sub(at.ms_since(began)).max(self.expected_ms / 4);
        self.pool.draw(candidate, block_ms / (left_ms as f64 + block_ms))
    }
}
