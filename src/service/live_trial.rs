//! The trial of a version by the requests of users: one for each source that sees them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::config::Config;
use crate::health::Analysis;
use crate::interface::types::Verdict;
use crate::live::{Counts, ErrorLines, Judgement, Limits, Pool, Recent, Sample, Source, Trial};
use crate::runtime::traffic::Unanswered;
use crate::time::{Timestamp, millis};

/// A trial needs at most so many requests …
const REQUESTS_MAX: f64 = 50.0;
/// … and at least so many, if fewer are to be expected in its time.
const REQUESTS_FEW: f64 = 5.0;
/// The time from which Active's requests are a rate, in milliseconds. In a shorter time they count as if they were all
/// that came in this one.
const QUIET_MS: u64 = 450_000;
/// Users left waiting that are distinguished. More change no verdict.
const WAITING_MAX: usize = 4_096;

/// How a candidate gets requests while it is on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Active serves beside it, in the same seconds.
    Beside,
    /// Active served before it.
    After,
}

/// What the operator configured for trials.
#[derive(Clone, Debug)]
pub struct Plan {
    limits: Limits,
    /// The length of the observation window, in milliseconds.
    window_ms: u64,
    /// The lengths of the canary's steps, each multiplied by its share of the connections, in milliseconds.
    canary_ms: f64,
}

