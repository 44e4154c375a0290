//! History, records and single objects, read only from the journal.
//!
//! A [`History`] takes the records one by one, oldest first, and keeps only the last entries, or one object. It uses
//! the recorded event, effects and phase. It decides nothing again, so a journal stays readable if a later version of
//! rei decides otherwise.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::entry::{Entry, StateSummary};
use super::evolution::{EvolutionRecord, EvolutionView};
use super::incidents::Incidents;
use super::inferred::Inferred;
use super::maintenance::MaintenanceRecord;
use crate::interface::operations::{HistoryEntry, ShowKind, ShowReply};
use crate::interface::types::{
    Evidence, EvolutionContext, EvolutionId, MaintenanceAction, RecordId, RuntimeIncident, SCHEMA, Version,
};
use crate::journal::Record;
use crate::lifecycle::{Caller, Effect, Event, Maintenance, Phase, Request};
use crate::narrate::{self, Scene};
use crate::time::Timestamp;

/// The objects that a history keeps.
#[derive(Debug)]
enum Focus {
    /// The last entries, at most this many.
    Last(usize),
    /// The object with this id.
    One(String),
}

/// An ended object that the history keeps.
#[derive(Debug)]
enum Ended {
    Evolution(Box<EvolutionRecord>),
    Maintenance(MaintenanceRecord),
    Incident(RuntimeIncident),
}

/// A reader of the journal's records.
#[derive(Debug)]
pub struct History {
    focus: Focus,
    ended: VecDeque<Ended>,
    /// The phase after the last record.
    state: StateSummary,
    inferred: Inferred,
    evolution: Option<EvolutionRecord>,
    incidents: Incidents,
    active: Option<Version>,
    /// The operator who asked for an evolution that has not begun yet.
    asked_by: Option<String>,
    records: u64,
}

impl History {
    /// For the last `limit` entries of the history.
    pub fn last(limit: usize) -> Self {
        Self::new(Focus::Last(limit))
    }

    /// For the one object with this id.
    pub fn of(id: &str) -> Self {
        Self::new(Focus::One(id.to_owned()))
    }

    fn new(focus: Focus) -> Self {
        Self {
            focus,
            ended: VecDeque::new(),
            state: StateSummary::default(),
            inferred: Inferred::default(),
            evolution: None,
            incidents: Incidents::default(),
            active: None,
            asked_by: None,
            records: 0,
        }
    }

    /// Takes the next record of the journal.
    pub fn take(&mut self, record: &Record<Entry>) {
        let (seq, at, entry) = (record.seq, record.at, &record.body);
        let state = self.inferred.after(entry);
        self.event(seq, at, &entry.event);
        // The record of an evolution's end comes before the next evolution begins.
        for effect in &entry.effects {
            if let Effect::Record(maintenance) = effect {
                self.record(seq, at, maintenance);
            }
        }
        if self.evolution.as_ref().map(|evolution| &evolution.id) != state.evolution.as_ref() {
            self.end_evolution();
            self.evolution = state.evolution.as_ref().map(|id| self.begin(id.clone(), state.phase, at, &entry.event));
        }
        for effect in &entry.effects {
            self.effect(seq, at, effect);
        }
        if let Some(evolution) = &mut self.evolution {
            evolution.follow(&state, seq, at);
        }
        self.state = state;
    }

    /// The phase after the last record.
    pub const fn state(&self) -> &StateSummary {
        &self.state
    }

    /// The evolution that was under way after the last record.
    pub fn under_way(&self) -> Option<EvolutionView> {
        self.evolution.as_ref().map(EvolutionRecord::view)
    }

    /// The incidents that were open after the last record.
    pub fn open_incidents(&self) -> impl Iterator<Item = &RuntimeIncident> {
        self.incidents.open()
    }

