//! The verdict of a trial, and its reasons in words.

use crate::interface::types::Verdict;

use super::counts::Counts;
use super::facet::{Facet, PAUSE, QUANTILES};
use super::latencies::Latencies;
use super::route::Route;
use super::trial::{ALPHA, About, Part, Trial};

/// Reasons that a judgement shows.
const REASONS_MAX: usize = 5;
/// A part of the evidence is a reason if it is at least this part of all.
const TELLING: f64 = 0.02;
/// The evidence of a single route from which it is named, once the whole is sure; and how many are named.
const SHOWN: f64 = 10.0;
const ROUTES_SHOWN: usize = 2;
/// The part of requests that may fail if there is neither a bound of the operator nor a reference.
const RATIO_DEFAULT: f64 = 0.05;

/// The verdict on a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the candidate is well.
    pub verdict: Verdict,
    /// Why, most telling first, for a person. Never empty.
    pub reasons: Vec<String>,
    /// What would make an inconclusive verdict a clear one.
    pub waits_for: Option<String>,
    /// What was seen of the candidate.
    pub candidate: Counts,
    /// What was seen of the reference.
    pub reference: Counts,
}

impl Trial {
    /// Judges what came up to now. A candidate that failed stays failed.
    pub fn judge(&self) -> Judgement {
        let (mut reasons, mut waits) = (Vec::new(), Vec::new());
        let [candidate, reference] = [0, 1].map(|side| self.seen_of(side, None));
        let verdict = if let Some(failed) = &self.failed {
            reasons.clone_from(failed);
            Verdict::Fail
        } else if let Some(broken) = self.silence.lasting().filter(|silent| silent.is_broken()) {
            let seconds = broken.for_ms / 1_000;
            let users = broken.waiting;
            reasons
                .push(format!("no request was answered for {seconds} s, in which {users} users waited for an answer"));
            Verdict::Fail
        } else {
            self.wanted(&candidate, &reference, &mut reasons, &mut waits)
        };
        let waits_for = (verdict == Verdict::Inconclusive).then(|| waits.join("; "));
        Judgement { verdict, reasons, waits_for, candidate, reference }
    }

