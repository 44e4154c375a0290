//! Answers an operator's questions: the status, the history and the objects.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::clock::Clock;
use super::executor::Executor;
use super::failure::reason;
use super::sync::lock;
use crate::history::History;
use crate::history::entry::Entry;
use crate::interface::operations::{
    BudgetStatus, EvolutionStatus, HistoryEntry, InstanceState, InstanceStatus, ListenStatus, OperationsError,
    QuarantineEntry, ShowReply, Status, SupervisorStatus, TrafficStatus, VersionStatus,
};
use crate::interface::queue::Reply;
use crate::interface::types::{ProcessUsage, Role, RuntimeHealthReport, SCHEMA, Version};
use crate::journal::{Reader, Record};
use crate::lifecycle::{Deployed, Lifecycle, Phase, RunState, Slot, WHOLE_PPM};
use crate::narrate;
use crate::process;
use crate::state::objects;
use crate::state::paths::Paths;
use crate::time::{Timestamp, millis};

/// The bound of queries that read the journal at the same time. Each needs a thread, and the service needs the
/// processors more.
const JOURNAL_READERS_MAX: usize = 2;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

/// A read-only view of the state and its surroundings.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The state of the lifecycle.
    pub core: &'a Lifecycle,
    /// The executor, with the running instances.
    pub executor: &'a Executor,
    /// Why the journal cannot be written; `None` while it can.
    pub stalled: Option<&'a str>,
    /// The clock.
    pub clock: Clock,
    /// The number of the journal's last record.
    pub last_seq: u64,
}

impl View<'_> {
    /// The whole state in one view.
    fn status(&self, health: Option<RuntimeHealthReport>, started_at: Timestamp) -> Status {
        let core = self.core;
        let (waits_for, deadline) = core.waits_for();
        let active_slot = core.active_slot();
        let candidate = core.evolution().filter(|_| !matches!(core.phase(), Phase::Observing { .. }));
        let candidate = candidate.filter(|_| !matches!(core.phase(), Phase::RollingBack { .. }));
        let candidate = candidate.and_then(|evolution| evolution.version.clone());
        let runtime = &self.executor.tools.config.runtime.name;
        Status {
            schema: SCHEMA.to_owned(),
            runtime: runtime.clone(),
            phase: core.phase().into(),
            phase_since: core.phase_since(),
            waits_for: waits_for.as_ref().map(narrate::reason),
            deadline,
            active: core.active().map(|deployed| self.deployed(deployed, Role::Active, active_slot)),
            candidate: candidate.map(|version| {
                self.version_status(&version, Role::Candidate, None, core.trial_slot().or(active_slot.map(Slot::other)))
            }),
            previous: core
                .previous()
                .map(|deployed| self.deployed(deployed, Role::Previous, active_slot.map(Slot::other))),
            health,
            open_incidents: core.incidents().values().map(|open| open.to_incident(runtime)).collect(),
            evolution: core.evolution().map(|evolution| EvolutionStatus {
                id: evolution.id.clone(),
                incident_id: evolution.incident.clone(),
                blueprint: evolution.blueprint.clone(),
                step: evolution.checkpoint.as_ref().map(|(stage, _)| stage.clone()),
                attempt: u64::from(evolution.validations.max(1)),
                candidate_id: evolution.version.as_ref().map(|_| evolution.candidate.clone()),
                report_id: evolution.report.as_ref().map(|report| report.id.clone()),
                shadow: self.executor.shadow.summary(),
                started_at: evolution.since,
            }),
            attention: match self.stalled {
                Some(why) => Some(format!("nothing can be decided: {why}")),
                None => core.attention().map(narrate::reason),
            },
            paused: core.paused(),
            budget: self.budget(),
            quarantined: core.quarantine().len() as u64,
            listen: lock(&self.executor.listeners.traffic)
                .addresses()
                .into_iter()
                .map(|listen| ListenStatus { name: listen.name, address: listen.address.to_string() })
                .collect(),
            recordings: self.executor.recordings.shown(&self.executor.captures),
            state: self.executor.tools.measured.get(),
            supervisor: SupervisorStatus {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at,
                uptime_ms: self.clock.now().ms_since(started_at),
                rss_bytes: process::resident_bytes(),
            },
        }
    }

    /// The requests of users in a slot, by source, and what each source found.
    fn traffic(&self, slot: Slot) -> Vec<TrafficStatus> {
        let mut all = self.executor.monitors.traffic(slot, self.clock.now());
        for (source, found) in self.executor.instances.reports.found(slot) {
            let found = found.clone();
            match all.iter_mut().find(|traffic| traffic.source == source.name()) {
                Some(traffic) => traffic.found = found,
                None => {
                    all.push(TrafficStatus { source: source.name().to_owned(), found, ..TrafficStatus::default() });
                }
            }
        }
        all
    }

    fn deployed(&self, deployed: &Deployed, role: Role, slot: Option<Slot>) -> VersionStatus {
        self.version_status(&deployed.version, role, Some(deployed.generation), slot)
    }

    /// A version, with its instance if `slot` runs this version.
    fn version_status(
        &self,
        version: &Version,
        role: Role,
        generation: Option<u64>,
        slot: Option<Slot>,
    ) -> VersionStatus {
        let slot = slot.filter(|slot| self.core.slot(*slot).version.as_ref() == Some(version));
        let slot = slot.filter(|slot| self.core.slot(*slot).run != RunState::Down);
        let share = slot.and_then(|slot| self.core.routing().map(|routing| routing.share_ppm(slot))).unwrap_or(0);
        VersionStatus {
            version: version.clone(),
            role,
            generation,
            slot: slot.map(|slot| slot.to_string().to_lowercase()),
            share: f64::from(share) / f64::from(WHOLE_PPM),
            instances: slot.and_then(|slot| self.instance(slot, share)).into_iter().collect(),
            traffic: slot.map(|slot| self.traffic(slot)).unwrap_or_default(),
        }
    }

    fn instance(&self, slot: Slot, share: u32) -> Option<InstanceStatus> {
        let state = self.core.slot(slot);
        let running = self.executor.instances.get(slot);
        let uptime_ms = running.map(|it| millis(it.since.elapsed()));
        let usage = self.executor.monitors.usage(slot).unwrap_or_default();
        Some(InstanceStatus {
            id: running.map_or_else(|| state.instance.as_ref().map(|it| it.id.clone()), |it| Some(it.id.clone()))?,
            state: match state.run {
                RunState::Down => return None,
                RunState::Starting => InstanceState::Starting,
                RunState::Ready if share > 0 => InstanceState::Serving,
                RunState::Ready => InstanceState::Standby,
                RunState::Backoff => InstanceState::Backoff,
                RunState::Stopping | RunState::Draining => InstanceState::Stopping,
            },
            started_at: uptime_ms.map(|ms| Timestamp::from_unix_ms(self.clock.now().as_unix_ms().saturating_sub(ms))),
            usage: ProcessUsage {
                pid: running.map(|running| running.pid),
                uptime_ms,
                restarts: Some(state.restarts),
                ..usage
            },
            log_dropped_bytes: running.map(|running| running.log.stats().dropped_bytes),
        })
    }

    fn budget(&self) -> BudgetStatus {
        let now = self.clock.now();
        let per_hour = self.core.policy().map_or(0, |policy| policy.per_hour);
        let recent = self.core.recent().filter(|&begun| now.ms_since(begun) < HOUR_MS);
        let recent: Vec<_> = recent.collect();
        let left = per_hour.saturating_sub(recent.len() as u64);
        BudgetStatus {
            left,
            per_hour,
            next_at: recent.first().filter(|_| left == 0).map(|first| first.plus_ms(HOUR_MS)),
            spent_fingerprints: self.core.spent_fingerprints(),
        }
    }

    /// The entries of the quarantine, newest first.
    pub fn quarantine(&self) -> Vec<QuarantineEntry> {
        let entry = |entry: &crate::lifecycle::Quarantined| QuarantineEntry {
            candidate_id: entry.candidate.clone(),
            tree: entry.tree.clone(),
            store_path: Some(entry.store_path.clone()).filter(|path| !path.is_empty()),
            reason: narrate::reason(&entry.reason),
            at: entry.at,
        };
        self.core.quarantine().iter().rev().map(entry).collect()
    }
}

