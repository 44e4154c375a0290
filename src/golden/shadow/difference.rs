//! A difference as a person may see it: redacted and short.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::round::{Asked, Reply, facets};
use crate::golden::compare::{Divergence, Noise, compare};
use crate::golden::format::{Exchange, Expected};
use crate::golden::normalise::Normalisers;
use crate::golden::redact::Redaction;
use crate::http::{Request, Response};
use crate::redact::Secrets;

/// Places of one difference that are shown.
const PLACES_MAX: usize = 3;
/// The longest text of a place or a value, in characters.
const TEXT_CHARS_MAX: usize = 160;

/// An exchange in which the candidate differs from Active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The method and the path of the request.
    pub request: String,
    /// The first places that differ: what Active answered, and the candidate.
    pub places: Vec<Divergence>,
    /// How many other places differ.
    pub more: usize,
    /// How many times both were asked.
    pub rounds: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is answered otherwise: ", self.request)?;
        for (index, Divergence { at, recorded, answered }) in self.places.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            write!(f, "{separator}{at}: {} by Active, {} by the candidate", side(recorded), side(answered))?;
        }
        if self.more > 0 {
            write!(f, "; {} more places", self.more)?;
        }
        write!(f, " (asked {} times)", self.rounds)
    }
}

impl Difference {
    /// The difference that was found in these exchanges. It has no secret and no personal data: values are those of redacted
    /// messages, and what cannot be examined is not shown.
    pub(super) fn redacted(asked: &Asked, secrets: &Secrets, rules: &Normalisers) -> Self {
        let found = asked.standing.as_deref().unwrap_or_default();
        let mut redaction = Redaction::new(secrets);
        let shown = Messages::redacted(asked, &mut redaction);
        let request = match &shown {
            Some(messages) => format!("{} {}", messages.request.method, messages.request.path),
            // The template of the path has no values.
            None => asked.route().to_string(),
        };
        let clean = shown.and_then(|messages| messages.divergences(rules)).unwrap_or_default();
        let rank = |at: &str| ["status", "header"].iter().position(|root| at.starts_with(root)).unwrap_or(2);
        let mut found: Vec<&Divergence> = found.iter().collect();
        found.sort_by_key(|it| rank(&it.at));
        if asked.last.as_ref().is_some_and(|round| matches!(round.candidate, Reply::Nothing(_))) {
            // No answer has no header and no body either.
            found.retain(|it| it.at == "status");
        }
        let places = found.iter().take(PLACES_MAX).map(|it| place(it, &clean, asked, &mut redaction)).collect();
        let more = found.len().saturating_sub(PLACES_MAX);
        Self { request: cut(&request), places, more, rounds: asked.rounds }
    }
}

/// One place with the values of the redacted messages.
fn place(found: &Divergence, clean: &[Divergence], asked: &Asked, redaction: &mut Redaction) -> Divergence {
    let at = cut(&redaction.text(&found.at));
    if found.at == "status" {
        let candidate = asked.last.as_ref().map(|round| &round.candidate);
        let answered = match candidate {
            Some(Reply::Nothing(why)) => Some(format!("no answer ({})", cut(&redaction.text(why)))),
            Some(Reply::Answer(_)) | None => found.answered.clone(),
        };
        return Divergence { at, recorded: found.recorded.clone(), answered };
    }
    let hidden = |value: &Option<String>| value.as_ref().map(|_| "a value that is not shown".to_owned());
    let shown = |value: &Option<String>| value.as_deref().map(cut);
    match clean.iter().find(|it| it.at == found.at) {
        Some(it) => Divergence { at, recorded: shown(&it.recorded), answered: shown(&it.answered) },
        None => Divergence { at, recorded: hidden(&found.recorded), answered: hidden(&found.answered) },
    }
}

/// The messages of a difference, redacted.
struct Messages {
    request: Request,
    active: Response,
    candidate: Option<Response>,
}

impl Messages {
    /// `None` if a message cannot be examined.
    fn redacted(asked: &Asked, redaction: &mut Redaction) -> Option<Self> {
        let request = &asked.exchange.request;
        let mut clean = |response: &Response| {
            let (request, response) = (request.clone(), Some(Expected::from(response.clone())));
            let mut exchange = Exchange { request, response, ..Exchange::default() };
            redaction.exchange(&mut exchange).ok()?;
            let Expected { status, headers, body } = exchange.response?;
            Some((exchange.request, Response { status, headers, body: body.unwrap_or_default() }))
        };
        let (request, active) = clean(&asked.exchange.response)?;
        let candidate = match &asked.last.as_ref()?.candidate {
            Reply::Answer(response) => Some(clean(response)?.1),
            Reply::Nothing(_) => None,
        };
        Some(Self { request, active, candidate })
    }

    /// Where the redacted messages differ.
    fn divergences(&self, rules: &Normalisers) -> Option<Vec<Divergence>> {
        let (active, candidate) = (facets(&self.active, rules), facets(self.candidate.as_ref()?, rules));
        let mut found = compare(&active, &candidate, &Noise::none(), rules);
        let new = compare(&candidate, &active, &Noise::none(), rules).into_iter();
        found.extend(new.filter(|it| it.answered.is_none()).map(|it| Divergence {
            answered: it.recorded,
            recorded: None,
            ..it
        }));
        Some(found)
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