    /// The findings, once the evidence reaches the error bound.
    pub(super) fn findings(&self) -> Option<Vec<String>> {
        if self.parts().map(|part| part.weight * part.evidence.value()).sum::<f64>() < 1.0 / ALPHA {
            return None;
        }
        let mut parts: Vec<(f64, Part<'_>)> = self
            .parts()
            .filter(|part| self.counts(part.about))
            .map(|part| (part.weight * part.evidence.value(), part))
            .collect();
        let all: f64 = parts.iter().map(|(value, _)| value).sum();
        if all < 1.0 / ALPHA {
            return None;
        }
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let telling = parts.iter().take_while(|(value, _)| *value >= all * TELLING);
        let mut reasons: Vec<String> = Vec::new();
        for about in telling.flat_map(|(_, part)| self.places(part.about)) {
            let text = self.describe(about);
            if reasons.len() < REASONS_MAX && !reasons.contains(&text) {
                reasons.push(text);
            }
        }
        if let Some(first) = reasons.first_mut() {
            // One digit: more would pretend to know.
            let digits = 10_f64.powf(all.log10().floor());
            let chance = (all / digits).floor() * digits;
            first.push_str(&format!(" (the chance of a false alarm is below 1 in {})", grouped(chance.min(1e12))));
        }
        Some(reasons)
    }

    /// Where it happens: if it is about all routes together, first those routes that show it most.
    fn places<'a>(&'a self, about: About<'a>) -> Vec<About<'a>> {
        let About::Facet(facet, None) = about else { return vec![about] };
        let here = |part: &Part<'_>| matches!(part.about, About::Facet(it, Some(_)) if it == facet);
        let mut routes: Vec<(f64, About<'a>)> = self
            .parts()
            .filter(|part| here(part) && part.evidence.value() >= SHOWN)
            .map(|part| (part.evidence.value(), part.about))
            .collect();
        routes.sort_by(|a, b| b.0.total_cmp(&a.0));
        routes.into_iter().take(ROUTES_SHOWN).map(|(_, about)| about).chain([about]).collect()
    }

    fn wanted(
        &self,
        candidate: &Counts,
        reference: &Counts,
        reasons: &mut Vec<String>,
        waits: &mut Vec<String>,
    ) -> Verdict {
        let min = self.limits.requests_min;
        let total = |counts: &Counts, side: usize| counts.total().saturating_add(self.seen[side].connections.ended);
        let (own, other) = (total(candidate, 0), total(reference, 1));
        let mut want = |reason: String, wait: String| {
            reasons.push(reason);
            waits.push(wait);
        };
        if let Some(silent) = self.silence.lasting() {
            let seconds = silent.for_ms / 1_000;
            let expected = silent.expected.unwrap_or_default();
            want(
                format!("no request was answered for {seconds} s, {expected:.0} were expected"),
                "requests to the candidate".into(),
            );
        } else if own < min {
            want(format!("{own} requests, {min} needed"), format!("{} more requests", min - own));
        }
        if other < min && self.after.is_none() {
            let wait = format!("{} more requests of Active", min - other);
            want(format!("{other} requests of Active to compare with, {min} needed"), wait);
        }
        // Half of the requests: the first ones are of a cold process.
        let (compared, needed) = (self.durations_compared(), min.div_ceil(2));
        if self.can_compare_durations() && candidate.latencies.total() >= needed && compared < needed {
            want(
                format!("{compared} requests since the process is warm, to compare their latency, {needed} needed"),
                format!("{} more requests of the warm process", needed - compared),
            );
        }
        for about in self.doubts().into_iter().take(REASONS_MAX) {
            let text = self.describe(about);
            if !reasons.contains(&text) {
                reasons.push(text);
                waits.push("more requests, to tell an accident from a fault".into());
            }
        }
        waits.dedup();
        if !reasons.is_empty() {
            return Verdict::Inconclusive;
        }
        if other < min && self.limits.failures.is_none() && candidate.failed() as f64 > RATIO_DEFAULT * own as f64 {
            reasons.push(format!("{}, and nothing to compare with", failed(candidate)));
            return Verdict::Fail;
        }
        reasons.push(format!("{}; {}: {}", failed(candidate), self.reference_name(), failed(reference)));
        if !candidate.latencies.is_empty() {
            let ms = |counts: &Counts, q| milliseconds(counts.latencies.quantile_us(q));
            let pair = |q| format!("{}, {} {}", ms(candidate, q), self.reference_name(), ms(reference, q));
            reasons.push(format!("p50 {}; p99 {}", pair(0.5), pair(0.99)));
        } else {
            reasons.push("no durations are known: latency was not compared".into());
        }
        Verdict::Pass
    }

    fn reference_name(&self) -> &'static str {
        if self.after.is_some() { "before" } else { "on Active" }
    }

    /// What a part of the evidence says, in figures.
    fn describe(&self, about: About<'_>) -> String {
        let name = self.reference_name();
        let connections = [self.seen[0].connections, self.seen[1].connections];
        match about {
            About::Facet(facet, route) => self.describe_facet(facet, route),
            About::Reset => {
                let [one, other] = connections.map(|it| format!("{} of {}", it.reset, it.ended));
                format!("{one} connections were reset, {other} {name}")
            }
            About::Empty => {
                let [one, other] = connections.map(|it| format!("{} of {}", it.empty, it.ended));
                format!("{one} connections ended without an answer, {other} {name}")
            }
            About::BoundOfFailures => {
                let bound = self.limits.failures.unwrap_or_default() * 100.0;
                format!("{}, over the bound of {bound} %", failed(&self.seen_of(0, None)))
            }
            About::BoundOfLatency => {
                let [over, total] = self.over_bound;
                let bound = milliseconds(self.limits.p99_us.unwrap_or_default());
                format!("{over} of {total} requests took longer than the bound of {bound}, 1 in 100 may")
            }
        }
    }

    fn describe_facet(&self, facet: Facet, route: Option<&Route>) -> String {
        let name = self.reference_name();
        // With one route, the total is that route.
        let only = self.routes.keys().next().filter(|_| self.routes.len() == 1);
        let place = route.or(only).filter(|route| **route != Route::unnamed());
        let place = place.map_or_else(String::new, |route| format!("{route}: "));
        let [one, other] = [0, 1].map(|side| self.seen_of(side, route));
        match facet {
            Facet::Failures => format!("{place}{}, {} of {} {name}", failed(&one), other.failed(), other.total()),
            Facet::More(class) | Facet::Fewer(class) => {
                let part = |side: &Counts| 100.0 * side.of(class) as f64 / side.total().max(1) as f64;
                let (total, word) = (one.total(), class.name());
                format!(
                    "{place}{:.1} % of {total} requests ended with {word}, {:.1} % {name}",
                    part(&one),
                    part(&other)
                )
            }
            Facet::Slow(PAUSE) => {
                let [own, reference] = [&one, &other].map(|it| milliseconds(it.latencies.quantile_us(1.0)));
                let total = one.latencies.total();
                format!("{place}some of {total} requests took up to {own}, {name} {reference}: it pauses")
            }
            Facet::Slow(index) => {
                let q = QUANTILES[index];
                let at = |latencies: &Latencies| milliseconds(latencies.quantile_us(q));
                let (own, reference) = (at(&one.latencies), at(&other.latencies));
                let total = one.latencies.total();
                format!("{place}p{:.0} of {total} requests is {own}, {name} {reference}", q * 100.0)
            }
        }
    }
}

fn failed(counts: &Counts) -> String {
    format!("{} of {} requests failed", counts.failed(), counts.total())
}

fn milliseconds(us: u64) -> String {
    let ms = us as f64 / 1_000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// A whole number with separators of thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
