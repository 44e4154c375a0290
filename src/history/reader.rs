//! History, records and single objects, read from the journal alone.
//!
//! A [`History`] takes the records one by one, oldest first, and keeps only what it was made for: the last entries, or
//! one object. It believes what is written: the event, the effects, and where the lifecycle stood after them. It decides
//! nothing again, so a journal stays readable when a later version of rei decides otherwise.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::entry::{Entry, Stands};
use super::evolution::{EvolutionRecord, EvolutionView};
use super::incidents::Incidents;
use super::maintenance::MaintenanceRecord;
use super::unnamed::Unnamed;
use crate::interface::operations::{HistoryEntry, ShowKind, ShowReply};
use crate::interface::types::{
    Evidence, EvolutionContext, EvolutionId, MaintenanceAction, RecordId, RuntimeIncident, SCHEMA, Version,
};
use crate::journal::Record;
use crate::lifecycle::{Caller, Effect, Event, Maintenance, Phase, Request};
use crate::narrate::{self, Scene};
use crate::time::Timestamp;

/// What a history keeps.
#[derive(Debug)]
enum Focus {
    /// The last entries, this many.
    Last(usize),
    /// The object with this id.
    One(String),
}

/// What has ended and is kept.
#[derive(Debug)]
enum Kept {
    Evolution(Box<EvolutionRecord>),
    Maintenance(MaintenanceRecord),
    Incident(RuntimeIncident),
}

/// A walk through the journal.
#[derive(Debug)]
pub struct History {
    focus: Focus,
    kept: VecDeque<Kept>,
    /// Where the lifecycle stood after the last record.
    stands: Stands,
    unnamed: Unnamed,
    evolution: Option<EvolutionRecord>,
    incidents: Incidents,
    active: Option<Version>,
    /// The operator who asked for an evolution that has not begun.
    asked: Option<String>,
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
            kept: VecDeque::new(),
            stands: Stands::default(),
            unnamed: Unnamed::default(),
            evolution: None,
            incidents: Incidents::default(),
            active: None,
            asked: None,
            records: 0,
        }
    }

    /// Takes the next record of the journal.
    pub fn take(&mut self, record: &Record<Entry>) {
        let (seq, at, entry) = (record.seq, record.at, &record.body);
        let stands = self.unnamed.after(entry);
        self.event(seq, at, &entry.event);
        // How an evolution ended is said before the next one begins.
        for effect in &entry.effects {
            if let Effect::Record(maintenance) = effect {
                self.record(seq, at, maintenance);
            }
        }
        if self.evolution.as_ref().map(|evolution| &evolution.id) != stands.evolution.as_ref() {
            self.end_evolution();
            self.evolution = stands.evolution.as_ref().map(|id| self.begin(id.clone(), stands.phase, at, &entry.event));
        }
        for effect in &entry.effects {
            self.effect(seq, at, effect);
        }
        if let Some(evolution) = &mut self.evolution {
            evolution.follow(&stands, seq, at);
        }
        self.stands = stands;
    }

    /// Where the lifecycle stood after the last record.
    pub const fn stands(&self) -> &Stands {
        &self.stands
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
            // Up to format 1.1, such a finding ended the observation and opened no incident. Since 1.2 it is not recorded.
            Event::Found { slot: None, finding }
                if finding.evolve && matches!(self.stands.phase, Phase::Observing { .. }) => {}
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
            Request::Evolve { .. } => self.asked = Some(by(who)),
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
            | Request::Lift { .. }
            | Request::Settle { .. } => {}
        }
    }

    /// What an effect says of the evolution under way.
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
            (Phase::Diagnosing, _) => self.asked.take(),
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
        let wanted = match &self.focus {
            Focus::Last(_) => is_entry,
            Focus::One(id) => record.0.id.0 == *id,
        };
        if wanted {
            self.keep(Kept::Maintenance(record));
        }
    }

    fn end_evolution(&mut self) {
        let Some(evolution) = self.evolution.take() else { return };
        let wanted = match &self.focus {
            Focus::Last(_) => true,
            Focus::One(id) => evolution.answers_to(id),
        };
        if wanted {
            self.keep(Kept::Evolution(Box::new(evolution)));
        }
    }

    fn keep_incident(&mut self, incident: RuntimeIncident) {
        if matches!(&self.focus, Focus::One(id) if incident.id.0 == *id) {
            self.keep(Kept::Incident(incident));
        }
    }

    fn keep(&mut self, kept: Kept) {
        let limit = match self.focus {
            Focus::Last(limit) => limit,
            Focus::One(_) => 1,
        };
        self.kept.push_back(kept);
        while self.kept.len() > limit {
            self.kept.pop_front();
        }
    }

    /// The last entries, newest first.
    pub fn entries(&self) -> Vec<HistoryEntry> {
        let Focus::Last(limit) = self.focus else { return Vec::new() };
        let kept = self.kept.iter().filter_map(|kept| match kept {
            Kept::Evolution(evolution) => Some(evolution.entry()),
            Kept::Maintenance(record) => Some(record.entry()),
            Kept::Incident(_) => None,
        });
        let mut entries: Vec<HistoryEntry> = kept.chain(self.evolution.as_ref().map(EvolutionRecord::entry)).collect();
        entries.reverse();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.started_at));
        entries.truncate(limit);
        entries
    }

    /// The object that this history is [`of`](Self::of). `lookup` gives what is kept as a file of that id: a context, a
    /// report, a candidate, or an incident with its evidence.
    pub fn show(&self, mut lookup: impl FnMut(&str) -> Option<Value>) -> Option<ShowReply> {
        let Focus::One(id) = &self.focus else { return None };
        let under_way = self.evolution.as_ref().filter(|evolution| evolution.answers_to(id));
        let evolution = under_way.or_else(|| {
            self.kept.iter().find_map(|kept| match kept {
                Kept::Evolution(evolution) => Some(&**evolution),
                Kept::Maintenance(_) | Kept::Incident(_) => None,
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
                let record = self.kept.iter().find_map(|kept| match kept {
                    Kept::Maintenance(MaintenanceRecord(record)) => Some(record),
                    Kept::Evolution(_) | Kept::Incident(_) => None,
                });
                (ShowKind::Record, serde_json::to_value(record?).ok()?, Vec::new())
            }
            _ => return None,
        };
        Some(ShowReply { schema: SCHEMA.to_owned(), kind, id: id.clone(), object, evidence })
    }

    fn incident(&self, id: &str) -> Option<&RuntimeIncident> {
        let closed = self.kept.iter().find_map(|kept| match kept {
            Kept::Incident(incident) => Some(incident),
            Kept::Evolution(_) | Kept::Maintenance(_) => None,
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
