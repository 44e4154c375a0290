//! Compares a recorded answer with the candidate's, without noise. Pure.
//!
//! Noise is what differs between two answers of Active to the same request: a clock, a random id, an order. It is
//! determined fact by fact, so that a noisy member does not hide its neighbours:
//! - If both answers have a fact with different values, it does not count, and neither does anything below it.
//! - If only one of them has a member or element, it does not count. If they have *different* members at a place, then
//!   members that neither has do not count there either.
//! - If a learned rule says what a value may be (its type or its pattern), that rule decides, and no noise.
//! - Everything else counts. A fact that is the same in both answers of Active is never noise.
//!
//! A recorded text with placeholders is a pattern: every value of the right kind is the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use similar::TextDiff;

use super::facets::Facets;
use super::fact::{Fact, Path};
use super::normalise::Normalisers;
use super::placeholder::value_matches;

/// Maximum length of a quoted value in a report, in characters.
const QUOTE_CHARS_MAX: usize = 200;

/// Maximum number of lines of a diff in a report.
const DIFF_LINES_MAX: usize = 40;

/// Number of unchanged lines around a change in a diff.
const DIFF_CONTEXT: usize = 2;

/// A fact in which the candidate differs from the recorded answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The path of the fact: `status`, `header/content-type`, `body/items/0/id`, `body/line 3`.
    pub at: String,
    /// The recorded value; `None` if there is none.
    pub recorded: Option<String>,
    /// The candidate's value; `None` if there is none.
    pub answered: Option<String>,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
        write!(f, "{}: recorded {}, answered {}", self.at, side(&self.recorded), side(&self.answered))
    }
}

/// The differences that do not count, because Active's own answers differ there: pairs of its answers.
#[derive(Clone, Debug, Default)]
pub struct Noise(Vec<(Facets, Facets)>);

impl Noise {
    /// No noise: Active has not given two answers, so everything counts.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The differences between two answers of Active.
    pub fn between(first: Facets, second: Facets) -> Self {
        Self(vec![(first, second)])
    }

    /// Also the differences between the first answer of Active and another one.
    pub fn and(&mut self, other: Facets) {
        if let Some((first, _)) = self.0.first() {
            self.0.push((first.clone(), other));
        }
    }

    /// True if a difference at this path is noise.
    fn contains(&self, path: &[String], normalisers: &Normalisers) -> bool {
        self.0.iter().any(|(first, second)| Self::differs(first, second, path, normalisers))
    }

    fn differs(first: &Facets, second: &Facets, path: &[String], normalisers: &Normalisers) -> bool {
        for end in 1..=path.len() {
            let here = &path[..end];
            match (first.get(here), second.get(here)) {
                (Some(a), Some(b)) if equal(here, a, b, normalisers) => {}
                (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return true,
                (None, None) => {
                    // A member that Active never has is noise only if Active's own answers have different members here.
                    let parent = &path[..end - 1];
                    let members = |facets: &Facets| facets.children(parent).into_iter().map(str::to_owned).collect();
                    let (a, b): (BTreeSet<String>, BTreeSet<String>) = (members(first), members(second));
                    return a != b;
                }
            }
        }
        false
    }
}

fn equal(path: &[String], a: &Fact, b: &Fact, normalisers: &Normalisers) -> bool {
    if let Some(is_alike) = normalisers.alike(path, a, b) {
        return is_alike;
    }
    if let (Fact::Scalar(a), Fact::Scalar(b), Some(("body", below))) =
        (a, b, path.split_first().map(|(root, below)| (root.as_str(), below)))
        && let (Some(a), Some(b)) = (a.as_f64(), b.as_f64())
    {
        let tolerance = normalisers.tolerance(below);
        if tolerance > 0.0 {
            return (a - b).abs() <= tolerance;
        }
    }
    a == b
}

/// True if a fact is as recorded: equal, or as the placeholders of the recorded one say.
fn as_recorded(path: &[String], recorded: &Fact, fact: &Fact, normalisers: &Normalisers) -> bool {
    let matches = || match (recorded, fact) {
        (Fact::Scalar(recorded), Fact::Scalar(fact)) => value_matches(recorded, fact),
        _ => false,
    };
    equal(path, recorded, fact, normalisers) || matches()
}

/// Every fact that counts and differs, in the order of the paths. If a status or a header was not recorded, any value
/// is accepted.
pub fn compare(recorded: &Facets, candidate: &Facets, noise: &Noise, normalisers: &Normalisers) -> Vec<Divergence> {
    let paths: BTreeSet<&Path> = recorded.iter().chain(candidate.iter()).map(|(path, _)| path).collect();
    let mut found: Vec<(&Path, Divergence)> = Vec::new();
    for path in paths {
        let (want, is) = (recorded.get(path), candidate.get(path));
        let same = match (want, is) {
            (Some(want), Some(is)) => as_recorded(path, want, is, normalisers),
            (None, Some(_)) => !counts_when_new(recorded, path),
            _ => false,
        };
        // A missing or new branch is reported once, without everything below it.
        let is_reported = found.last().is_some_and(|(above, _)| path.starts_with(above));
        let is_noise = || !normalisers.decides(path) && noise.contains(path, normalisers);
        if !same && !is_reported && !normalisers.is_free(path) && !is_noise() {
            let (recorded, answered) = (want.map(quote), is.map(quote));
            found.push((path, Divergence { at: path.join("/"), recorded, answered }));
        }
    }
    // The status is the most important, then the headers, then the body.
    let rank = |at: &str| ["status", "header"].iter().position(|root| at.starts_with(root)).unwrap_or(2);
    let mut found: Vec<Divergence> = found.into_iter().map(|(_, divergence)| divergence).collect();
    found.sort_by_key(|divergence| rank(&divergence.at));
    found
}

/// True if a fact that was not recorded counts: headers do not, and the body does only if one was recorded.
fn counts_when_new(recorded: &Facets, path: &[String]) -> bool {
    match path.first().map(String::as_str) {
        Some("header") => false,
        Some("body") => recorded.get(&path[..1]).is_some(),
        _ => true,
    }
}

fn quote(fact: &Fact) -> String {
    let text = fact.to_string();
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], text.len()),
        None => text,
    }
}

/// Both answers as a short unified diff: `-` is recorded, `+` is the candidate. Noise is shown as `~` on both sides.
pub fn diff(recorded: &Facets, candidate: &Facets, noise: &Noise, normalisers: &Normalisers) -> Vec<String> {
    let side = |facets: &Facets| {
        let mut text = String::new();
        for (path, fact) in facets.iter() {
            let is_new = recorded.get(path).is_none() && !counts_when_new(recorded, path);
            let free = is_new || normalisers.is_free(path);
            if free {
                continue;
            }
            let same = match (recorded.get(path), candidate.get(path)) {
                (Some(recorded), Some(given)) => as_recorded(path, recorded, given, normalisers),
                _ => false,
            };
            // A value that is as recorded is shown as recorded, so that it is no change.
            let fact = recorded.get(path).filter(|_| same).unwrap_or(fact);
            let value = if !same && noise.contains(path, normalisers) { "~".into() } else { quote(fact) };
            text.push_str(&format!("{}: {value}\n", path.join("/")));
        }
        text
    };
    let (old, new) = (side(recorded), side(candidate));
    let whole = TextDiff::from_lines(&old, &new).unified_diff().context_radius(DIFF_CONTEXT).to_string();
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    if lines.len() > DIFF_LINES_MAX {
        let more = lines.len() - DIFF_LINES_MAX;
        lines.truncate(DIFF_LINES_MAX);
        lines.push(format!("… {more} more lines"));
    }
    lines
}
