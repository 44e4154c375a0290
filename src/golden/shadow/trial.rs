//! The evidence of all requests that were asked again.

use std::collections::{BTreeMap, BTreeSet};

use super::difference::Difference;
use super::round::{Asked, Facts, places, rules};
use crate::golden::compare::Divergence;
use crate::golden::facets::Facets;
use crate::golden::normalise::Normalisers;
use crate::live::{ALPHA, Paired, ROUTES_MAX, Route};
use crate::redact::Secrets;

/// Exchanges below which an answer of both sides says little.
pub const EXCHANGES_FEW: u64 = 5;
/// Exchanges that are enough.
const EXCHANGES_ENOUGH: u64 = 50;
/// Places of one route at which Active's answers are known to differ. A route with more has no body to compare.
const PLACES_MAX: usize = 500;
/// Ways in which the candidate may differ more often than Active: each has this part of the error bound.
const WAYS: f64 = 2.0;

/// The shadow of one candidate.
#[derive(Debug)]
pub struct ShadowTrial {
    rules: Normalisers,
    secrets: Secrets,
    /// Where Active's own answers differ, by route.
    noise: BTreeMap<Route, BTreeSet<String>>,
    /// Other statuses than the user got, and other facts that are no noise.
    statuses: Paired,
    facts: Paired,
    compared: BTreeMap<Route, u64>,
    /// Exchanges in which Active's own answers differed.
    noisy: u64,
    /// Exchanges in which the candidate differed once, and not again.
    unconfirmed: u64,
    /// The first exchange in which the candidate differed.
    first: Option<Difference>,
    failure: Option<String>,
}

impl ShadowTrial {
    /// A shadow in which nothing was asked yet. Findings do not have these secrets.
    pub fn new(secrets: Secrets) -> Self {
        Self {
            rules: rules(),
            secrets,
            noise: BTreeMap::new(),
            statuses: Paired::default(),
            facts: Paired::default(),
            compared: BTreeMap::new(),
            noisy: 0,
            unconfirmed: 0,
            first: None,
            failure: None,
        }
    }

    /// Takes the answers to one more request.
    pub fn add(&mut self, asked: &Asked) {
        let route = asked.route();
        let is_known = self.compared.contains_key(&route) || self.compared.len() < ROUTES_MAX;
        let route = if is_known { route } else { Route::rest() };
        let facts = Facts::of(asked, &self.rules);
        let mut differed = None;
        let noise = self.noise.entry(route.clone()).or_default();
        let mut learned = BTreeSet::new();
        for (active, candidate) in facts.actives.iter().zip(&facts.candidates) {
            let [own, other] = [candidate, active].map(|side| places(&facts.user, side, &self.rules));
            self.statuses.add(own.contains("status"), other.contains("status"));
            let is_new = |at: &&String| !is_below(noise, at);
            let [shows, shows_other] = [&own, &other].map(|places| places.iter().any(|at| is_new(&at)));
            self.facts.add(shows, shows_other);
            if shows && differed.is_none() {
                let is_actives = |at: &String| is_below(&other, at) || is_below(noise, at);
                differed = own.iter().find(|at| !is_actives(at)).map(|_| (candidate, active));
            }
            learned.extend(other);
        }
        self.noisy += u64::from(!learned.is_empty());
        noise.extend(learned);
        while noise.len() > PLACES_MAX {
            noise.pop_last();
        }
        *self.compared.entry(route).or_default() += 1;
        self.judge(asked, &facts, differed);
    }

    fn judge(&mut self, asked: &Asked, facts: &Facts, differed: Option<(&Facets, &Facets)>) {
        if self.failure.is_some() {
            return;
        }
        let shown = |found: &[Divergence]| Difference::redacted(asked, found, &self.secrets, &self.rules);
        // One round is no confirmation: something may have changed between two answers.
        let confirmed = if asked.rounds.len() > 1 { facts.confirmed(&self.rules) } else { Vec::new() };
        if !confirmed.is_empty() {
            self.failure = Some(shown(&confirmed).to_string());
            return;
        }
        if let Some((candidate, _)) = differed {
            self.unconfirmed += 1;
            if self.first.is_none() {
                let found = crate::golden::compare(&facts.user, candidate, &crate::golden::Noise::none(), &self.rules);
                self.first = Some(shown(&found));
            }
        }
        let alpha = ALPHA / WAYS;
        let more = match (self.statuses.is_shown(alpha), self.facts.is_shown(alpha)) {
            (true, _) => "another status",
            (false, true) => "another answer",
            (false, false) => return,
        };
        let first = self.first.as_ref().map_or_else(String::new, |first| format!("; the first: {first}"));
        self.failure = Some(format!(
            "{more} than users got from Active in {} of {} exchanges, more often than Active itself gives one{first}",
            self.unconfirmed,
            self.compared()
        ));
    }

    /// Why the candidate is degraded, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Exchanges that were compared.
    pub fn compared(&self) -> u64 {
        self.compared.values().sum()
    }

    /// Exchanges of a route that were compared.
    pub fn compared_of(&self, route: &Route) -> u64 {
        self.compared.get(route).copied().unwrap_or_default()
    }

    /// How many exchanges are enough, if this many are to be expected.
    pub fn enough(expected: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 5 and 50")]
        let enough = (expected / 2.0).clamp(EXCHANGES_FEW as f64, EXCHANGES_ENOUGH as f64) as u64;
        enough
    }

    /// What was compared, in one line for a person.
    pub fn summary(&self) -> String {
        let routes = self.compared.len();
        let mut text = format!("{} exchanges of {routes} routes compared", self.compared());
        for (count, what) in [(self.noisy, "with noise"), (self.unconfirmed, "that differed once")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }
}

/// Whether a place is one of these, or below one of them.
fn is_below(places: &BTreeSet<String>, at: &str) -> bool {
    let mut at = at;
    loop {
        if places.contains(at) {
            return true;
        }
        match at.rfind('/') {
            Some(end) => at = &at[..end],
            None => return false,
        }
    }
}
