//! Judges a candidate: collects facts, makes a plan, runs checks in sandboxes, and writes the report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::version::progress;
use crate::digest;
use crate::golden;
use crate::interface::types::{
    CandidateId, EvolutionId, IncidentId, ReportId, SCHEMA, ValidationReport, Verdict, Version,
};
use crate::lifecycle::{Event, ReportDigest};
use crate::nix::FlakeRef;
use crate::report::chain;
use crate::service::clock::Clock;
use crate::service::failure::reason;
use crate::service::input::{Input, Inputs};
use crate::service::tools::Tools;
use crate::source::ObjectId;
use crate::state::objects;
use crate::time::Timestamp;
use crate::validation::{self, Bound, Built, Facts, FlakeChecks, GoldenFact, Meta, TreeFile};

/// The candidate to judge.
pub struct ValidationOrder {
    /// The candidate.
    pub candidate: CandidateId,
    /// The version of the candidate.
    pub version: Version,
    /// The report's id.
    pub report: ReportId,
    /// The Active version, with which the candidate is compared.
    pub active: Version,
    /// The incident that the candidate must repair.
    pub incident: Option<IncidentId>,
}

/// Executes `Effect::Validate`; the result is the event that answers it.
pub async fn validate(
    tools: Arc<Tools>,
    evolution: EvolutionId,
    order: ValidationOrder,
    inputs: Inputs,
) -> Option<Event> {
    let report = judge(&tools, &order, &inputs).await;
    let failed = report.checks.iter().filter(|check| check.verdict != Verdict::Pass);
    let mut lines: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.summary)).collect();
    if lines.is_empty() {
        lines.push(format!("{} checks passed", report.checks.len()));
    }
    let digest = ReportDigest {
        id: report.id.clone(),
        store_path: report.store_path.clone(),
        verdict: report.verdict,
        summary: lines.join("; "),
    };
    Some(Event::Validated { evolution, report: digest })
}

/// Judges the candidate and stores the report. If the candidate cannot be judged, the verdict is inconclusive.
pub async fn judge(tools: &Tools, order: &ValidationOrder, inputs: &Inputs) -> ValidationReport {
    let started_at = Clock::starting(Timestamp::default()).now();
    let meta =
        |finished_at| Meta { id: order.report.clone(), candidate_id: order.candidate.clone(), started_at, finished_at };
    let facts = facts(tools, order).await;
    let judged = async {
        let facts = facts?;
        let plan = validation::plan(&tools.config, &facts);
        let text = format!("{} checks in sandboxes", plan.steps.len());
        let _ = inputs.send(Input::Progress { text, done: None }).await;
        let bound =
            Bound { store_path: order.version.store_path.clone(), active_store_path: order.active.store_path.clone() };
        let means = tools.means(Some(progress(inputs))).await.map_err(|error| reason(&error, error.hint()))?;
        let findings = validation::execute(&plan, &bound, means).await;
        let findings = findings.map_err(|error| reason(&error, error.hint()))?;
        Ok::<_, String>((plan, findings))
    };
    let judged = judged.await;
    // The end is never before the start, even if the wall clock was set back.
    let finished_at = Clock::starting(started_at).now();
    let report = match judged {
        Ok((plan, findings)) => validation::report(&plan, &findings, meta(finished_at)),
        Err(why) => inconclusive(order, why, started_at, finished_at),
    };
    // A failure is logged; the verdict does not depend on the file.
    objects::keep(&tools.paths, &order.report.0, &report).await;
    report
}

fn inconclusive(
    order: &ValidationOrder,
    why: String,
    started_at: Timestamp,
    finished_at: Timestamp,
) -> ValidationReport {
    ValidationReport {
        schema: SCHEMA.to_owned(),
        id: order.report.clone(),
        candidate_id: order.candidate.clone(),
        store_path: order.version.store_path.clone(),
        active_store_path: order.active.store_path.clone(),
        validator: "supervisor".to_owned(),
        verdict: Verdict::Inconclusive,
        checks: vec![crate::interface::types::CheckResult {
            name: "plan".to_owned(),
            verdict: Verdict::Inconclusive,
            summary: why,
            details: Vec::new(),
            drv: None,
            duration_ms: None,
        }],
        started_at,
        finished_at,
    }
}