    fn event(&mut self, seq: u64, at: Timestamp, event: &Event) {
        let detail = || narrate::event(event, &Scene::default()).detail;
        match event {
            Event::Operator { who: Caller::Operator(who), request } => self.operator(who, request, detail),
            Event::Operator { who: Caller::Supervised { .. }, .. } => {}
            Event::Held(reality) => self.incidents.number_behind(reality.numbered),
            // Up to format 1.1, such a finding ended the observation and opened no incident. Since 1.2 it is not
            // recorded.
            Event::Found { slot: None, finding }
                if finding.evolve && matches!(self.state.phase, Phase::Observing { .. }) => {}
            Event::Found { finding, .. } => self.incidents.found(at, finding, self.active.as_ref()),
            Event::PlanDone { plan, .. } | Event::PlanBusy { plan, .. } | Event::PlanFailed { plan, .. } => {
                if let Some(evolution) = self.evolution.as_mut().filter(|it| it.plan == Some(*plan)) {
                    evolution.note(detail());
                }
            }
            Event::Judged { .. } => {
                if let Some(evolution) = &mut self.evolution
                    && matches!(
                        evolution.phase,
                        Phase::Canary { .. } | Phase::Observing { .. } | Phase::AwaitingApproval { .. }
                    )
                {
                    evolution.note(detail());
                }
            }
            Event::Aimed { evolution, rev, .. } => {
                if let Some(current) = self.evolution.as_mut().filter(|it| it.id == *evolution) {
                    current.rev = Some(rev.clone());
                }
            }
            Event::Diagnosed { evolution, .. }
            | Event::StageReached { evolution, .. }
            | Event::BuildPaused { evolution, .. }
            | Event::Built { evolution, .. }
            | Event::BuildFailed { evolution, .. }
            | Event::Validated { evolution, .. } => {
                let parent = self.active.as_ref();
                if let Some(current) = self.evolution.as_mut().filter(|it| it.id == *evolution) {
                    current.answer(seq, at, event, parent);
                }
            }
            Event::Configured { .. }
            | Event::AgentRan { .. }
            | Event::Recovered { .. }
            | Event::Followed { .. }
            | Event::GenerationPrepared { .. }
            | Event::GenerationFailed { .. }
            | Event::Started { .. }
            | Event::StartFailed { .. }
            | Event::Ready { .. }
            | Event::Extended { .. }
            | Event::Exited { .. }
            | Event::Stopped { .. }
            | Event::Due(_) => {}
        }
    }

    fn operator(&mut self, who: &str, request: &Request, detail: impl Fn() -> Option<String>) {
        match request {
            Request::Evolve { .. } => self.asked_by = Some(by(who)),
            Request::Approve { .. } => {
                if let Some(evolution) = &mut self.evolution {
                    evolution.note(detail());
                }
            }
            Request::Reject { id, .. } => {
                if let Some(closed) = self.incidents.close(id) {
                    self.keep_incident(closed);
                }
            }
            Request::Rollback { .. }
            | Request::Pause
            | Request::Resume
            | Request::Release { .. }
            | Request::Settle { .. } => {}
        }
    }

    /// Takes the facts about the evolution under way from an effect.
    fn effect(&mut self, seq: u64, at: Timestamp, effect: &Effect) {
        let Some(current) = &mut self.evolution else { return };
        match effect {
            Effect::Diagnose { evolution, incident, .. } if current.id == *evolution => {
                current.incident.clone_from(incident);
            }
            Effect::Build { evolution, candidate, blueprint, rev, .. } if current.id == *evolution => {
                current.candidate_id = Some(candidate.clone());
                blueprint.clone_into(&mut current.blueprint);
                current.rev.clone_from(rev);
            }
            Effect::Validate { evolution, report, .. } if current.id == *evolution => current.judge(report, seq, at),
            Effect::Execute(plan) => current.plan = Some(plan.number),
            Effect::GiveUp { .. } => current.note(narrate::effect(effect, &Scene::default()).detail),
            Effect::Diagnose { .. }
            | Effect::Build { .. }
            | Effect::Validate { .. }
            | Effect::Record(_)
            | Effect::Install { .. }
            | Effect::PrepareGeneration { .. }
            | Effect::Route { .. }
            | Effect::Restore { .. }
            | Effect::Cancel { .. }
            | Effect::Start { .. }
            | Effect::Stop { .. }
            | Effect::Drain { .. }
            | Effect::Refresh { .. }
            | Effect::Observe { .. }
            | Effect::Shadow { .. }
            | Effect::Judge
            | Effect::SetTimer { .. }
            | Effect::ClearTimer { .. }
            | Effect::Prune { .. } => {}
        }
    }

    /// An evolution that begins with this phase and event.
    fn begin(&mut self, id: EvolutionId, phase: Phase, at: Timestamp, event: &Event) -> EvolutionRecord {
        let mut evolution = EvolutionRecord::new(id, phase, at, self.active.clone());
        evolution.asked_by = match (phase, event) {
            (Phase::RollingBack { .. }, Event::Operator { who: Caller::Operator(who), .. }) => Some(by(who)),
            (Phase::Diagnosing, _) => self.asked_by.take(),
            _ => None,
        };
        evolution
    }

