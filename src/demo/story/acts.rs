//! Shared by the acts: the service under load, waits for facts, figures for the end.

use std::time::Duration;

use super::play::Play;
use crate::demo::error::Error;
use crate::demo::load::Load;
use crate::demo::narrator::Narrator;
use crate::demo::observer::{Observed, Observer};
use crate::demo::stage::{LATENCY_BOUND, Stage};
use crate::demo::tally::{RequestOutcome, Tally};
use crate::http::{self, Address, Request};
use crate::interface::operations::{Phase, Status};
use crate::interface::types::{CandidateId, CheckResult, EvolutionId, ValidationReport, Verdict};
use crate::lifecycle::Event;

/// The time limit from the supervisor's start to the first version's, with its build and the test of the sandbox.
pub(super) const SERVE_MAX: Duration = Duration::from_secs(60);
/// The time limit to collect a context, to build a candidate, or to judge it: each takes a second or two.
pub(super) const WORK_MAX: Duration = Duration::from_secs(60);
/// The time limit of a canary step or of the window: its own length, and more for a slow machine.
pub(super) const TRIAL_MAX: Duration = Duration::from_secs(40);
/// The time limit of a fact that should exist at once.
pub(super) const SOON_MAX: Duration = Duration::from_secs(20);
/// The 99th percentile below which the service counts as quick. The service answers in a millisecond: this allows a few stalls of
/// the machine, but no requests that a slow version had accepted before.
const QUICK: Duration = Duration::from_millis(20);
/// The time limit of one request of the story itself.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(10);
/// A request that meets the bug: the greeter does not have this style.
pub(super) const BUG: &str = "/greet?name=Ada&style=3";
/// A request that does not meet the bug.
pub(super) const GOOD: &str = "/greet?name=Ada&style=2";

/// The state that the acts share.
pub(super) struct Story<'s, 'u> {
    pub(super) play: &'s Play,
    pub(super) stage: &'s mut Stage,
    pub(super) narrator: &'s mut Narrator<'u>,
    pub(super) observer: Observer,
    pub(super) load: Load,
    /// The mark before the events of the second crash.
    pub(super) opened: usize,
    /// The evolution that repairs the bug.
    pub(super) repair: EvolutionId,
    /// The requests of the load that were lost in the crashes.
    pub(super) died: u64,
    pub(super) facts: Vec<(String, String)>,
}

impl<'s, 'u> Story<'s, 'u> {
    /// Starts the supervisor and waits for the first version, records the golden run, and starts the load.
    pub(super) async fn begin(
        play: &'s Play,
        stage: &'s mut Stage,
        narrator: &'s mut Narrator<'u>,
    ) -> Result<Self, Error> {
        narrator.head("1 · A bug")?;
        stage.start(&play.rei)?;
        let mut observer = Observer::begin(stage, SERVE_MAX).await?;
        let active = observer.until(stage, ("the first version", SERVE_MAX), 0, |_, status| {
            let active = status.active.as_ref().filter(|_| status.phase == Phase::Steady)?;
            let serves = !active.instances.is_empty();
            serves.then(|| (active.version.rev.clone(), active.version.store_path.clone()))
        });
        let (rev, path) = active.await?;
        narrator.good(&format!("v1 (commit {}) is built and serves on {}", short(&rev), stage.address))?;
        narrator.quote(&path)?;
        let recorded = super::bug::record(stage).await?;
        narrator.say(&format!("{recorded} of its answers are recorded: the golden run that candidates must repeat"))?;
        let load = Load::start(stage.address).map_err(Error::Output)?;
        Ok(Self {
            play,
            stage,
            narrator,
            observer,
            load,
            opened: 0,
            repair: EvolutionId::default(),
            died: 0,
            facts: Vec::new(),
        })
    }

    pub(super) async fn acts(&mut self) -> Result<Vec<(String, String)>, Error> {
        self.a_bug().await?;
        self.a_repair().await?;
        self.a_slow_upgrade().await?;
        self.a_cheat().await?;
        self.the_operators_view().await?;
        Ok(std::mem::take(&mut self.facts))
    }

