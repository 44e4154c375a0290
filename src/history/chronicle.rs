//! History, records and single objects, read from the journal alone.
//!
//! A [`Chronicle`] takes the records one by one, oldest first, and keeps only what it was made for: the last entries, or
//! one object. It believes what is written, events with the effects that followed, and replays nothing: a journal stays
//! readable when a later rei decides otherwise.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::entry::Entry;
use super::incidents::Incidents;
use super::trip::Trip;
pub use super::trip::{EvolutionStep, EvolutionView, STEPS_MAX};
use crate::interface::operations::{HistoryEntry, Phase, ShowKind, ShowReply};
use crate::interface::types::{
    Evidence, EvolutionContext, EvolutionId, MaintenanceAction, RecordId, RuntimeIncident, RuntimeMaintenanceRecord,
    SCHEMA, Verdict, Version,
};
use crate::journal::Record;
use crate::lifecycle::{Caller, Effect, Event, Maintenance, Request, Timer};
use crate::narrate;
use crate::time::Timestamp;

/// What a chronicle keeps.
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
    Trip(Box<Trip>),
    Act(RuntimeMaintenanceRecord),
    Incident(RuntimeIncident),
}

/// A walk through the journal.
#[derive(Debug)]
pub struct Chronicle {
    focus: Focus,
    kept: VecDeque<Kept>,
    begun: bool,
    trip: Option<Trip>,
    incidents: Incidents,
    active: Option<Version>,
    asked: Option<String>,
    records: u64,
    evolutions: u64,
    /// An operator is asked what is Active.
    held: bool,
}

