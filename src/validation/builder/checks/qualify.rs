//! Which exchanges of a recording Active repeats in a fresh instance, and what may differ in them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::golden::ACTIVE_RESTARTS_MAX;
use crate::golden::{DropReason, Exchange, Facets, GoldenRun, Learned, Recording, Three, learn};
use crate::interface::types::Verdict;
use crate::validation::builder::Infrastructure;
use crate::validation::builder::job::{Job, Subject};
use crate::validation::builder::outcome::CheckOutcome;
use crate::validation::builder::replay::{RoundLimits, Rules, name, read_run, round};
use crate::validation::checks::{GoldenSpec, InputName};

/// How often the recording is replayed, each time twice. Without a dropped request the later answers can be others, so what
/// is left is replayed again until nothing more is dropped.
const PASSES_MAX: usize = 4;

/// Dropped exchanges that the verdict names.
const NAMED_MAX: usize = 20;

pub(crate) async fn qualify(job: &Job, spec: &GoldenSpec) -> Result<CheckOutcome, Infrastructure> {
    let (mut run, _) = read_run(job)?;
    let active = job.version(InputName::Active)?;
    let recorded = run.exchanges.len();
    let mut dropped: BTreeMap<DropReason, u64> = BTreeMap::new();
    let mut named = Vec::new();
    let mut is_settled = false;
    for _ in 0..PASSES_MAX {
        let begun = Instant::now();
        run.exchanges.iter_mut().for_each(|exchange| exchange.learned.clear());
        let found = pass(job, spec, active, &run).await?;
        is_settled = found.iter().all(Result::is_ok);
        let mut kept = Vec::with_capacity(found.len());
        for (index, found) in found.into_iter().enumerate() {
            match found {
                Ok(learned) => kept.push(Exchange { learned, ..run.exchanges[index].clone() }),
                Err(reason) => {
                    *dropped.entry(reason).or_default() += 1;
                    named.push(format!("{}: dropped: {reason}", name(&run, index)));
                }
            }
        }
        run.exchanges = kept;
        let is_late = Instant::now() + begun.elapsed() >= job.deadline;
        if is_settled || is_late || run.exchanges.is_empty() {
            break;
        }
    }
    let mut recording = run.header.recording.take().unwrap_or_default();
    recording.qualified = true;
    for (reason, count) in &dropped {
        *recording.dropped.entry(reason.word().to_owned()).or_default() += count;
    }
    recording.learned = counted(&run.exchanges);
    Ok(outcome(run, recording, recorded, named, is_settled))
}

fn outcome(
    mut run: GoldenRun,
    recording: Recording,
    recorded: usize,
    mut named: Vec<String>,
    is_settled: bool,
) -> CheckOutcome {
    let kept = run.exchanges.len();
    let summary = format!("Active repeats {kept} of {recorded} recorded exchanges");
    let verdict = if kept == 0 { Verdict::Inconclusive } else { Verdict::Pass };
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    if !is_settled && kept > 0 {
        named.push("the time was over before a replay without dropped exchanges".to_owned());
    }
    let mut outcome = CheckOutcome::new(verdict, summary).details(named);
    outcome = outcome.figure("recorded", recorded as u64).figure("kept", kept as u64);
    for (reason, count) in &recording.dropped {
        outcome = outcome.figure(&format!("dropped/{reason}"), *count);
    }
    for (rule, count) in &recording.learned {
        outcome = outcome.figure(&format!("learned/{rule}"), *count);
    }
    run.header.recording = Some(recording);
    CheckOutcome { run: Some(run), ..outcome }
}

fn counted(exchanges: &[Exchange]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for learned in exchanges.iter().flat_map(|exchange| &exchange.learned) {
        *all.entry(learned.rule.name().to_owned()).or_default() += 1;
    }
    all
}

/// Replays a run twice, each time on a fresh instance; for each exchange what may differ, or why it is dropped.
async fn pass(
    job: &Job,
    spec: &GoldenSpec,
    active: &Subject,
    run: &GoldenRun,
) -> Result<Vec<Result<Vec<Learned>, DropReason>>, Infrastructure> {
    let limits = RoundLimits {
        request_timeout_ms: spec.request_timeout_ms,
        job,
        restarts_max: ACTIVE_RESTARTS_MAX,
        aftermath: Duration::ZERO,
        bad: &|_, _| false,
    };
    let rules = Rules::of(run)?;
    let (one, two) = (round(active, run, &limits).await?, round(active, run, &limits).await?);
    let one_exchange = |(index, exchange): (usize, &Exchange)| {
        let rules = rules.at(index);
        let (Some(first), Some(second)) = (one.answer(index), two.answer(index)) else {
            return Err(DropReason::NotReplayed);
        };
        let (Some(first), Some(second)) = (first.facets(exchange, rules), second.facets(exchange, rules)) else {
            return Err(DropReason::NoAnswer);
        };
        // Without a recorded answer, a fresh one is what must be repeated.
        let recorded = Facets::of_recorded(exchange, rules);
        let recorded = recorded.as_ref().unwrap_or(&first);
        learn(Three { recorded, first: &first, second: &second })
    };
    Ok(run.exchanges.iter().enumerate().map(one_exchange).collect())
}