impl Plan {
    /// The plan of a configuration.
    pub fn of(config: &Config) -> Self {
        let promotion = &config.promotion;
        let steps = promotion.canary.iter().map(|step| step.share * millis(step.r#for) as f64);
        Self { limits: Limits::of(&config.incidents), window_ms: millis(promotion.observe), canary_ms: steps.sum() }
    }

    /// The requests that the candidate can expect in a trial, if Active's came in `span_ms`.
    fn expected(&self, kind: Kind, before: &Recent, span_ms: u64) -> f64 {
        let time_ms = match kind {
            Kind::Beside => self.canary_ms,
            Kind::After => self.window_ms as f64,
        };
        before.sample.total().total() as f64 / span_ms.max(1) as f64 * time_ms
    }

    /// The limits of a trial. A service with few users gets no more requests by waiting, so half of the requests that are
    /// to be expected are enough.
    fn limits(&self, kind: Kind, before: &Recent) -> Limits {
        let enough = (self.expected(kind, before, before.span_ms) / 2.0).clamp(REQUESTS_FEW, REQUESTS_MAX);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 5 and 50")]
        let requests_min = enough as u64;
        Limits { requests_min, ..self.limits.clone() }
    }
}

/// The trial of one version.
#[derive(Debug)]
pub struct LiveTrial {
    plan: Plan,
    kind: Kind,
    /// What Active served before the candidate had requests, by source.
    before: BTreeMap<Source, Recent>,
    trials: BTreeMap<Source, Trial>,
    /// The users who are known to have been left waiting, by the source whose patience they exceeded.
    left_waiting: BTreeSet<(Source, SocketAddr)>,
    /// The judgement by the source that saw most, as of the last block; `None` if there is no source.
    judged: Option<(Source, Judgement)>,
}

impl LiveTrial {
    /// A trial that begins now. `before` is what Active served before the candidate had requests.
    pub fn new(plan: Plan, kind: Kind, before: BTreeMap<Source, Recent>) -> Self {
        let mut trial =
            Self { plan, kind, before, trials: BTreeMap::new(), left_waiting: BTreeSet::new(), judged: None };
        let known: Vec<Source> = trial.before.keys().copied().collect();
        known.into_iter().for_each(|source| {
            trial.of(source);
        });
        trial.judge();
        trial
    }

    /// How the candidate gets requests.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The same trial in another way: after the canary, the window. The reference is still the time before both.
    pub fn turned(self, kind: Kind) -> Self {
        Self::new(self.plan, kind, self.before)
    }

    /// Takes what each source saw of the candidate and of the version in the other slot since the last block.
    pub fn block(
        &mut self,
        at: Timestamp,
        mut candidate: BTreeMap<Source, Sample>,
        mut reference: BTreeMap<Source, Sample>,
    ) {
        for source in Source::ALL {
            let sides = (candidate.remove(&source), reference.remove(&source));
            if sides != (None, None) || self.trials.contains_key(&source) {
                let (one, other) = (sides.0.unwrap_or_default(), sides.1.unwrap_or_default());
                self.of(source).block(at, &one, &other);
            }
        }
        self.judge();
    }

    /// Whether the candidate had no answer for users in the last block, as any source saw it.
    pub fn is_silent(&self) -> bool {
        self.trials.values().any(Trial::is_silent)
    }

    /// Takes the connections of the candidate and of the version in the other slot that have no answer now. If the other
    /// version has as many, the service is one that answers no client, or the trouble is not the candidate's.
    pub fn unanswered(&mut self, candidate: &[Unanswered], other: &[Unanswered]) {
        for (source, trial) in &mut self.trials {
            let patience_ms = trial.patience_ms();
            let is_long = |it: &&Unanswered| it.for_ms >= patience_ms;
            if other.iter().filter(is_long).count() >= candidate.iter().filter(is_long).count() {
                continue;
            }
            for waiting in candidate.iter().filter(is_long) {
                if self.left_waiting.len() < WAITING_MAX && self.left_waiting.insert((*source, waiting.client)) {
                    trial.left_waiting(1);
                }
            }
        }
    }

    fn judge(&mut self) {
        let judged = self.trials.iter().map(|(source, trial)| (*source, trial.judge()));
        self.judged = judged.max_by_key(|(_, it)| it.candidate.total().saturating_add(it.reference.total()));
    }

    fn of(&mut self, source: Source) -> &mut Trial {
        let (plan, kind, before) = (&self.plan, self.kind, &self.before);
        self.trials.entry(source).or_insert_with(|| {
            let before = before.get(&source).cloned().unwrap_or_default();
            let limits = plan.limits(kind, &before);
            match kind {
                Kind::Beside => {
                    let mut trial = Trial::beside(limits);
                    trial.learn(&before.sample);
                    trial
                }
                Kind::After => Trial::after(limits, Pool::new(before.sample, before.span_ms), plan.window_ms),
            }
        })
    }

    /// Whether the durations of requests are compared, of both sides.
    pub fn compares_durations(&self) -> bool {
        self.judged.as_ref().is_some_and(|(_, judged)| {
            let known = [&judged.candidate, &judged.reference].map(|side| side.latencies.total());
            known.iter().all(|requests| *requests >= REQUESTS_FEW as u64)
        })
    }

    /// Whether the service has so few users that the candidate can expect next to no request: a few requests of a person
    /// who tries it out are no rate.
    fn is_quiet(&self, source: Source, judged: &Judgement) -> bool {
        let before = self.before.get(&source).cloned().unwrap_or_default();
        let expected = self.plan.expected(self.kind, &before, before.span_ms.max(QUIET_MS));
        let own = judged.candidate.total();
        expected < REQUESTS_FEW && (own as f64) < REQUESTS_MAX && judged.candidate.failed() == 0
    }

    /// What the log of the version before had, before the trial and meanwhile.
    fn log_before(&self) -> Sample {
        let mut before = self.before.get(&Source::Log).map(|recent| recent.sample.clone()).unwrap_or_default();
        if let Some(trial) = self.trials.get(&Source::Log).filter(|_| self.kind == Kind::Beside) {
            before.merge(&trial.seen()[1]);
        }
        before
    }

    /// Calls `with` with the error lines of the candidate, if the logs of both versions are known.
    pub fn error_lines<T>(&self, with: impl FnOnce(&ErrorLines<'_>) -> T) -> Option<T> {
        let trial = self.trials.get(&Source::Log)?;
        let before = self.log_before();
        ErrorLines::of(&trial.seen()[0], &before).map(|lines| with(&lines))
    }

    /// Adds the judgement to that of probes and detectors, and says which errors are new in the candidate's log.
    pub fn add_to(&self, analysis: Analysis) -> Analysis {
        let mut analysis = self.judged_with(analysis);
        analysis.reasons.extend(self.error_lines(|lines| lines.finding()).flatten());
        analysis
    }

    /// The worse judgement counts. If next to nobody uses the service, the requests say nothing, and probes alone decide.
    fn judged_with(&self, analysis: Analysis) -> Analysis {
        let Some((source, judged)) = self.judged.clone() else { return analysis };
        if judged.verdict != Verdict::Fail && self.is_quiet(source, &judged) {
            let mut reasons = analysis.reasons;
            reasons.push(format!("{} requests, too few to judge by", judged.candidate.total()));
            return Analysis { reasons, ..analysis };
        }
        let judged = doubted(judged);
        let named = |reason: String| format!("{reason} ({})", source.name());
        let mut own: Vec<String> = judged.reasons;
        if let Some(first) = own.first_mut() {
            *first = named(std::mem::take(first));
        }
        let verdict = worse(judged.verdict, analysis.verdict);
        // The reasons of the worse verdict come first; a pass adds nothing to a fail.
        let reasons = match (judged.verdict == verdict, analysis.verdict == verdict) {
            (true, true) => own.into_iter().chain(analysis.reasons).collect(),
            (true, false) => own,
            (false, _) => analysis.reasons,
        };
        let waits = [judged.waits_for, analysis.waits_for].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let waits_for = Some(waits).filter(|waits| verdict == Verdict::Inconclusive && !waits.is_empty());
        Analysis { verdict, reasons, waits_for }
    }
}

/// A failure among few requests is no accident until more requests show it: the tests of rates need more of them.
fn doubted(judged: Judgement) -> Judgement {
    let ratio = |side: &Counts| side.failed() as f64 / side.total().max(1) as f64;
    let [own, other] = [&judged.candidate, &judged.reference].map(ratio);
    let (failed, total) = (judged.candidate.failed(), judged.candidate.total());
    if judged.verdict != Verdict::Pass || failed == 0 || own <= other || total as f64 >= REQUESTS_MAX {
        return judged;
    }
    let reasons = vec![format!("{failed} of {total} requests failed, too few to tell an accident from a fault")];
    let waits_for = Some(format!("{} more requests", REQUESTS_MAX - total as f64));
    Judgement { verdict: Verdict::Inconclusive, reasons, waits_for, ..judged }
}

/// Fail over inconclusive over pass.
fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Fail, _) | (_, Verdict::Fail) => Verdict::Fail,
        (Verdict::Inconclusive, _) | (_, Verdict::Inconclusive) => Verdict::Inconclusive,
        (Verdict::Pass, Verdict::Pass) => Verdict::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use crate::live::{Class, Route};

    fn plan() -> Plan {
        let text = "[runtime]\nname = \"a\"\nsource = \"/a\"\ncommand = [\"b\"]\nlisten = [\"http=127.0.0.1:1\"]\n\
                    [promotion]\ncanary = [{ share = 0.3, for = \"10s\" }]\nobserve = \"20s\"";
        let place = Place { directory: "/etc/rei".into(), root: true, state_home: None };
        Plan::of(&Config::from_toml(text, &place).unwrap())
    }

    fn requests(total: u64, failed: u64) -> BTreeMap<Source, Sample> {
        let mut sample = Sample::default();
        let counts = sample.route(Route::of_request("GET", "/orders/1"));
        counts.add(Class::Success, total - failed);
        counts.add(Class::ServerError, failed);
        counts.latencies.add(2_000, total);
        BTreeMap::from([(Source::Tap, sample)])
    }

    fn before(total: u64) -> BTreeMap<Source, Recent> {
        let sample = requests(total, 0).remove(&Source::Tap).unwrap();
        BTreeMap::from([(Source::Tap, Recent { sample, span_ms: 60_000 })])
    }

    fn well() -> Analysis {
        Analysis { verdict: Verdict::Pass, reasons: vec!["10 probes, 0 failed".to_owned()], waits_for: None }
    }

    /// A trial of these seconds: requests of the candidate and those that failed; Active has 70 a second beside it.
    fn judged(kind: Kind, known: u64, seconds: u64, each: impl Fn(u64) -> (u64, u64)) -> Analysis {
        let mut trial = LiveTrial::new(plan(), kind, before(known));
        for second in 0..seconds {
            let (total, failed) = each(second);
            let other = if kind == Kind::Beside && known > 0 { requests(70, 0) } else { BTreeMap::new() };
            trial.block(Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000), requests(total, failed), other);
        }
        trial.add_to(well())
    }

