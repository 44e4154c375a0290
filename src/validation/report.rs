//! Plan and findings to a [`ValidationReport`]. Pure.

use super::execute::StepOutcome;
use super::plan::{Built, Plan, Step, Work};
use super::step::StepId;
use super::verdict::VerdictFile;
use crate::interface::types::{CandidateId, CheckResult, ReportId, SCHEMA, ValidationReport, Verdict};
use crate::nix::last_output;
use crate::time::Timestamp;

/// What a report says besides its verdicts.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The report's id.
    pub id: ReportId,
    /// The candidate's.
    pub candidate_id: CandidateId,
    /// When the judge began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// Makes the report: one result for each step of the plan, whatever was found.
pub fn report(plan: &Plan, findings: &[StepOutcome], meta: Meta) -> ValidationReport {
    let control = plan.steps.iter().zip(findings).find(|(step, _)| step.id == StepId::Control);
    let could_judge = control.is_some_and(|(step, finding)| judge(step, Some(finding), true).verdict == Verdict::Pass);
    let results = plan.steps.iter().enumerate().map(|(index, step)| judge(step, findings.get(index), could_judge));
    let checks: Vec<CheckResult> = results.collect();
    ValidationReport {
        schema: SCHEMA.into(),
        id: meta.id,
        candidate_id: meta.candidate_id,
        store_path: plan.store_path.clone(),
        active_store_path: plan.active_store_path.clone(),
        validator: "supervisor".into(),
        verdict: whole(&checks),
        checks,
        started_at: meta.started_at,
        finished_at: meta.finished_at,
    }
}

/// One failure fails; else one doubt leaves it open; nothing checked is a doubt.
fn whole(checks: &[CheckResult]) -> Verdict {
    let any = |verdict| checks.iter().any(|check| check.verdict == verdict);
    if any(Verdict::Fail) {
        Verdict::Fail
    } else if any(Verdict::Inconclusive) || checks.is_empty() {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}

fn judge(step: &Step, finding: Option<&StepOutcome>, could_judge: bool) -> CheckResult {
    let mut result = CheckResult {
        name: step.id.to_string(),
        verdict: Verdict::Inconclusive,
        summary: String::new(),
        details: Vec::new(),
        drv: None,
        duration_ms: None,
    };
    match (&step.work, finding) {
        (Work::Decided { verdict, summary, details }, _) => {
            (result.verdict, result.summary, result.details) = (*verdict, summary.clone(), details.clone());
        }
        (Work::Build(built), Some(StepOutcome::Built { .. })) => {
            (result.verdict, result.summary) = (Verdict::Pass, "it passes".into());
            result.drv = Some(built.drv.clone());
        }
        (Work::Build(built), Some(StepOutcome::Failed { log, .. })) => {
            // If not even the control was built, a failed build says nothing about the candidate.
            (result.verdict, result.summary) = if could_judge {
                (Verdict::Fail, failed(built, log))
            } else {
                (Verdict::Inconclusive, "it was not built, and neither was the control".into())
            };
            (result.drv, result.details) = (Some(built.drv.clone()), log.clone());
        }
        (Work::Sandboxed { .. }, Some(StepOutcome::Built { drv, verdict, reused })) => {
            result.drv = Some(drv.clone());
            let bytes = verdict.as_deref().ok_or_else(|| "the output holds no verdict".to_owned());
            match bytes.and_then(|bytes| VerdictFile::parse(bytes, &result.name)) {
                Ok(file) => {
                    (result.verdict, result.summary, result.details) = (file.verdict, file.summary, file.details);
                    result.duration_ms = (!reused).then_some(file.duration_ms);
                }
                Err(reason) => result.summary = reason,
            }
        }
        (Work::Sandboxed { .. }, Some(StepOutcome::Failed { drv, log })) => {
            result.summary = "there is no verdict: the check itself could not be run".into();
            (result.drv, result.details) = (Some(drv.clone()), log.clone());
        }
        (_, Some(StepOutcome::None) | None) => result.summary = "nothing was found out".into(),
    }
    result
}

/// A check of the flake that failed, with the last lines that it printed.
fn failed(built: &Built, log: &[String]) -> String {
    let said = last_output(log.join("\n").as_bytes());
    let said = if said.is_empty() { "; it said nothing" } else { &said };
    format!("it fails{said}; see nix-store --read-log {}", built.drv)
}