/// Reads the journal, which the supervisor writes at the same time. It stops early if the caller no longer waits for
/// the answer.
fn read_journal(
    paths: &Paths,
    mut history: History,
    is_awaited: impl Fn() -> bool,
) -> Result<History, OperationsError> {
    let unreadable = |error: crate::journal::Error| OperationsError::Busy { reason: reason(&error, error.hint()) };
    let reader = Reader::open(&paths.journal()).map_err(unreadable)?;
    let take = |record: Record<Entry>| {
        history.take(&record);
        if is_awaited() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    reader.records(1, take).map_err(unreadable)?;
    Ok(history)
}

/// Queries of operators.
pub struct Queries {
    started_at: Timestamp,
    /// Limits how many queries read the journal at once.
    readers: Arc<Semaphore>,
}

/// Takes the answer to an operator's question.
type OperationReply<T> = Reply<T, OperationsError>;

impl Queries {
    /// The queries of a supervisor that starts now.
    pub fn starting(now: Timestamp) -> Self {
        Self { started_at: now, readers: Arc::new(Semaphore::new(JOURNAL_READERS_MAX)) }
    }

    /// The whole state; `health` is Active's.
    pub fn status(&self, view: &View<'_>, health: Option<RuntimeHealthReport>) -> Status {
        view.status(health, self.started_at)
    }

    /// The last entries of the history.
    pub fn history(&self, paths: &Paths, limit: u64, reply: OperationReply<Vec<HistoryEntry>>) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.recall(paths, History::last(limit), reply, |history, _| Ok(history.entries()));
    }

    /// One object, from the journal and from the files of the state directory.
    pub fn show(&self, paths: &Paths, id: String, reply: OperationReply<ShowReply>) {
        self.recall(paths, History::of(&id), reply, |history, paths| {
            let shown = history.show(|id| objects::read(paths, id));
            shown.ok_or(OperationsError::NotFound { id })
        });
    }

    /// Reads the journal in another thread, because it may be long, and answers from it.
    fn recall<T: Send + 'static>(
        &self,
        paths: &Paths,
        history: History,
        reply: OperationReply<T>,
        answer: impl FnOnce(History, &Paths) -> Result<T, OperationsError> + Send + 'static,
    ) {
        let (paths, readers) = (paths.clone(), Arc::clone(&self.readers));
        tokio::spawn(async move {
            // No code closes the semaphore, so this always succeeds.
            let Ok(turn) = readers.acquire_owned().await else { return };
            tokio::task::spawn_blocking(move || {
                let read = read_journal(&paths, history, || reply.is_awaited());
                reply.send(read.and_then(|history| answer(history, &paths)));
                drop(turn);
            });
        });
    }
}
