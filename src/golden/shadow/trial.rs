//! The evidence of all requests that were asked again.

use std::collections::{BTreeMap, BTreeSet};

use super::difference::Difference;
use super::round::{Asked, Facts, places, rules};
use crate::golden::normalise::Normalisers;
use crate::live::{ALPHA, Paired, ROUTES_MAX, Route};
use crate::redact::Secrets;

/// Exchanges below which an answer of both sides says little.
pub const EXCHANGES_FEW: u64 = 5;
/// Exchanges that are enough.
const EXCHANGES_ENOUGH: u64 = 50;
/// Places of one route at which Active's answers are known to differ. A route with more has no body to compare.
const PLACES_MAX: usize = 500;
/// Rounds in which a difference of one exchange is no chance any more, by itself: the evidence of so many pairs is enough.
pub const ROUNDS_ENOUGH: usize = 12;
/// Rounds after which a difference of one exchange is called one that is always there.
const ROUNDS_CLEAR: usize = 4;
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
    /// Exchanges in which the candidate differed at first, and not in each round.
    unconfirmed: u64,
    /// The exchange in which the candidate differed in most rounds.
    clearest: Option<Difference>,
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
            clearest: None,
            failure: None,
        }
    }

    /// Takes the last round of an exchange. Returns whether both versions are to be asked once more: the candidate has
    /// differed in every round, and Active never.
    pub fn add(&mut self, asked: &mut Asked) -> bool {
        let Some(round) = &asked.last else { return false };
        let route = asked.route();
        let is_known = self.compared.contains_key(&route) || self.compared.len() < ROUTES_MAX;
        let route = if is_known { route } else { Route::rest() };
        let is_first = asked.rounds == 1;
        *self.compared.entry(route.clone()).or_default() += u64::from(is_first);
        let facts = Facts::of(&asked.exchange, round, &self.rules);
        let [own, other] = [&facts.candidate, &facts.active].map(|side| places(&facts.user, side, &self.rules));
        let noise = self.noise.entry(route).or_default();
        // Both sides are measured by what was noise before this round, so that neither has an advantage.
        let [shows, other_shows] = [&own, &other].map(|places| places.iter().any(|at| !is_below(noise, at)));
        self.statuses.add(own.contains("status"), other.contains("status"));
        self.facts.add(shows, other_shows);
        self.noisy += u64::from(is_first && !other.is_empty());
        noise.extend(other);
        while noise.len() > PLACES_MAX {
            noise.pop_last();
        }
        let stands = !asked.confirm(facts.differences(&self.rules)).is_empty();
        self.unconfirmed += u64::from(!stands && !is_first);
        let is_clearest = self.clearest.as_ref().is_none_or(|known| known.rounds < asked.rounds);
        if is_clearest && stands {
            self.clearest = Some(Difference::redacted(asked, &self.secrets, &self.rules));
        }
        let is_shown = [&self.statuses, &self.facts].into_iter().any(|paired| paired.is_shown(ALPHA / WAYS));
        if is_shown && self.failure.is_none() {
            self.failure = Some(self.finding());
        }
        self.failure.is_none() && stands
    }

    /// What is wrong with the candidate, for a person.
    fn finding(&self) -> String {
        match &self.clearest {
            // Chance does not repeat itself that often.
            Some(clear) if clear.rounds >= ROUNDS_CLEAR => clear.to_string(),
            clearest => format!(
                "in {} exchanges the candidate answered otherwise now and then, more often than Active does{}",
                self.compared(),
                clearest.as_ref().map_or_else(String::new, |one| format!("; for example, {one}"))
            ),
        }
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
        for (count, what) in [(self.noisy, "with noise"), (self.unconfirmed, "that differed now and then")] {
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