    fn record(&mut self, seq: u64, at: Timestamp, maintenance: &Maintenance) {
        self.records += 1;
        let record = MaintenanceRecord::new(RecordId::numbered(self.records), seq, at, maintenance);
        self.active.clone_from(&maintenance.to);
        if maintenance.action == MaintenanceAction::Promoted
            && let Some(closed) = maintenance.incident.as_ref().and_then(|id| self.incidents.close(&id.0))
        {
            self.keep_incident(closed);
        }
        // A restart of Active during an evolution does not end it.
        let ends = maintenance.action != MaintenanceAction::Restarted;
        let ended = self.evolution.as_mut().filter(|it| ends && Some(&it.id) == maintenance.evolution.as_ref());
        let is_entry = ended.is_none();
        if let Some(evolution) = ended {
            evolution.end(at, maintenance);
            self.end_evolution();
        }
        let is_in_focus = match &self.focus {
            Focus::Last(_) => is_entry,
            Focus::One(id) => record.0.id.0 == *id,
        };
        if is_in_focus {
            self.keep(Ended::Maintenance(record));
        }
    }

    fn end_evolution(&mut self) {
        let Some(evolution) = self.evolution.take() else { return };
        let is_in_focus = match &self.focus {
            Focus::Last(_) => true,
            Focus::One(id) => evolution.has_id(id),
        };
        if is_in_focus {
            self.keep(Ended::Evolution(Box::new(evolution)));
        }
    }

    fn keep_incident(&mut self, incident: RuntimeIncident) {
        if matches!(&self.focus, Focus::One(id) if incident.id.0 == *id) {
            self.keep(Ended::Incident(incident));
        }
    }

    fn keep(&mut self, ended: Ended) {
        let limit = match self.focus {
            Focus::Last(limit) => limit,
            Focus::One(_) => 1,
        };
        self.ended.push_back(ended);
        while self.ended.len() > limit {
            self.ended.pop_front();
        }
    }

    /// The last entries, newest first.
    pub fn entries(&self) -> Vec<HistoryEntry> {
        let Focus::Last(limit) = self.focus else { return Vec::new() };
        let ended = self.ended.iter().filter_map(|ended| match ended {
            Ended::Evolution(evolution) => Some(evolution.entry()),
            Ended::Maintenance(record) => Some(record.entry()),
            Ended::Incident(_) => None,
        });
        let mut entries: Vec<HistoryEntry> = ended.chain(self.evolution.as_ref().map(EvolutionRecord::entry)).collect();
        entries.reverse();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.started_at));
        entries.truncate(limit);
        entries
    }

    /// The object that this history is [`of`](Self::of). `lookup` returns the file with that id: a context, a report, a
    /// candidate, or an incident with its evidence.
    pub fn show(&self, mut lookup: impl FnMut(&str) -> Option<Value>) -> Option<ShowReply> {
        let Focus::One(id) = &self.focus else { return None };
        let under_way = self.evolution.as_ref().filter(|evolution| evolution.has_id(id));
        let evolution = under_way.or_else(|| {
            self.ended.iter().find_map(|ended| match ended {
                Ended::Evolution(evolution) => Some(&**evolution),
                Ended::Maintenance(_) | Ended::Incident(_) => None,
            })
        });
        let (kind, object, evidence) = match id.split('_').next()? {
            "evo" => (ShowKind::Evolution, serde_json::to_value(evolution?.view()).ok()?, Vec::new()),
            "inc" => {
                let mut incident = self.incident(id)?.clone();
                if let Some(filed) = lookup(id).and_then(read::<RuntimeIncident>) {
                    incident.evidence = filed.evidence;
                }
                let evidence = incident.evidence.clone();
                (ShowKind::Incident, serde_json::to_value(incident).ok()?, evidence)
            }
            "cand" => {
                let recorded = || serde_json::to_value(evolution?.candidate.as_ref()?).ok();
                (ShowKind::Candidate, lookup(id).or_else(recorded)?, Vec::new())
            }
            "ctx" => {
                let object = lookup(id)?;
                let evidence: Vec<Evidence> =
                    read::<EvolutionContext>(object.clone()).map(|context| context.logs).unwrap_or_default();
                (ShowKind::Context, object, evidence)
            }
            "val" => (ShowKind::Report, lookup(id)?, Vec::new()),
            "rec" => {
                let record = self.ended.iter().find_map(|ended| match ended {
                    Ended::Maintenance(MaintenanceRecord(record)) => Some(record),
                    Ended::Evolution(_) | Ended::Incident(_) => None,
                });
                (ShowKind::Record, serde_json::to_value(record?).ok()?, Vec::new())
            }
            _ => return None,
        };
        Some(ShowReply { schema: SCHEMA.to_owned(), kind, id: id.clone(), object, evidence })
    }

    fn incident(&self, id: &str) -> Option<&RuntimeIncident> {
        let closed = self.ended.iter().find_map(|ended| match ended {
            Ended::Incident(incident) => Some(incident),
            Ended::Evolution(_) | Ended::Maintenance(_) => None,
        });
        self.incidents.open().find(|incident| incident.id.0 == id).or(closed)
    }
}

fn by(operator: &str) -> String {
    format!("operator:{operator}")
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}
