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

/// A user's exchange with Active, and what came when its request was asked again. Only the last round is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The exchange.
    pub exchange: Captured,
    /// The last round; `None` before the first.
    pub last: Option<Round>,
    /// How many rounds there were.
    pub rounds: usize,
    /// Where the candidate differed in every round, and Active never did; as of the last round that was taken.
    pub(super) standing: Option<Vec<Divergence>>,
}

impl Reply {
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

/// The facts of one round, and of the user's answer.
pub(super) struct Facts {
    pub user: Facets,
    pub active: Facets,
    pub candidate: Facets,
}

impl Facts {
    pub fn of(exchange: &Captured, round: &Round, rules: &Normalisers) -> Self {
        Self {
            user: facets(&exchange.response, rules),
            active: round.active.facets(rules),
            candidate: round.candidate.facets(rules),
        }
    }

    /// Where the candidate differs from both answers of Active, which are equal there.
    pub fn differences(&self, rules: &Normalisers) -> Vec<Divergence> {
        let noise = Noise::between(self.user.clone(), self.active.clone());
        let mut found = compare(&self.user, &self.candidate, &noise, rules);
        // What Active's answers do not have is new, also a header.
        let new = compare(&self.candidate, &self.user, &noise, rules).into_iter();
        let new = new.filter(|it| it.answered.is_none() && !found.iter().any(|known| known.at == it.at));
        let new: Vec<Divergence> = new.map(|it| Divergence { recorded: None, answered: it.recorded, ..it }).collect();
        found.extend(new);
        found
    }
}

impl Asked {
    /// An exchange that was not asked again yet.
    pub const fn new(exchange: Captured) -> Self {
        Self { exchange, last: None, rounds: 0, standing: None }
    }

    /// Both were asked once more.
    pub fn push(&mut self, round: Round) {
        self.last = Some(round);
        self.rounds += 1;
    }

    /// The route of the request.
    pub fn route(&self) -> Route {
        Route::of_request(&self.exchange.request.method, &self.exchange.request.path)
    }

    /// Keeps the differences that the last round has too.
    pub(super) fn confirm(&mut self, found: Vec<Divergence>) -> &[Divergence] {
        let standing = match self.standing.take() {
            None => found,
            Some(known) => known.into_iter().filter(|it| found.iter().any(|one| one.at == it.at)).collect(),
        };
        self.standing.insert(standing)
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