async fn facts(tools: &Tools, order: &ValidationOrder) -> Result<Facts, String> {
    let source = |error: crate::source::Error| reason(&error, error.hint());
    let commit = |rev: &str| ObjectId::parse(rev).ok_or_else(|| format!("{rev} is no commit"));
    let (candidate, active) = (commit(&order.version.rev)?, commit(&order.active.rev)?);
    tools.mirror.keep_active(&active).await.map_err(source)?;
    let candidate_flake = tools.flake(&candidate).await.map_err(|failed| failed.reason)?;
    let active_flake = tools.flake(&active).await.map_err(|failed| failed.reason)?;
    let directories = tools.config.validation.golden.clone();
    let golden = tokio::task::spawn_blocking(move || golden_facts(&directories));
    let golden = golden.await.map_err(|error| format!("the golden runs were not read: {error}"))??;
    Ok(Facts {
        candidate: order.version.clone(),
        active: order.active.clone(),
        active_checks: checks(tools, &active_flake, "active-checks").await,
        candidate_checks: checks(tools, &candidate_flake, &format!("{}-checks", order.candidate)).await,
        active_files: files(tools, &active).await?,
        candidate_files: files(tools, &candidate).await?,
        golden,
        reproduction: reproduction(tools, order.incident.as_ref()),
        rei: tools.builder().await.map_err(|refusal| reason(&refusal, refusal.hint()))?.to_owned(),
        nonce: order.report.0.clone(),
    })
}

/// The golden runs; each file is read to its end. The operator must correct an invalid line: it is not a fault of the
/// candidate.
fn golden_facts(directories: &[PathBuf]) -> Result<Vec<GoldenFact>, String> {
    let invalid = |error: golden::Error| reason(&error, error.hint());
    let fact = |listed: golden::Listed| {
        let golden::Listed { path, header, .. } = listed;
        golden::verify(&path).map_err(invalid)?;
        let sha256 =
            digest::sha256_of_file(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok::<_, String>(GoldenFact {
            name: header.name,
            listener: header.listener,
            bodies: golden::directory_if_any(&path),
            path,
            sha256,
        })
    };
    golden::list(directories).map_err(invalid)?.into_iter().map(fact).collect()
}

async fn checks(tools: &Tools, flake: &FlakeRef, root: &str) -> Result<FlakeChecks, String> {
    let root = tools.roots.path(root).map_err(|error| chain(&error))?;
    let described = |error: crate::nix::Error| reason(&error, error.hint());
    let found = tools.nix().await.map_err(described)?.evaluate_checks(flake, Some(&root)).await.map_err(described)?;
    Ok(found.into_iter().map(|(name, derivation)| (name, derivation.map(Built::from))).collect::<BTreeMap<_, _>>())
}

async fn files(tools: &Tools, commit: &ObjectId) -> Result<Vec<TreeFile>, String> {
    let files = tools.mirror.built_files(commit).await.map_err(|error| reason(&error, error.hint()))?;
    let plain = |file: crate::source::TreeFile| TreeFile {
        path: file.path.display().to_string(),
        object: format!("{:o} {}", file.mode, file.blob),
    };
    Ok(files.into_iter().map(plain).collect())
}

/// The incident's reproduction run, if its diagnosis wrote one.
fn reproduction(tools: &Tools, incident: Option<&IncidentId>) -> Option<GoldenFact> {
    let incident = incident?;
    let path = tools.paths.reproduction(incident);
    let sha256 = digest::sha256_of_file(&path).ok()?;
    let listener = tools.config.health.http.as_ref()?.listen.clone();
    Some(GoldenFact { name: incident.0.clone(), listener, path, sha256, bodies: None })
}