impl Chronicle {
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
            begun: false,
            trip: None,
            incidents: Incidents::default(),
            active: None,
            asked: None,
            records: 0,
            evolutions: 0,
            held: false,
        }
    }

    /// Takes the next record of the journal.
    pub fn take(&mut self, record: &Record<Entry>) {
        let (seq, at, entry) = (record.seq, record.at, &record.body);
        let before = self.phase();
        self.event(seq, at, entry);
        for effect in &entry.effects {
            self.effect(seq, at, effect);
        }
        if self.asks_an_operator(before, entry)
            && let Some(trip) = &mut self.trip
        {
            trip.enter(Phase::AwaitingApproval, seq, at);
        }
    }

    /// Where the lifecycle stood after the last record.
    pub fn phase(&self) -> Phase {
        match &self.trip {
            Some(trip) => trip.phase,
            None if self.held => Phase::Held,
            None if self.begun => Phase::Steady,
            None => Phase::Empty,
        }
    }

    /// The evolution that was under way after the last record.
    pub fn evolution(&self) -> Option<&EvolutionId> {
        self.trip.as_ref().map(|trip| &trip.id)
    }

    /// The incidents that were open after the last record.
    pub fn open_incidents(&self) -> impl Iterator<Item = &RuntimeIncident> {
        self.incidents.open()
    }

    fn event(&mut self, seq: u64, at: Timestamp, entry: &Entry) {
        let event = &entry.event;
        match event {
            Event::Operator { who: Caller::Operator(who), request: Request::Settle { .. } } => {
                self.held = false;
                // What is settled at once is recorded at once; else it is a rollback.
                if !entry.effects.iter().any(|effect| matches!(effect, Effect::Record(_) | Effect::Install { .. })) {
                    self.begin_rollback(seq, at, format!("operator:{who}"));
                }
            }
            Event::Operator { who: Caller::Operator(who), request } => {
                self.operator(seq, at, format!("operator:{who}"), request);
            }
            Event::Operator { who: Caller::Supervised { .. }, .. } => {}
            Event::Held(reality) => {
                (self.held, self.begun) = (true, true);
                self.evolutions = self.evolutions.max(reality.numbered);
                self.incidents.number_behind(reality.numbered);
            }
            // In format 1.1 this ended the window. Later, what does not count is not recorded.
            Event::Found { slot: None, finding } if self.phase() == Phase::Observing && finding.evolve => {}
            Event::Found { finding, .. } => self.incidents.found(at, finding, self.active.as_ref()),
            Event::PlanDone { plan, took_us } => {
                let Some(trip) = self.trip.as_mut().filter(|trip| trip.plan == Some(*plan)) else { return };
                trip.note(format!("switched in {took_us} µs"));
                if trip.phase == Phase::Promoting {
                    trip.enter(Phase::Observing, seq, at);
                }
            }
            Event::PlanFailed { plan, reason } => {
                if let Some(trip) = self.trip.as_mut().filter(|trip| trip.plan == Some(*plan)) {
                    trip.note(format!("the switch failed: {reason}"));
                }
            }
            Event::Judged { reason, .. } => {
                if let Some(trip) = &mut self.trip
                    && matches!(trip.phase, Phase::Canary | Phase::Observing | Phase::AwaitingApproval)
                {
                    trip.note(reason.clone());
                }
            }
            Event::Aimed { evolution, rev, .. } => {
                if let Some(trip) = self.trip.as_mut().filter(|trip| trip.id == *evolution) {
                    trip.rev = Some(rev.clone());
                }
            }
            Event::Diagnosed { evolution, .. }
            | Event::StageReached { evolution, .. }
            | Event::BuildPaused { evolution, .. }
            | Event::Built { evolution, .. }
            | Event::BuildFailed { evolution, .. }
            | Event::Validated { evolution, .. } => {
                let parent = self.active.as_ref();
                if let Some(trip) = self.trip.as_mut().filter(|trip| trip.id == *evolution) {
                    trip.answer(seq, at, event, parent);
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
            | Event::PlanBusy { .. }
            | Event::Due(_) => {}
        }
    }

    fn operator(&mut self, seq: u64, at: Timestamp, by: String, request: &Request) {
        match request {
            Request::Evolve { .. } => self.asked = Some(by),
            Request::Approve { .. } => {
                if let Some(trip) = &mut self.trip {
                    trip.note(format!("approved by {by}"));
                }
            }
            Request::Reject { id, .. } => {
                if let Some(closed) = self.incidents.close(id) {
                    self.keep_incident(closed);
                }
            }
            Request::Rollback { .. } if self.trip.is_none() => self.begin_rollback(seq, at, by),
            Request::Rollback { .. }
            | Request::Pause
            | Request::Resume
            | Request::Lift { .. }
            | Request::Settle { .. } => {}
        }
    }

    fn begin_rollback(&mut self, seq: u64, at: Timestamp, by: String) {
        let id = EvolutionId::numbered(self.evolutions + 1);
        let mut trip = self.begin(id, at);
        trip.asked_by = Some(by);
        trip.is_rollback = true;
        trip.enter(Phase::RollingBack, seq, at);
        self.trip = Some(trip);
    }

    fn effect(&mut self, seq: u64, at: Timestamp, effect: &Effect) {
        match effect {
            Effect::Install { evolution } => self.work(evolution, at).enter(Phase::Installing, seq, at),
            Effect::Diagnose { evolution, incident, .. } => {
                let asked = if self.evolution() == Some(evolution) { None } else { self.asked.take() };
                let trip = self.work(evolution, at);
                trip.incident.clone_from(incident);
                trip.asked_by = trip.asked_by.take().or(asked);
                trip.enter(Phase::Diagnosing, seq, at);
            }
            Effect::Build { evolution, candidate, blueprint, rev, .. } => {
                let trip = self.work(evolution, at);
                trip.candidate_id = Some(candidate.clone());
                blueprint.clone_into(&mut trip.blueprint);
                trip.rev.clone_from(rev);
                trip.enter(Phase::Building, seq, at);
            }
            Effect::Validate { evolution, report, .. } => {
                let trip = self.work(evolution, at);
                if trip.judging.as_ref() != Some(report) {
                    trip.judging = Some(report.clone());
                    trip.begin(Phase::Validating, "validating", seq, at);
                } else {
                    trip.enter(Phase::Validating, seq, at);
                }
            }
            Effect::PrepareGeneration { .. } => {
                if let Some(trip) = self.trip.as_mut().filter(|trip| trip.phase != Phase::Installing) {
                    trip.enter(Phase::Canary, seq, at);
                }
            }
            // The beginning of a step. In format 1.1 it had the name of what puts in place what was there before.
            Effect::Route { routing } | Effect::Restore { routing, generation: None } if routing.other_ppm > 0 => {
                if let Some(trip) = &mut self.trip {
                    let percent = f64::from(routing.other_ppm) / 10_000.0;
                    trip.begin(Phase::Canary, &format!("canary {percent} %"), seq, at);
                }
            }
            Effect::Execute(plan) => {
                if let Some(trip) = &mut self.trip {
                    trip.plan = Some(plan.number);
                    let forward = plan.report.is_some();
                    trip.enter(if forward { Phase::Promoting } else { Phase::RollingBack }, seq, at);
                }
            }
            Effect::GiveUp { reason } => {
                if let Some(trip) = &mut self.trip {
                    trip.note(format!("given up: {}", narrate::reason(reason)));
                }
            }
            Effect::Record(maintenance) => self.record(seq, at, maintenance),
            Effect::Route { .. }
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

    /// A phase that waits for an operator has no effect of its own. It follows from a passing report that nothing
    /// follows from, and from a bound whose only consequence is to look again later.
    fn asks_an_operator(&self, before: Phase, entry: &Entry) -> bool {
        let Some(trip) = self.trip.as_ref().filter(|trip| trip.phase == before) else { return false };
        match &entry.event {
            Event::Validated { evolution, report } => {
                before == Phase::Validating
                    && trip.id == *evolution
                    && report.verdict == Verdict::Pass
                    && trip.candidate.as_ref().is_some_and(|it| it.version.store_path == report.store_path)
            }
            Event::BuildPaused { evolution, .. } => before == Phase::Building && trip.id == *evolution,
            Event::Due(Timer::Phase) => {
                matches!(before, Phase::Canary | Phase::Observing)
                    && entry.effects.iter().any(|it| matches!(it, Effect::SetTimer { timer: Timer::Recheck, .. }))
            }
            _ => false,
        }
    }

    /// The evolution with this id: the one under way, or a new one.
    fn work(&mut self, id: &EvolutionId, at: Timestamp) -> &mut Trip {
        if self.trip.as_ref().is_some_and(|trip| trip.id != *id) {
            self.end_trip();
        }
        if self.trip.is_none() {
            self.trip = Some(self.begin(id.clone(), at));
        }
        self.trip.as_mut().expect("begun just now")
    }

    fn begin(&mut self, id: EvolutionId, at: Timestamp) -> Trip {
        let number = id.0.rsplit('_').next().and_then(|digits| digits.parse().ok());
        self.evolutions = number.unwrap_or(self.evolutions + 1);
        self.begun = true;
        Trip::new(id, at, self.active.clone())
    }

    fn record(&mut self, seq: u64, at: Timestamp, maintenance: &Maintenance) {
        self.records += 1;
        let id = RecordId::numbered(self.records);
        let record = to_record(id, seq, at, maintenance);
        self.active.clone_from(&maintenance.to);
        if maintenance.action == MaintenanceAction::Promoted
            && let Some(closed) = maintenance.incident.as_ref().and_then(|id| self.incidents.close(&id.0))
        {
            self.keep_incident(closed);
        }
        // A restart during an evolution is an act of its own and does not end it.
        let ends = maintenance.action != MaintenanceAction::Restarted;
        let trip = self.trip.as_mut().filter(|trip| ends && Some(&trip.id) == maintenance.evolution.as_ref());
        let is_entry = trip.is_none();
        if let Some(trip) = trip {
            trip.end(at, maintenance);
            self.end_trip();
        }
        let wanted = match &self.focus {
            Focus::Last(_) => is_entry,
            Focus::One(id) => record.id.0 == *id,
        };
        if wanted {
            self.keep(Kept::Act(record));
        }
    }

    fn end_trip(&mut self) {
        let Some(trip) = self.trip.take() else { return };
        let wanted = match &self.focus {
            Focus::Last(_) => true,
            Focus::One(id) => trip.answers_to(id),
        };
        if wanted {
            self.keep(Kept::Trip(Box::new(trip)));
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
    pub fn history(&self) -> Vec<HistoryEntry> {
        let Focus::Last(limit) = self.focus else { return Vec::new() };
        let kept = self.kept.iter().filter_map(|kept| match kept {
            Kept::Trip(trip) => Some(trip.entry()),
            Kept::Act(record) => Some(act_entry(record)),
            Kept::Incident(_) => None,
        });
        let mut entries: Vec<HistoryEntry> = kept.chain(self.trip.as_ref().map(Trip::entry)).collect();
        entries.reverse();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.started_at));
        entries.truncate(limit);
        entries
    }

    /// The object that this chronicle is [`of`](Self::of). `lookup` gives what is kept as a file of that id: a context, a
    /// report, a candidate, or an incident with its evidence.
    pub fn show(&self, mut lookup: impl FnMut(&str) -> Option<Value>) -> Option<ShowReply> {
        let Focus::One(id) = &self.focus else { return None };
        let under_way = self.trip.as_ref().filter(|trip| trip.answers_to(id));
        let trip = under_way.or_else(|| {
            self.kept.iter().find_map(|kept| if let Kept::Trip(trip) = kept { Some(&**trip) } else { None })
        });
        let (kind, object, evidence) = match id.split('_').next()? {
            "evo" => (ShowKind::Evolution, serde_json::to_value(trip?.view()).ok()?, Vec::new()),
            "inc" => {
                let mut incident = self.incident(id)?.clone();
                if let Some(filed) = lookup(id).and_then(read::<RuntimeIncident>) {
                    incident.evidence = filed.evidence;
                }
                let evidence = incident.evidence.clone();
                (ShowKind::Incident, serde_json::to_value(incident).ok()?, evidence)
            }
            "cand" => {
                let told = || serde_json::to_value(trip?.candidate.as_ref()?).ok();
                (ShowKind::Candidate, lookup(id).or_else(told)?, Vec::new())
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
                    Kept::Act(record) => Some(record),
                    Kept::Trip(_) | Kept::Incident(_) => None,
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
            Kept::Trip(_) | Kept::Act(_) => None,
        });
        self.incidents.open().find(|incident| incident.id.0 == id).or(closed)
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

fn to_record(id: RecordId, seq: u64, at: Timestamp, maintenance: &Maintenance) -> RuntimeMaintenanceRecord {
    RuntimeMaintenanceRecord {
        schema: SCHEMA.to_owned(),
        id,
        incident_id: maintenance.incident.clone(),
        evolution_id: maintenance.evolution.clone(),
        candidate_id: maintenance.candidate.clone(),
        validation_id: maintenance.report.clone(),
        action: maintenance.action,
        decided_by: maintenance.decided_by.clone(),
        reason: narrate::reason(&maintenance.reason),
        from: maintenance.from.clone(),
        to: maintenance.to.clone(),
        at,
        journal_seq: seq,
    }
}

fn act_entry(record: &RuntimeMaintenanceRecord) -> HistoryEntry {
    HistoryEntry {
        schema: SCHEMA.to_owned(),
        id: record.id.0.clone(),
        started_at: record.at,
        finished_at: Some(record.at),
        action: Some(record.action),
        summary: record.reason.clone(),
        decided_by: Some(record.decided_by.clone()),
        incident_id: record.incident_id.clone(),
        candidate_id: record.candidate_id.clone(),
        report_id: record.validation_id.clone(),
        from: record.from.clone(),
        to: record.to.clone(),
    }
}
