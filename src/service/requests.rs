//! Three of the four calls of the evolution interface, for callers outside the supervisor. Each runs outside the
//! lifecycle. A candidate that is built here is never promoted; only a candidate of one of the supervisor's own
//! evolutions can be.

use super::executor::Executor;
use super::facts::Facts;
use super::jobs::{self, BuildOrder, ValidationOrder};
use crate::interface::evolution::EvolutionError;
use crate::interface::operations::{GoldenQualified, OperationsError, Phase};
use crate::interface::queue::Reply;
use crate::interface::types::{
    CandidateId, CandidateRuntime, ContextId, EvolutionContext, EvolutionId, IncidentId, ReportId, ValidationReport,
    Version,
};
use crate::lifecycle::{Event, OpenIncident};
use crate::state::objects;
use crate::time::Timestamp;

/// Takes the answer to a call.
type EvolutionReply<T> = Reply<T, EvolutionError>;

/// `CollectEvolutionContext`.
pub fn context(
    executor: &Executor,
    id: IncidentId,
    incident: Option<OpenIncident>,
    facts: &Facts,
    seq: u64,
    at: Timestamp,
    reply: EvolutionReply<EvolutionContext>,
) {
    let Some(incident) = incident else {
        reply.send(Err(EvolutionError::UnknownIncident { incident_id: id.0 }));
        return;
    };
    let incident = incident.to_incident(&executor.tools.config.runtime.name);
    let number = facts.evolution.as_ref().map(|evolution| evolution.0.replacen("evo", "ctx", 1));
    let context = ContextId(number.unwrap_or_else(|| format!("ctx_{seq}")));
    let (tools, facts) = (
        executor.tools.clone(),
        executor.diagnosis(context, Some(incident), facts.active_slot, facts.active.clone(), at),
    );
    tokio::spawn(async move {
        let collected = jobs::diagnose_now(&tools, facts).await;
        reply.send(Ok(collected.context));
    });
}

/// `QualifyGolden`.
pub fn qualify(
    executor: &Executor,
    name: String,
    active: Option<Version>,
    at: Timestamp,
    reply: Reply<GoldenQualified, OperationsError>,
) {
    let Some(active) = active else {
        let hint = "a golden run is replayed on Active: wait until a version is Active".to_owned();
        reply.send(Err(OperationsError::WrongPhase { phase: Phase::Empty, hint }));
        return;
    };
    let tools = executor.tools.clone();
    tokio::spawn(async move {
        reply.send(jobs::qualify(&tools, &name, &active, at).await);
    });
}

/// `BuildCandidateRuntime`.
pub fn build(
    executor: &Executor,
    number: String,
    context: EvolutionContext,
    facts: Facts,
    at: Timestamp,
    reply: EvolutionReply<CandidateRuntime>,
) {
    let (candidate, evolution) = (CandidateId(format!("cand_{number}")), EvolutionId(format!("evo_{number}")));
    let incident = context.incident_id.clone();
    let config = &executor.tools.config.blueprints;
    let blueprint = match &incident {
        Some(_) => config.incident.clone().unwrap_or_else(|| config.upgrade.clone()),
        None => config.upgrade.clone(),
    };
    let in_use = executor.tools.in_use.protect(&evolution, &candidate);
    let paths = &executor.tools.paths;
    let order = BuildOrder {
        context: Some(paths.context(incident.as_ref(), &context.id.0)),
        incident,
        context_digest: Some(context.digest),
        at,
        ..BuildOrder::new(evolution, candidate.clone(), blueprint, facts, paths)
    };
    let (tools, inputs) = (executor.tools.clone(), executor.inputs.clone());
    tokio::spawn(async move {
        let _in_use = in_use;
        let result = jobs::build(tools.clone(), order, inputs).await;
        let answer = match result {
            Some(Event::Built { .. }) => objects::read(&tools.paths, &candidate.0)
                .ok_or_else(|| EvolutionError::NotAvailable { reason: "the candidate could not be stored".to_owned() }),
            Some(Event::BuildPaused { stage, .. }) => Err(EvolutionError::BuildFailed {
                stage,
                reason: "the blueprint needs the approval of an operator, which a build by a caller cannot get"
                    .to_owned(),
                log: String::new(),
            }),
            Some(Event::BuildFailed { reason, .. }) => {
                Err(EvolutionError::BuildFailed { stage: "blueprint".to_owned(), reason, log: String::new() })
            }
            _ => Err(EvolutionError::NotAvailable { reason: "the build ended without a result".to_owned() }),
        };
        reply.send(answer);
    });
}

/// `ValidateCandidate`.
pub fn validate(
    executor: &Executor,
    number: &str,
    candidate: CandidateRuntime,
    facts: Facts,
    reply: EvolutionReply<ValidationReport>,
) {
    let known: Option<CandidateRuntime> = objects::read(&executor.tools.paths, &candidate.id.0);
    if known.is_none_or(|known| known.version != candidate.version) {
        reply.send(Err(EvolutionError::UnknownCandidate { candidate_id: candidate.id.0 }));
        return;
    }
    let in_use = executor.tools.in_use.protect(&candidate.evolution_id, &candidate.id);
    let order = ValidationOrder {
        report: ReportId(format!("val_{number}")),
        candidate: candidate.id,
        version: candidate.version,
        active: facts.active.unwrap_or_default(),
        incident: candidate.incident_id,
    };
    let (tools, inputs) = (executor.tools.clone(), executor.inputs.clone());
    tokio::spawn(async move {
        let _in_use = in_use;
        reply.send(Ok(jobs::judge(&tools, &order, &inputs).await));
    });
}