    #[test]
    fn requests_that_fail_outweigh_probes_that_pass() {
        for kind in [Kind::Beside, Kind::After] {
            let analysis = judged(kind, 6_000, 10, |_| (30, 9));
            assert_eq!(analysis.verdict, Verdict::Fail, "{kind:?} {analysis:?}");
            assert!(analysis.reasons[0].contains("GET /orders/{}"), "{analysis:?}");
            assert_eq!(judged(kind, 6_000, 10, |_| (30, 0)).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn no_requests_are_no_pass_unless_nobody_came_before() {
        for kind in [Kind::Beside, Kind::After] {
            let silent = judged(kind, 6_000, 10, |_| (0, 0));
            assert_ne!(silent.verdict, Verdict::Pass, "{silent:?}");
            let quiet = judged(kind, 0, 10, |_| (0, 0));
            assert_eq!(quiet.verdict, Verdict::Pass, "{quiet:?}");
            assert!(quiet.reasons.last().unwrap().contains("too few to judge by"), "{quiet:?}");
        }
    }

    #[test]
    fn the_requests_of_one_person_hold_no_candidate() {
        for kind in [Kind::Beside, Kind::After] {
            let tried = judged(kind, 20, 10, |_| (0, 0));
            assert_eq!(tried.verdict, Verdict::Pass, "{tried:?}");
            let failed = judged(kind, 20, 10, |second| (1, u64::from(second < 2)));
            assert_ne!(failed.verdict, Verdict::Pass, "{failed:?}");
        }
    }

    #[test]
    fn a_candidate_that_takes_connections_and_answers_none_fails() {
        let waiting = |port: u16, for_ms| Unanswered { client: SocketAddr::from(([127, 0, 0, 1], port)), for_ms };
        let judged = |of: &dyn Fn(u64) -> (Vec<Unanswered>, Vec<Unanswered>)| {
            let mut trial = LiveTrial::new(plan(), Kind::Beside, before(6_000));
            for second in 0..8 {
                let (candidate, other) = of(second);
                trial.unanswered(&candidate, &other);
                let at = Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000);
                trial.block(at, BTreeMap::new(), requests(70, 0));
            }
            assert!(trial.is_silent());
            trial.add_to(well())
        };
        let clients = |count: u16, for_ms| (0..count).map(|port| waiting(port, for_ms)).collect::<Vec<_>>();
        let found = judged(&|second| (clients(20, second * 1_000), Vec::new()));
        assert_eq!(found.verdict, Verdict::Fail, "{found:?}");
        assert!(found.reasons[0].contains("20 users waited for an answer"), "{found:?}");
        // The same few users at each look, users who wait for a moment, and a service that answers nobody.
        for (few, other) in [(clients(3, 4_000), 0), (clients(40, 300), 0), (clients(40, 4_000), 40)] {
            let found = judged(&|_| (few.clone(), clients(other, 9_000)));
            assert_eq!(found.verdict, Verdict::Inconclusive, "{found:?}");
        }
    }

    /// Active served a little, on one route, and users ask for another one now.
    #[test]
    fn a_reference_that_cannot_be_compared_is_not_waited_for() {
        let mut trial = LiveTrial::new(plan(), Kind::After, before(80));
        let mut other = Sample::default();
        let counts = other.route(Route::of_request("GET", "/items"));
        counts.add(Class::Success, 100);
        counts.latencies.add(2_000, 100);
        for second in 0..30 {
            let at = Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000);
            trial.block(at, BTreeMap::from([(Source::Tap, other.clone())]), BTreeMap::new());
        }
        let analysis = trial.add_to(well());
        assert_eq!(analysis.verdict, Verdict::Pass, "{analysis:?}");
    }

    #[test]
    fn few_users_are_enough_for_a_verdict() {
        // One request a second: three are to be expected in the canary, and twenty in the window.
        assert_eq!(judged(Kind::After, 60, 20, |_| (1, 0)).verdict, Verdict::Pass);
        assert_eq!(judged(Kind::After, 60, 20, |_| (1, 1)).verdict, Verdict::Fail);
    }

    #[test]
    fn a_canary_that_passed_does_not_excuse_the_window() {
        let mut trial = LiveTrial::new(plan(), Kind::Beside, before(6_000));
        let at = |second: u64| Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000);
        (0..10).for_each(|second| trial.block(at(second), requests(30, 0), requests(70, 0)));
        let canary = trial.add_to(well());
        assert_eq!(canary.verdict, Verdict::Pass, "{canary:?}");
        let mut window = trial.turned(Kind::After);
        (10..20).for_each(|second| window.block(at(second), requests(100, 40), BTreeMap::new()));
        let end = window.add_to(well());
        assert_eq!(end.verdict, Verdict::Fail, "{end:?}");
    }
}
