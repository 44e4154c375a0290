//! One evolution, read from the journal.

use serde::{Deserialize, Serialize};

use super::entry::StateSummary;
use crate::digest::short;
use crate::interface::operations::HistoryEntry;
use crate::interface::types::{
    CandidateId, CandidateRuntime, EvolutionId, IncidentId, MaintenanceAction, ReportId, SCHEMA, Version,
};
use crate::lifecycle::{CanaryStage, Event, Maintenance, Phase};
use crate::narrate;
use crate::time::Timestamp;

/// The bound of stored steps of one evolution. If there are more, the last stored step also covers all later ones.
pub const STEPS_MAX: usize = 200;

/// The reply of `Show` for an evolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionView {
    /// As in `History`.
    #[serde(flatten)]
    pub entry: HistoryEntry,
    /// The blueprint; empty if there was none.
    pub blueprint: String,
    /// The commit that the evolution upgrades to; `null` if the blueprint makes a commit.
    pub rev: Option<String>,
    /// The operator who asked for it; `null` if no operator asked.
    pub asked_by: Option<String>,
    /// The paths that the candidate changed.
    pub files_changed: Vec<String>,
    /// The steps, oldest first.
    pub steps: Vec<EvolutionStep>,
}

/// One step of an evolution: a phase, a stage of the blueprint in it, or a canary share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionStep {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `null` while it runs.
    pub finished_at: Option<Timestamp>,
    /// Its duration in milliseconds; `null` while it runs.
    pub duration_ms: Option<u64>,
    /// Its result, for a person.
    pub detail: Option<String>,
    /// The number of the journal record that began it.
    pub journal_seq: u64,
}

/// An evolution, ended or under way.
#[derive(Debug)]
pub(super) struct EvolutionRecord {
    pub(super) id: EvolutionId,
    pub(super) phase: Phase,
    pub(super) incident: Option<IncidentId>,
    pub(super) asked_by: Option<String>,
    pub(super) blueprint: String,
    pub(super) rev: Option<String>,
    pub(super) candidate_id: Option<CandidateId>,
    pub(super) candidate: Option<CandidateRuntime>,
    /// The number of the plan that was executed last.
    pub(super) plan: Option<u64>,
    /// The phase in which it began.
    first: Phase,
    /// The report that was requested last.
    judging: Option<ReportId>,
    context: Option<String>,
    report: Option<ReportId>,
    started_at: Timestamp,
    finished_at: Option<Timestamp>,
    action: Option<MaintenanceAction>,
    decided_by: Option<String>,
    reason: Option<String>,
    from: Option<Version>,
    to: Option<Version>,
    steps: Vec<EvolutionStep>,
}

impl EvolutionRecord {
    /// An evolution that begins with this phase.
    pub(super) fn new(id: EvolutionId, first: Phase, at: Timestamp, active: Option<Version>) -> Self {
        Self {
            id,
            // No evolution is under way in Steady, so the first phase always begins a step.
            phase: Phase::Steady,
            incident: None,
            asked_by: None,
            blueprint: String::new(),
            rev: None,
            candidate_id: None,
            candidate: None,
            plan: None,
            first,
            judging: None,
            context: None,
            report: None,
            started_at: at,
            finished_at: None,
            action: None,
            decided_by: None,
            reason: None,
            from: active,
            to: None,
            steps: Vec::new(),
        }
    }

    pub(super) fn has_id(&self, id: &str) -> bool {
        self.id.0 == id || self.candidate_id.as_ref().is_some_and(|candidate| candidate.0 == id)
    }

    /// Takes the phase after a record. A new phase begins a new step, and so does a new share.
    pub(super) fn follow(&mut self, state: &StateSummary, seq: u64, at: Timestamp) {
        let is_same = is_same_step(self.phase, state.phase);
        self.phase = state.phase;
        if !is_same {
            self.begin(narrate::step(state.phase, state.share_ppm), seq, at);
        }
    }

    /// Begins a step.
    fn begin(&mut self, name: String, seq: u64, at: Timestamp) {
        if self.steps.len() >= STEPS_MAX {
            return;
        }
        self.finish_step(at);
        self.steps.push(EvolutionStep {
            name,
            started_at: at,
            finished_at: None,
            duration_ms: None,
            detail: None,
            journal_seq: seq,
        });
    }

    fn finish_step(&mut self, at: Timestamp) {
        if let Some(step) = self.steps.last_mut() {
            step.finished_at = Some(at);
            step.duration_ms = Some(at.ms_since(step.started_at));
        }
    }

    /// Sets the result of the present step.
    pub(super) fn note(&mut self, detail: Option<String>) {
        if let (Some(step), Some(detail)) = (self.steps.last_mut(), detail) {
            step.detail = Some(detail);
        }
    }

