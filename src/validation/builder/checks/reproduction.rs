//! What failed on Active passes on the candidate; without a candidate: whether it fails on Active.

use crate::golden::{Answer, GoldenRun, Noise};
use crate::interface::types::Verdict;
use crate::validation::builder::Infrastructure;
use crate::validation::builder::instance::AFTERMATH;
use crate::validation::builder::job::{Job, Subject};
use crate::validation::builder::outcome::CheckOutcome;
use crate::validation::builder::replay::{RoundLimits, Rules, divergences, name, read_run, round};
use crate::validation::checks::{InputName, ReproductionSpec};

/// Whether one try of an incident's exchanges failed, and how.
async fn fails(
    job: &Job,
    spec: &ReproductionSpec,
    subject: &Subject,
    run: &GoldenRun,
    rules: &Rules,
) -> Result<Option<String>, Infrastructure> {
    let silent = Noise::none();
    let differs = |index: usize, answer: &Answer| match run.exchanges.get(index) {
        Some(exchange) => divergences(exchange, answer, &silent, rules.at(index)),
        None => Vec::new(),
    };
    let bad = |index: usize, answer: &Answer| !differs(index, answer).is_empty();
    let answered = round(
        subject,
        run,
        &RoundLimits {
            request_timeout_ms: spec.request_timeout_ms,
            job,
            restarts_max: 0,
            aftermath: AFTERMATH,
            bad: &bad,
        },
    )
    .await?;
    for (index, answer) in answered.asked() {
        if let Some(found) = differs(index, answer).first() {
            return Ok(Some(format!("{}: {found}", name(run, index))));
        }
    }
    Ok(answered.cut)
}

pub(crate) async fn reproduction(job: &Job, spec: &ReproductionSpec) -> Result<CheckOutcome, Infrastructure> {
    let (run, rules) = read_run(job)?;
    let (active, tries) = (job.version(InputName::Active)?, spec.tries);
    if run.exchanges.is_empty() {
        return Ok(CheckOutcome::new(Verdict::Inconclusive, "no exchanges were recorded before the incident"));
    }
    let mut seen = Vec::new();
    for _ in 0..tries {
        seen.extend(fails(job, spec, active, &run, &rules).await?);
    }
    let failures = seen.len() as u64;
    let counted = |outcome: CheckOutcome| outcome.figure("tries", tries).figure("failures", failures);
    let Some(how) = seen.first().cloned() else {
        let summary = format!("Active answered the incident's exchanges {tries} times without failing");
        return Ok(counted(CheckOutcome::new(Verdict::Inconclusive, summary)));
    };
    let on_active = format!("on Active, {failures} of {tries} tries failed: {how}");
    let Some(candidate) = job.versions.get(&InputName::Candidate) else {
        let verdict = if failures == tries { Verdict::Pass } else { Verdict::Inconclusive };
        return Ok(counted(CheckOutcome::new(verdict, on_active)));
    };
    for _ in 0..tries {
        if let Some(how) = fails(job, spec, candidate, &run, &rules).await? {
            return Ok(counted(
                CheckOutcome::new(Verdict::Fail, format!("it still fails: {how}")).details(vec![on_active]),
            ));
        }
    }
    let outcome = if failures == tries {
        CheckOutcome::new(Verdict::Pass, format!("what failed on Active {tries} of {tries} times passes {tries} times"))
    } else {
        let summary = format!("it passes {tries} times, but on Active only {failures} of {tries} tries failed");
        CheckOutcome::new(Verdict::Inconclusive, summary)
    };
    Ok(counted(outcome.details(vec![on_active])))
}
