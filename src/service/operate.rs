//! What callers ask of the loop, and what people are told.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::failure::reason;
use super::jobs::{self, BuildOrder, DiagnosisFacts, ValidationOrder};
use super::shell::Shell;
use super::sync::lock;
use crate::history::chronicle::Chronicle;
use crate::history::entry::Entry;
use crate::interface::evolution::EvolutionError;
use crate::interface::operations::{HistoryEntry, MonitorEvent, OperationsError, ShowReply};
use crate::interface::types::{
    CandidateId, CandidateRuntime, ContextId, EvolutionContext, EvolutionId, IncidentId, ReportId, SCHEMA,
    ValidationReport, Version,
};
use crate::journal::{Reader, Record};
use crate::lifecycle::{Caller, Effect, Event, Lifecycle, Quarantined, Refusal, Request, Slot};
use crate::narrate;
use crate::narrate::Weight;
use crate::report::chain;
use crate::state::objects;
use crate::state::paths::Paths;
use crate::time::Timestamp;

/// The pause after an alarm before the next is heard.
const ALARM_PAUSE: Duration = Duration::from_millis(20);

/// Walks through the journal at once: each takes a thread, and the service needs the processors more.
pub(super) const JOURNAL_READERS_MAX: usize = 2;

/// Walks the journal that the supervisor writes meanwhile, as long as somebody waits for what is found.
fn read_journal(
    paths: &Paths,
    mut chronicle: Chronicle,
    is_wanted: impl Fn() -> bool,
) -> Result<Chronicle, OperationsError> {
    let unreadable = |error: crate::journal::Error| OperationsError::Busy { reason: reason(&error, error.hint()) };
    let reader = Reader::open(&paths.journal()).map_err(unreadable)?;
    let take = |record: Record<Entry>| {
        chronicle.take(&record);
        if is_wanted() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    reader.records(1, take).map_err(unreadable)?;
    Ok(chronicle)
}

impl Shell {
    /// An operator's request: refused with a reason, or taken.
    pub(super) fn operator(&mut self, who: Caller, request: Request) -> Result<(String, u64), OperationsError> {
        let generation = |core: &Lifecycle| core.active().map_or(0, |active| active.generation);
        if let Some(evolution) = self.core.answers(&who, &request) {
            return Ok((evolution.0.clone(), generation(&self.core)));
        }
        if let Some(refusal) = self.core.refusal(&who, &request) {
            return Err(self.refused(&refusal));
        }
        let current = |core: &Lifecycle| core.evolution().map(|evolution| evolution.id.0.clone()).unwrap_or_default();
        let about = match &request {
            Request::Reject { id, .. } if self.core.incidents().values().any(|open| open.id.0 == *id) => {
                Some(String::new())
            }
            // It may be over at once.
            Request::Approve { .. } | Request::Reject { .. } => Some(current(&self.core)),
            Request::Evolve { .. }
            | Request::Rollback { .. }
            | Request::Pause
            | Request::Resume
            | Request::Lift { .. }
            | Request::Settle { .. } => None,
        };
        let event = Event::Operator { who, request };
        // Decided at once, so that the answer names what came of it.
        self.take(event).map_err(|(_, why)| OperationsError::Busy { reason: why })?;
        let evolution = about.unwrap_or_else(|| current(&self.core));
        Ok((evolution, generation(&self.core)))
    }

    fn refused(&self, refusal: &Refusal) -> OperationsError {
        match refusal {
            Refusal::NotAllowed { .. } => OperationsError::NotAllowed { reason: refusal.to_string() },
            Refusal::WrongPhase { what, hint, .. } => OperationsError::WrongPhase {
                phase: self.core.phase().into(),
                hint: format!("cannot {what} now: {hint}"),
            },
            Refusal::NotFound { name, .. } => OperationsError::NotFound { id: name.clone() },
            Refusal::Quarantined { content } => OperationsError::Invalid {
                field: "rev".to_owned(),
                reason: format!("{content} is in quarantine; {}", refusal.hint()),
            },
        }
    }

    /// The last entries.
    pub(super) fn history(&self, limit: u64, reply: oneshot::Sender<Result<Vec<HistoryEntry>, OperationsError>>) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.recall(Chronicle::last(limit), reply, |chronicle, _| Ok(chronicle.history()));
    }

    /// One object, of the journal and the files beside it.
    pub(super) fn show(&self, id: String, reply: oneshot::Sender<Result<ShowReply, OperationsError>>) {
        self.recall(Chronicle::of(&id), reply, |chronicle, paths| {
            let shown = chronicle.show(|id| objects::read(paths, id));
            shown.ok_or(OperationsError::NotFound { id })
        });
    }

    /// Reads the journal beside the loop, for it may be long, and tells what was found in it.
    fn recall<T: Send + 'static>(
        &self,
        chronicle: Chronicle,
        reply: oneshot::Sender<Result<T, OperationsError>>,
        tell: impl FnOnce(Chronicle, &Paths) -> Result<T, OperationsError> + Send + 'static,
    ) {
        let (paths, readers) = (self.tools.paths.clone(), Arc::clone(&self.journal_readers));
        tokio::spawn(async move {
            // Nobody closes it.
            let Ok(turn) = readers.acquire_owned().await else { return };
            tokio::task::spawn_blocking(move || {
                let read = read_journal(&paths, chronicle, || !reply.is_closed());
                let _ = reply.send(read.and_then(|chronicle| tell(chronicle, &paths)));
                drop(turn);
            });
        });
    }

    /// Tells everyone who listens what was decided.
    pub(super) fn tell(&self, seq: u64, at: Timestamp, entry: &Entry) {
        let (kind, text) = narrate::event(&entry.event, &self.core);
        tracing::debug!(seq, kind, "{text}");
        self.tell_story(&entry.event, &entry.effects);
        self.send(seq, at, kind, text, serde_json::to_value(entry).unwrap_or_default());
        self.signals.status(&super::status::line(&self.core));
    }

    pub(super) fn tell_story(&self, event: &Event, effects: &[Effect]) {
        for (weight, line) in narrate::lines(event, effects, &self.core) {
            match weight {
                Weight::Warning => tracing::warn!("{line}"),
                Weight::Step => tracing::info!("{line}"),
            }
        }
    }

    /// Progress is told and forgotten.
    pub(super) fn tell_progress(&self, text: String, done: Option<(u64, u64)>) {
        let data = match done {
            Some((done, total)) => serde_json::json!({ "done": done, "total": total }),
            None => serde_json::json!({}),
        };
        tracing::debug!("{text}");
        self.send(0, self.clock.now(), "progress", text, data);
    }

    fn send(&self, seq: u64, at: Timestamp, kind: &str, text: String, data: serde_json::Value) {
        let event = MonitorEvent { schema: SCHEMA.to_owned(), seq, at, kind: kind.to_owned(), text, data };
        // Nobody listens more often than not.
        let _ = self.listeners.send(event);
    }

    /// A process of an instance reached for the operator's socket.
    pub(super) fn on_intruder(&mut self, detail: String) {
        tracing::warn!(detail, "a process of the runtime called the control socket");
        if let Some(slot) = self.core.active_slot() {
            self.anomaly(slot, "control_socket", detail);
        }
    }

    /// Somebody touched a listener.
    pub(super) fn on_alarm(&mut self, tampering: std::io::Result<crate::runtime::traffic::Tampering>) {
        let detail = match tampering {
            Ok(tampering) => format!("{tampering:?}"),
            Err(error) => format!("the alarm failed: {error}"),
        };
        // One that tampers all the time, or cannot be mended, must not keep the loop from all else.
        self.alarm_at = Some(Instant::now() + ALARM_PAUSE);
        tracing::error!("a listener was tampered with and is put in order: {detail}");
        let mut traffic = lock(&self.traffic);
        let repaired = traffic.repair(&mut **lock(&self.store));
        drop(traffic);
        if let Err(error) = repaired {
            tracing::error!(error = chain(&error), "a listener could not be put in order");
        }
        self.watch_listeners();
        let slot = self.core.trial_slot().or(self.core.active_slot());
        if let Some(slot) = slot {
            self.anomaly(slot, "listener_tampering", detail);
        }
    }

    /// Watches the sockets that there are now. Those that were replaced would tell of their own end.
    pub(super) fn watch_listeners(&mut self) {
        let traffic = lock(&self.traffic);
        if traffic.alarm_is_stale(&self.alarm) {
            match traffic.alarm() {
                Ok(alarm) => self.alarm = alarm,
                Err(error) => tracing::error!(%error, "listeners are not watched as they are now"),
            }
        }
    }

    /// What a diagnosis begins with.
    pub(super) fn diagnosis_facts(
        &self,
        evolution: Option<&EvolutionId>,
        incident: Option<IncidentId>,
        slot: Option<Slot>,
        active: Option<Version>,
    ) -> DiagnosisFacts {
        let found = incident.as_ref().and_then(|id| self.core.incidents().values().find(|open| open.id == *id));
        let interface = slot.filter(|_| self.tools.config.health.interface.is_some());
        let interface =
            interface.and_then(|slot| lock(&self.traffic).interface_path(slot.into()).map(std::path::Path::to_owned));
        let number = evolution.map(|evolution| evolution.0.replacen("evo", "ctx", 1));
        DiagnosisFacts {
            id: ContextId(number.unwrap_or_else(|| format!("ctx_{}", self.journal.last_seq()))),
            incident: found.map(|open| open.to_incident(&self.tools.config.runtime.name)),
            log: slot.and_then(|slot| self.occupants.last_log(slot)),
            exit_status: self.last_exit.clone(),
            health: self.watch.series(),
            active,
            interface,
            at: self.clock.now(),
        }
    }

    /// What a build begins with.
    pub(super) fn build_order(
        &self,
        evolution: EvolutionId,
        candidate: CandidateId,
        blueprint: String,
        rev: Option<String>,
        checkpoint: Option<String>,
        approved: bool,
    ) -> BuildOrder {
        let current = self.core.evolution();
        let incident = current.and_then(|current| current.incident.clone());
        let summary = incident.as_ref().and_then(|id| {
            self.core.incidents().values().find(|open| open.id == *id).map(|open| open.finding.summary.clone())
        });
        let message = match (&incident, summary) {
            (Some(id), Some(summary)) => format!("Repair {id}: {summary}"),
            _ => format!("Candidate {candidate}"),
        };
        BuildOrder {
            context: Some(self.tools.paths.context(incident.as_ref(), &evolution.0.replacen("evo", "ctx", 1))),
            evolution,
            candidate,
            blueprint,
            rev,
            checkpoint,
            approved,
            active: self.active_version(),
            incident,
            context_digest: current.and_then(|current| current.context.clone()),
            asked_before: self.core.asked_before().cloned().collect(),
            refused_before: self
                .core
                .refused_before()
                .into_iter()
                .map(|(id, why)| (id, narrate::reason(&why)))
                .collect(),
            quarantine: self.core.quarantine().iter().map(|it| (it.tree.clone(), quarantined(it))).collect(),
            at: current.map_or(Timestamp::default(), |current| current.since),
            message,
        }
    }

    fn active_version(&self) -> Version {
        self.core.active().map(|active| active.version.clone()).unwrap_or_default()
    }

    /// `CollectEvolutionContext` of the facade.
    pub(super) fn ask_context(
        &self,
        incident: IncidentId,
        reply: oneshot::Sender<Result<EvolutionContext, EvolutionError>>,
    ) {
        if !self.core.incidents().values().any(|open| open.id == incident) {
            let _ = reply.send(Err(EvolutionError::UnknownIncident { incident_id: incident.0 }));
            return;
        }
        let evolution = self.core.evolution().map(|current| &current.id);
        let active = self.core.active().map(|active| active.version.clone());
        let facts = self.diagnosis_facts(evolution, Some(incident), self.core.active_slot(), active);
        let tools = self.tools.clone();
        tokio::spawn(async move {
            let collected = jobs::diagnose_now(&tools, facts).await;
            let _ = reply.send(Ok(collected.context));
        });
    }

    /// Why nobody from outside may build or judge now.
    fn busy(&self) -> Option<EvolutionError> {
        if self.core.active().is_none() {
            return Some(EvolutionError::NotAvailable { reason: "nothing is Active yet".to_owned() });
        }
        if self.core.is_held() {
            let reason = "the journal is behind reality, and an operator has to say what is Active".to_owned();
            return Some(EvolutionError::NotAvailable { reason });
        }
        self.core.evolution().map(|current| EvolutionError::Busy { evolution_id: current.id.0.clone() })
    }

    /// `BuildCandidateRuntime` of the facade: a candidate beside the lifecycle. It is never promoted: only an evolution
    /// of the supervisor's own is.
    pub(super) fn ask_build(
        &mut self,
        context: EvolutionContext,
        reply: oneshot::Sender<Result<CandidateRuntime, EvolutionError>>,
    ) {
        if let Some(error) = self.busy() {
            let _ = reply.send(Err(error));
            return;
        }
        self.asides += 1;
        let (seq, aside) = (self.journal.last_seq(), self.asides);
        let candidate = CandidateId(format!("cand_x{seq}-{aside}"));
        let incident = context.incident_id.clone();
        let config = &self.tools.config.blueprints;
        let blueprint = match &incident {
            Some(_) => config.incident.clone().unwrap_or_else(|| config.upgrade.clone()),
            None => config.upgrade.clone(),
        };
        let evolution = EvolutionId(format!("evo_x{seq}-{aside}"));
        let needed = self.tools.needed.aside(&evolution, &candidate);
        let mut order = self.build_order(evolution, candidate.clone(), blueprint, None, None, false);
        order.context = Some(self.tools.paths.context(incident.as_ref(), &context.id.0));
        order.incident = incident;
        order.context_digest = Some(context.digest);
        order.at = self.clock.now();
        let (tools, inputs) = (self.tools.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let _needed = needed;
            let made = jobs::build(tools.clone(), order, inputs).await;
            let answer = match made {
                Some(Event::Built { .. }) => objects::read(&tools.paths, &candidate.0)
                    .ok_or_else(|| EvolutionError::NotAvailable { reason: "the candidate was not kept".to_owned() }),
                Some(Event::BuildPaused { stage, .. }) => Err(EvolutionError::BuildFailed {
                    stage,
                    reason: "the blueprint asks an operator, and nobody is there to ask".to_owned(),
                    log: String::new(),
                }),
                Some(Event::BuildFailed { reason, .. }) => {
                    Err(EvolutionError::BuildFailed { stage: "blueprint".to_owned(), reason, log: String::new() })
                }
                _ => Err(EvolutionError::NotAvailable { reason: "the build gave no answer".to_owned() }),
            };
            let _ = reply.send(answer);
        });
    }

    /// `ValidateCandidate` of the facade.
    pub(super) fn ask_validate(
        &mut self,
        candidate: CandidateRuntime,
        reply: oneshot::Sender<Result<ValidationReport, EvolutionError>>,
    ) {
        if let Some(error) = self.busy() {
            let _ = reply.send(Err(error));
            return;
        }
        let known: Option<CandidateRuntime> = objects::read(&self.tools.paths, &candidate.id.0);
        if known.is_none_or(|known| known.version != candidate.version) {
            let _ = reply.send(Err(EvolutionError::UnknownCandidate { candidate_id: candidate.id.0 }));
            return;
        }
        self.asides += 1;
        let needed = self.tools.needed.aside(&candidate.evolution_id, &candidate.id);
        let order = ValidationOrder {
            report: ReportId(format!("val_x{}-{}", self.journal.last_seq(), self.asides)),
            candidate: candidate.id,
            version: candidate.version,
            active: self.active_version(),
            incident: candidate.incident_id,
        };
        let (tools, inputs) = (self.tools.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let _needed = needed;
            let _ = reply.send(Ok(jobs::judge(&tools, &order, &inputs).await));
        });
    }
}

/// Why content must not be built again, for whoever has made it once more.
fn quarantined(entry: &Quarantined) -> String {
    format!("these files are in quarantine as {}: {}", entry.candidate, narrate::reason(&entry.reason))
}