    /// Takes the request for a report. A second report in the same phase is a step of its own.
    pub(super) fn judge(&mut self, report: &ReportId, seq: u64, at: Timestamp) {
        let again = self.judging.as_ref().is_some_and(|asked| asked != report);
        self.judging = Some(report.clone());
        if again && self.phase == Phase::Validating {
            self.begin(narrate::step(self.phase, None), seq, at);
        }
    }

    /// Takes the result of a job.
    pub(super) fn answer(&mut self, seq: u64, at: Timestamp, event: &Event, parent: Option<&Version>) {
        match event {
            Event::Diagnosed { context, .. } if self.phase == Phase::Diagnosing => {
                self.context = Some(context.clone());
            }
            Event::StageReached { stage, .. } if self.phase == Phase::Building => {
                self.begin(narrate::stage(stage), seq, at);
            }
            Event::Built { version, base_rev, files_changed, .. }
                if matches!(self.phase, Phase::Building | Phase::Installing) =>
            {
                self.note(narrate::event(event, &narrate::Scene::default()).detail);
                self.candidate = Some(CandidateRuntime {
                    schema: SCHEMA.to_owned(),
                    id: self.candidate_id.clone().unwrap_or_else(|| CandidateId::numbered(0)),
                    evolution_id: self.id.clone(),
                    incident_id: self.incident.clone(),
                    context_digest: self.context.clone(),
                    version: version.clone(),
                    parent: parent.map(|version| version.store_path.clone()).unwrap_or_default(),
                    base_rev: base_rev.clone(),
                    files_changed: files_changed.clone(),
                    blueprint: self.blueprint.clone(),
                    created_at: at,
                });
            }
            Event::BuildFailed { .. } => self.note(narrate::event(event, &narrate::Scene::default()).detail),
            Event::Validated { report, .. } if self.phase == Phase::Validating => {
                self.report = Some(report.id.clone());
                self.note(narrate::event(event, &narrate::Scene::default()).detail);
            }
            _ => {}
        }
    }

    /// Takes the maintenance record about the evolution's end.
    pub(super) fn end(&mut self, at: Timestamp, maintenance: &Maintenance) {
        self.finish_step(at);
        self.finished_at = Some(at);
        self.action = Some(maintenance.action);
        self.decided_by = Some(maintenance.decided_by.clone());
        self.reason = Some(narrate::reason(&maintenance.reason));
        self.report = maintenance.report.clone().or(self.report.take());
        self.from.clone_from(&maintenance.from);
        self.to.clone_from(&maintenance.to);
    }

    fn purpose(&self) -> String {
        match (&self.incident, &self.rev) {
            _ if matches!(self.first, Phase::RollingBack { .. }) => "rollback".to_owned(),
            (Some(incident), _) => format!("repair of {incident}"),
            (None, _) if self.first == Phase::Installing => "first version".to_owned(),
            (None, Some(to)) => format!("upgrade to {}", short(to)),
            (None, None) if self.blueprint.is_empty() => "evolution".to_owned(),
            (None, None) => format!("evolution by {}", self.blueprint),
        }
    }

    /// The entry that `History` shows.
    pub(super) fn entry(&self) -> HistoryEntry {
        let state = self.reason.clone().unwrap_or_else(|| narrate::step(self.phase, None));
        HistoryEntry {
            schema: SCHEMA.to_owned(),
            id: self.id.0.clone(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            action: self.action,
            summary: format!("{}: {state}", self.purpose()),
            decided_by: self.decided_by.clone(),
            incident_id: self.incident.clone(),
            candidate_id: self.candidate.as_ref().and_then(|_| self.candidate_id.clone()),
            report_id: self.report.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }

    /// The object that `Show` shows.
    pub(super) fn view(&self) -> EvolutionView {
        EvolutionView {
            entry: self.entry(),
            blueprint: self.blueprint.clone(),
            rev: self.rev.clone(),
            asked_by: self.asked_by.clone(),
            files_changed: self.candidate.iter().flat_map(|it| it.files_changed.clone()).collect(),
            steps: self.steps.clone(),
        }
    }
}

/// Whether two phases belong to the same step. The shadow is a step, a canary has a step for each share, and every other
/// phase is one step.
fn is_same_step(before: Phase, after: Phase) -> bool {
    let step = |stage| match stage {
        CanaryStage::Share { index, .. } => (false, Some(index)),
        CanaryStage::Shadow { .. } => (true, None),
        CanaryStage::Preparing | CanaryStage::Stopping => (false, None),
    };
    match (before, after) {
        (Phase::Canary { stage: before }, Phase::Canary { stage: after }) => step(before) == step(after),
        (before, after) => before.name() == after.name(),
    }
}