    pub(super) fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }

    /// Sends one request to the greeter on a new connection; returns the status, or `None` if the connection broke.
    pub(super) async fn ask(&self, target: &str) -> Option<u16> {
        let answer = http::send(&Address::Tcp(self.stage.address), &Request::get(target), REQUEST_MAX).await;
        answer.ok().map(|answer| answer.status)
    }

    /// Waits until that many requests in a row are quick; returns their counts.
    pub(super) async fn quick_again(&mut self, more: u64) -> Result<Tally, Error> {
        let deadline = std::time::Instant::now() + SOON_MAX;
        loop {
            let tally = self.after_requests(more).await?;
            let p99 = Duration::from_micros(tally.latency_us(0.99));
            let late = std::time::Instant::now() > deadline;
            // A busy machine may never be that quick, but the latency must be below the operator's limit.
            if p99 < QUICK || (late && p99 < LATENCY_BOUND) {
                return Ok(tally);
            }
            if late {
                return Err(Error::unexpected(format!("the service is still slow after {SOON_MAX:?}: {tally}")));
            }
        }
    }

    /// Waits until the load has sent that many more requests; returns their counts.
    pub(super) async fn after_requests(&mut self, more: u64) -> Result<Tally, Error> {
        let before = self.load.tally();
        let deadline = std::time::Instant::now() + SOON_MAX;
        loop {
            let since = self.load.tally().since(&before);
            if since.of(RequestOutcome::Ok) >= more {
                return Ok(since);
            }
            if std::time::Instant::now() > deadline {
                return Err(Error::unexpected(format!("the load got too few answers in {SOON_MAX:?}: {since}")));
            }
            self.stage.alive()?;
            // The load counts on its own thread and sends no event.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for an event since `mark`.
    pub(super) async fn event<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mark: usize,
        find: impl FnMut(&Observed) -> Option<T>,
    ) -> Result<T, Error> {
        self.observer.event(self.stage, (what, bound), mark, find).await
    }

    /// Waits for a status.
    pub(super) async fn state<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut find: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T, Error> {
        self.observer.until(self.stage, (what, bound), 0, |_, status| find(status)).await
    }

    /// Waits for the build of a commit; returns its store path.
    pub(super) async fn built(&mut self, rev: &str, mark: usize) -> Result<String, Error> {
        let rev = rev.to_owned();
        self.event("the build", WORK_MAX, mark, |it| match &it.event {
            Event::Built { version, .. } if version.rev == rev => Some(Ok(version.store_path.clone())),
            Event::BuildFailed { reason, .. } => Some(Err(Error::unexpected(format!("no candidate: {reason}")))),
            _ => None,
        })
        .await?
    }

    /// Waits for the report on a candidate, with any verdict.
    pub(super) async fn report(&mut self, store_path: &str, mark: usize) -> Result<ValidationReport, Error> {
        let store_path = store_path.to_owned();
        let id = self.event("the verdict", WORK_MAX, mark, |it| match &it.event {
            Event::Validated { report, .. } if report.store_path == store_path => Some(report.id.clone()),
            _ => None,
        });
        let id = id.await?;
        let shown = self.observer.operator.show(id.0.clone()).await?;
        serde_json::from_value(shown.object)
            .map_err(|error| Error::unexpected(format!("the report {id} cannot be read: {error}")))
    }

    /// Waits until the version under trial has all new connections; returns the time of the switch in microseconds.
    pub(super) async fn promoted(&mut self, mark: usize) -> Result<u64, Error> {
        let canary = self.state("the canary", TRIAL_MAX, |status| {
            let share = status.candidate.as_ref().map(|candidate| candidate.share).filter(|share| *share > 0.0);
            // The step may have ended before this poll.
            let over = matches!(status.phase, Phase::Promoting | Phase::Observing | Phase::RollingBack);
            (share.is_some() || over).then_some(share)
        });
        if let Some(share) = canary.await? {
            self.narrator.say(&format!("canary: {:.0} % of the new connections", share * 100.0))?;
        }
        self.event("the promotion", TRIAL_MAX, mark, |it| match &it.event {
            Event::PlanDone { took_us, .. } => Some(Ok(*took_us)),
            Event::Judged { verdict: Verdict::Fail, reason } => {
                Some(Err(Error::unexpected(format!("the canary failed: {reason}"))))
            }
            _ => None,
        })
        .await?
    }

    /// Waits until no evolution runs and a version of this commit is Active.
    pub(super) async fn steady_on(&mut self, rev: &str) -> Result<u64, Error> {
        let rev = rev.to_owned();
        let what = format!("phase steady with {} as Active", short(&rev));
        self.state(&what, TRIAL_MAX, |status| {
            let active = status.active.as_ref().filter(|_| status.phase == Phase::Steady)?;
            (active.version.rev == rev).then(|| active.generation.unwrap_or_default())
        })
        .await
    }

    /// The candidate with this store path, if it is in quarantine.
    pub(super) async fn quarantined(&mut self, store_path: &str) -> Result<Option<CandidateId>, Error> {
        let entries = self.observer.operator.quarantine().await?;
        let entry = entries.into_iter().find(|entry| entry.store_path.as_deref() == Some(store_path));
        Ok(entry.map(|entry| entry.candidate_id))
    }
}

/// The first characters of a commit.
pub(super) fn short(rev: &str) -> &str {
    rev.get(..7).unwrap_or(rev)
}

/// `1 check`, `2 checks`.
pub(super) fn count(number: u64, word: &str) -> String {
    if number == 1 { format!("{number} {word}") } else { format!("{number} {word}s") }
}

/// Names of checks in one line.
pub(super) fn names(checks: &[CheckResult], verdict: Verdict) -> String {
    let names = checks.iter().filter(|check| check.verdict == verdict).map(|check| check.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}
