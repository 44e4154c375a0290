//! The answers to one request: what came, and where the candidate's differ from all of Active's.

use std::collections::BTreeSet;

use crate::golden::capture::Captured;
use crate::golden::compare::{Divergence, Noise, compare};
use crate::golden::facets::Facets;
use crate::golden::normalise::Normalisers;
use crate::http::Response;
use crate::live::Route;

/// Headers that say what the answer means to a client. Others are about the connection, the time or the process (`date`,
/// `server`, `x-served-by`, `etag`), and differ between two honest instances.
const HEADERS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "allow",
    "cache-control",
    "content-disposition",
    "content-language",
    "content-range",
    "content-security-policy",
    "content-type",
    "location",
    "retry-after",
    "strict-transport-security",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
];

/// What came to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A whole answer.
    Answer(Response),
    /// None, or no whole one: why, for a person.
    Nothing(String),
}

/// Both sides, asked once.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// What Active answered.
    pub active: Reply,
    /// What the candidate answered.
    pub candidate: Reply,
}

/// A user's exchange with Active, and what came when its request was asked again.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The exchange.
    pub exchange: Captured,
    /// The rounds, in the order of time; at least one.
    pub rounds: Vec<Round>,
}

impl Reply {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Answer(response) => Some(response.status),
            Self::Nothing(_) => None,
        }
    }

    /// The facts of the answer. No answer has the status 0.
    fn facets(&self, rules: &Normalisers) -> Facets {
        match self {
            Self::Answer(response) => facets(response, rules),
            Self::Nothing(_) => Facets::of(0, &[], None, rules),
        }
    }
}

/// The facts of an answer that mean something to a client.
pub(super) fn facets(response: &Response, rules: &Normalisers) -> Facets {
    let matters = |(name, _): &&(String, String)| HEADERS.binary_search(&name.as_str()).is_ok();
    let headers: Vec<(String, String)> = response.headers.iter().filter(matters).cloned().collect();
    Facets::of(response.status, &headers, Some(&response.body), rules)
}

/// Where two answers of one request differ, and how: all facts count.
pub(super) fn places(one: &Facets, other: &Facets, rules: &Normalisers) -> BTreeSet<String> {
    // A header that only one of the two has counts, whichever has it.
    let both = [compare(one, other, &Noise::none(), rules), compare(other, one, &Noise::none(), rules)];
    both.into_iter().flatten().map(|divergence| divergence.at).collect()
}

/// The facts of all answers to one request.
pub(super) struct Facts {
    pub user: Facets,
    pub actives: Vec<Facets>,
    pub candidates: Vec<Facets>,
}

impl Facts {
    pub fn of(asked: &Asked, rules: &Normalisers) -> Self {
        let side = |of: fn(&Round) -> &Reply| asked.rounds.iter().map(|round| of(round).facets(rules)).collect();
        Self {
            user: facets(&asked.exchange.response, rules),
            actives: side(|round| &round.active),
            candidates: side(|round| &round.candidate),
        }
    }

    /// Where the candidate differed in every round, and Active never did: neither from the user's answer nor between its own.
    pub fn confirmed(&self, rules: &Normalisers) -> Vec<Divergence> {
        let noise = |active: &Facets| Noise::between(self.user.clone(), active.clone());
        let mut confirmed: Option<Vec<Divergence>> = None;
        for active in &self.actives {
            let noise = noise(active);
            for candidate in &self.candidates {
                let mut found = compare(&self.user, candidate, &noise, rules);
                // What Active's answers never had is new, also a header.
                let new = compare(candidate, &self.user, &noise, rules).into_iter();
                let new = new.filter(|it| it.answered.is_none() && !found.iter().any(|known| known.at == it.at));
                let new: Vec<Divergence> =
                    new.map(|it| Divergence { at: it.at, recorded: None, answered: it.recorded }).collect();
                found.extend(new);
                confirmed = Some(match confirmed {
                    None => found,
                    Some(known) => known.into_iter().filter(|it| found.iter().any(|one| one.at == it.at)).collect(),
                });
            }
        }
        confirmed.unwrap_or_default()
    }
}

impl Asked {
    /// The route of the request.
    pub fn route(&self) -> Route {
        Route::of_request(&self.exchange.request.method, &self.exchange.request.path)
    }

    /// Whether the candidate's answers differ from all of Active's so far. Then both are asked once more, because the
    /// cause may be something that changed between two answers.
    pub fn is_suspicious(&self) -> bool {
        let rules = rules();
        !Facts::of(self, &rules).confirmed(&rules).is_empty()
    }

    /// Whether the candidate's last answer has another status than Active's last: it may fail now and then.
    pub fn may_be_flaky(&self) -> bool {
        self.rounds.last().is_some_and(|round| round.active.status() != round.candidate.status())
    }
}

/// The rules of the comparison: no rule of an author, as nobody wrote a run.
pub(super) fn rules() -> Normalisers {
    Normalisers::compile(&[]).expect("no rule is no wrong rule")
}

#[test]
fn the_headers_are_sorted() {
    assert!(HEADERS.is_sorted());
}
