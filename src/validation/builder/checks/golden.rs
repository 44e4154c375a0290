//! The candidate answers a golden run as recorded, but for what differs between two runs of Active.

use std::time::{Duration, Instant};

use crate::golden::{Answer, Facets, GoldenRun, Noise, Order};
use crate::interface::types::Verdict;
use crate::validation::builder::Infrastructure;
use crate::validation::builder::instance::AFTERMATH;
use crate::validation::builder::job::{Job, Subject};
use crate::validation::builder::outcome::CheckOutcome;
use crate::validation::builder::replay::{
    DIVERGENT_MAX, Round, RoundLimits, Rules, divergences, name, read_run, round,
};
use crate::validation::checks::{GoldenSpec, InputName};

/// How often Active is started again in one run: its own crashes must not hide the noise of what follows.
pub(super) const ACTIVE_RESTARTS_MAX: u64 = 3;

/// How often Active is asked again if a candidate answers a run with overlapping requests in another way.
const MORE_ROUNDS: usize = 2;

pub(crate) async fn golden(job: &Job, spec: &GoldenSpec) -> Result<CheckOutcome, Infrastructure> {
    let (run, rules) = read_run(job)?;
    let (candidate, active) = (job.version(InputName::Candidate)?, job.version(InputName::Active)?);
    let (mut noises, remarks) = listen_for_noise(job, spec, active, &run, &rules).await?;
    let differs =
        |index: usize, answer: &Answer, noises: &[Noise]| match run.exchanges.get(index).zip(noises.get(index)) {
            Some((exchange, noise)) => divergences(exchange, answer, noise, rules.at(index)),
            None => Vec::new(),
        };
    let ask = async |noises: &[Noise]| {
        let bad = |index: usize, answer: &Answer| !differs(index, answer, noises).is_empty();
        let limits = RoundLimits {
            request_timeout_ms: spec.request_timeout_ms,
            job,
            restarts_max: 0,
            aftermath: AFTERMATH,
            bad: &bad,
        };
        round(candidate, &run, &limits).await
    };
    let answers_other = |round: &Round, noises: &[Noise]| {
        round.asked().any(|(index, answer)| answer.response.is_ok() && !differs(index, answer, noises).is_empty())
    };
    let mut answered = ask(&noises).await?;
    // Which of two overlapping requests is served first is luck, and two answers of Active may not show it.
    if answers_other(&answered, &noises) && Order::of(&run.exchanges).overlaps() {
        for _ in 0..MORE_ROUNDS {
            listen_again(job, spec, active, &run, &rules, &mut noises).await?;
        }
        if !answers_other(&answered, &noises) {
            // It was luck. The round may have been cut because of it.
            answered = ask(&noises).await?;
        }
    }
    let mut details = Vec::new();
    let mut first = None;
    for (index, answer) in answered.asked() {
        let found = differs(index, answer, &noises);
        let Some(divergence) = found.first() else { continue };
        if first.is_none() {
            first = Some(format!("{}: {divergence}", name(&run, index)));
            let rules = rules.at(index);
            if let Some(exchange) = run.exchanges.get(index)
                && let (Some(good), Some(given)) =
                    (Facets::of_recorded(exchange, rules), answer.facets(exchange, rules))
            {
                details.extend(crate::golden::diff(&good, &given, &noises[index], rules));
            }
        }
        details.extend(found.iter().take(DIVERGENT_MAX).map(|one| format!("{}: {one}", name(&run, index))));
    }
    let (all, asked) = (run.exchanges.len(), answered.asked().count());
    let outcome = match (first, answered.cut) {
        (Some(first), _) => {
            CheckOutcome::new(Verdict::Fail, first).details(details).details(remarks).details(answered.tail)
        }
        // A process that ends after its last good answer has not served the run.
        (None, Some(cut)) => {
            let summary = format!("after {asked} of {all} exchanges: {cut}");
            CheckOutcome::new(Verdict::Fail, summary).details(remarks).details(answered.tail)
        }
        (None, None) if all == 0 => CheckOutcome::new(Verdict::Inconclusive, "the run holds no exchanges"),
        (None, None) => CheckOutcome::new(Verdict::Pass, format!("{all} of {all} exchanges are answered as recorded"))
            .details(remarks),
    };
    Ok(outcome.figure("exchanges", all as u64).figure("answered", asked as u64))
}

/// The bounds of a round of Active.
fn limits_of_active<'a>(job: &'a Job, spec: &GoldenSpec) -> RoundLimits<'a> {
    RoundLimits {
        request_timeout_ms: spec.request_timeout_ms,
        job,
        restarts_max: ACTIVE_RESTARTS_MAX,
        aftermath: Duration::ZERO,
        bad: &|_, _| false,
    }
}

/// One more run of Active: what differs from its first one is noise too.
async fn listen_again(
    job: &Job,
    spec: &GoldenSpec,
    active: &Subject,
    run: &GoldenRun,
    rules: &Rules,
    noises: &mut [Noise],
) -> Result<(), Infrastructure> {
    let again = round(active, run, &limits_of_active(job, spec)).await?;
    if Instant::now() >= job.deadline {
        return Err(Infrastructure::ActiveTooSlow);
    }
    for ((index, exchange), noise) in run.exchanges.iter().enumerate().zip(noises) {
        let facets = again.answer(index).and_then(|answer| answer.facets(exchange, rules.at(index)));
        facets.into_iter().for_each(|facets| noise.and(facets));
    }
    Ok(())
}

/// Two runs of Active: what differs between them, exchange by exchange, and what a person should know about them.
async fn listen_for_noise(
    job: &Job,
    spec: &GoldenSpec,
    active: &Subject,
    run: &GoldenRun,
    rules: &Rules,
) -> Result<(Vec<Noise>, Vec<String>), Infrastructure> {
    let limits = limits_of_active(job, spec);
    let (one, two) = (round(active, run, &limits).await?, round(active, run, &limits).await?);
    if Instant::now() >= job.deadline {
        return Err(Infrastructure::ActiveTooSlow);
    }
    let mut remarks = Vec::new();
    if let Some(cut) = one.cut.as_ref().or(two.cut.as_ref()) {
        remarks.push(format!("Active: {cut}; where it gave no two answers, nothing was taken as noise"));
    }
    let mut noises = Vec::new();
    for (index, exchange) in run.exchanges.iter().enumerate() {
        let rules = rules.at(index);
        let facets = |round: &Round| round.answer(index).and_then(|answer| answer.facets(exchange, rules));
        let (Some(first), Some(second)) = (facets(&one), facets(&two)) else {
            noises.push(Noise::none());
            continue;
        };
        let noise = Noise::between(first.clone(), second);
        if let Some(expected) = Facets::of_recorded(exchange, rules) {
            let found = crate::golden::compare(&expected, &first, &noise, rules);
            if let Some(found) = found.first() {
                remarks.push(format!("{}: Active itself does not answer as recorded: {found}", name(run, index)));
            }
        }
        noises.push(noise);
    }
    Ok((noises, remarks))
}
