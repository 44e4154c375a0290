//! The supervisor of one service: the lifecycle decides about an input, the decision is recorded, and then it is
//! executed.
//!
//! [`Service`] holds the whole state of one service, so a process could have two of them. The things that a process has
//! only once (signals, the service manager, the reaper of orphans) are in `daemon`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

use super::announcer::Announcer;
use super::clock::Clock;
use super::commit;
use super::error::StartError;
use super::executor::{Decision, Executor, GaveUp, Queue, Started};
use super::facts::Facts;
use super::failure::reason;
use super::fdstore::StoredFds;
use super::findings;
use super::input::{Input, InstanceEvent};
use super::ledger::Ledger;
use super::operator::{self, Requested};
use super::policy::{GRACE, policy};
use super::queries::{Queries, View};
use super::reach::Reach;
use super::recordings::RecordOrder;
use super::recover;
use super::reload::read_again;
use super::repair;
use super::shutdown;
use super::sockets;
use super::sync::AbortOnDrop;
use crate::health::{self, Signal};
use crate::history::entry::Entry;
use crate::interface::evolution::EvolutionError;
use crate::interface::operations::{GoldenRecording, MonitorEvent, OperationsError};
use crate::interface::types::{PolicyAnomaly, RuntimeHealthReport};
use crate::lifecycle::{Caller, Effect, Event, Lifecycle, Phase, Reality, Request, RunState, Running, Slot, Timer};
use crate::live::Source;
use crate::runtime::exit::Exit;
use crate::time::{Timestamp, millis};

/// Why the supervision of a service ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An operator asked for it.
    Asked,
    /// The process must replace its program.
    Reexec,
    /// The instances continue to run, and the next supervisor takes them over.
    Left,
    /// There is nothing to supervise.
    GaveUp(GaveUp),
}

/// The supervisor of one service.
pub struct Service {
    core: Lifecycle,
    ledger: Ledger,
    clock: Clock,
    queue: Queue,
    executor: Executor,
    received: mpsc::Receiver<Input>,
    announcer: Announcer,
    queries: Queries,
    reach: Reach,
    /// The number of builds and validations that callers from outside have requested.
    external_jobs: u64,
    end: Option<End>,
    /// Whether a write of the journal has failed since the last call of [`Self::wants_repair`].
    wants_repair: bool,
}

/// The parts of a service at its start.
pub struct Parts {
    /// The state after the replay of the journal.
    pub core: Lifecycle,
    /// The journal.
    pub ledger: Ledger,
    /// The clock, not earlier than the journal's last record.
    pub clock: Clock,
    /// Executes effects.
    pub executor: Executor,
    /// The queue of inputs.
    pub received: mpsc::Receiver<Input>,
    /// Whether instances can read the operators' secret.
    pub reach: Reach,
}

impl Service {
    /// A service that has decided nothing yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { core, ledger, clock, executor, received, reach } = parts;
        executor.tools.in_use.update(&core);
        Self {
            core,
            ledger,
            clock,
            queue: Queue::new(),
            executor,
            received,
            announcer: Announcer::default(),
            queries: Queries::starting(clock.now()),
            reach,
            external_jobs: 0,
            end: None,
            wants_repair: false,
        }
    }

    /// Decides about the waiting events, then waits for one input or timer and handles it. Returns the reason if the
    /// service ends. May be cancelled.
    pub async fn turn(&mut self) -> Option<End> {
        self.decide();
        self.executor.instances.release(&self.executor.store.shared);
        if let Some(end) = self.end.take() {
            return Some(end);
        }
        self.executor.listeners.watch();
        let due = self.next_timer();
        let (again_at, look_at) = (self.ledger.again_at(), self.executor.logs.look_at());
        // The branches have no fixed order. So even if a runtime floods one of them, timers and operators get their
        // turn.
        tokio::select! {
            input = self.received.recv() => match input {
                Some(input) => self.handle(input),
                None => unreachable!("the service holds a sender itself"),
            },
            () = sleep_until(due.map(|(_, at)| at)) => {
                if let Some((timer, _)) = due {
                    self.on_due(timer);
                }
            }
            () = sleep_until(again_at) => {}
            () = self.executor.store.lost() => {
                let (socket, inputs) = (self.executor.tools.paths.keeper(), self.executor.inputs.clone());
                self.executor.store.renew(socket, &inputs);
            }
            () = self.executor.logs.lost() => self.executor.renew_logger(),
            () = sleep_until(look_at) => self.executor.look_at_logs(),
            tampering = self.executor.listeners.tampering() => {
                let detail = self.executor.listeners.repair(tampering, &self.executor.store.shared);
                let slot = self.core.trial_slot().or(self.core.active_slot());
                self.anomaly(slot, "listener_tampering", detail);
            }
        }
        None
    }

    /// The timer that is due first, and its time. `None` while nothing can be decided.
    fn next_timer(&self) -> Option<(Timer, Instant)> {
        if self.ledger.stalled().is_some() {
            return None;
        }
        let (timer, at) = self.executor.timers.first()?;
        Some((timer, self.clock.instant(at)))
    }

    /// Decides about each waiting event, in order. The effects of one event may add more. While the journal cannot be
    /// written, the events wait: Active continues to serve, questions are answered, and nothing is decided.
    pub fn decide(&mut self) {
        if self.ledger.is_waiting() {
            return;
        }
        while let Some(event) = self.queue.pop_front() {
            if let Err((event, why)) = self.take(event) {
                self.queue.push_front(event);
                // The cause may be the mode of a file. If the repair restores it, the next try succeeds.
                self.wants_repair = true;
                self.ledger.stall(why);
                return;
            }
            self.ledger.resume();
        }
    }

    /// Decides about one event, records the decision, and executes its effects. If the decision cannot be recorded, it
    /// returns the event and the reason, and the state is unchanged.
    #[expect(
        clippy::result_large_err,
        reason = "the event returns to the queue that it came from; a box would also copy it"
    )]
    fn take(&mut self, event: Event) -> Result<(), (Event, String)> {
        let at = self.clock.now();
        if let Event::Due(timer) = &event {
            self.executor.timers.clear(*timer);
        }
        let mut next = self.core.clone();
        let effects = next.step(at, event.clone());
        if effects.is_empty() && next == self.core {
            // An operator must learn that a commit was not taken, although it changes nothing.
            if matches!(event, Event::Followed { .. }) {
                self.announcer.log(&event, &effects, &self.core);
            }
            return Ok(());
        }
        let entry = Entry::new(event, effects, &next);
        let (seq, started) = match commit::record(&mut self.ledger, &mut self.executor, at, &entry) {
            Ok(recorded) => recorded,
            Err(error) => return Err((entry.event, reason(&error, error.hint()))),
        };
        let before = std::mem::replace(&mut self.core, next);
        self.executor.tools.in_use.update(&self.core);
        // The end of a trial is no effect: older records do not have it, so a replay would find another decision there.
        if self.core.trial_slot().is_none() {
            self.executor.end_trial();
        }
        self.look_at_recordings();
        if let Event::Started { slot, instance } = &entry.event {
            self.monitor(*slot, &instance.id);
        }
        // The effects come before the announcement, so that they do not wait for it.
        self.execute(entry.effects.clone(), seq, at, started);
        let under_way = |core: &Lifecycle| core.evolution().map(|evolution| evolution.id.clone());
        if let Some(ended) = under_way(&before).filter(|ended| under_way(&self.core).as_ref() != Some(ended)) {
            tracing::debug!(%ended, "the evolution has ended; the files that only it needed are removed");
            self.sweep();
        }
        self.announcer.announce(seq, at, &entry, &self.core);
        // After a restart the supervisor must not read again the records that this program cannot replay.
        if self.ledger.wants_snapshot() || matches!(entry.event, Event::Held(_)) {
            self.ledger.snapshot(&self.core);
        }
        Ok(())
    }

    /// Executes the effects of a record. `started` is the instance that was started while the record was written.
    fn execute(&mut self, effects: Vec<Effect>, seq: u64, at: Timestamp, mut started: Option<Started>) {
        if effects.is_empty() {
            return;
        }
        // Only builds and diagnoses need the facts, so no other effect waits for the copy.
        let is_build = |effect: &Effect| matches!(effect, Effect::Build { .. } | Effect::Diagnose { .. });
        let facts = if effects.iter().any(is_build) { Facts::of(&self.core) } else { Facts::default() };
        let decision = Decision { seq, at, facts };
        for effect in effects {
            match (effect, started.take()) {
                (Effect::Start { slot, .. }, Some(instance)) => {
                    self.executor.on_started(slot, instance, &mut self.queue);
                }
                (effect, waiting) => {
                    started = waiting;
                    if let Some(gave_up) = self.executor.execute(effect, &decision, &mut self.queue) {
                        self.end = Some(End::GaveUp(gave_up));
                    }
                }
            }
        }
    }

    /// Monitors the health of the instance in a slot from now on.
    pub fn monitor(&mut self, slot: Slot, instance: &str) {
        let Some(version) = self.core.slot(slot).version.clone() else { return };
        let runtime = findings::runtime_ref(&self.core, &self.executor.tools.config.runtime.name, slot, instance);
        let now = self.clock.now();
        self.executor.monitors.begin(slot, &version.store_path, runtime, now, self.core.incidents());
    }

    /// Handles one input.
    fn handle(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.queue.push_back(event),
            Input::Instance { slot, id, event } => self.on_instance(slot, &id, event),
            Input::Progress { text, done } => self.announcer.progress(self.clock.now(), text, done),
            Input::Operation(call) => call.handle(self),
            Input::Evolution(call) => call.handle(self),
            Input::Keeper(started) => self.executor.on_keeper(started),
            Input::Logger(started) => self.executor.on_logger(started),
            Input::Tap(news) => {
                if let Some((slot, sample)) = self.executor.on_tap(news) {
                    self.observe(slot, Signal::Traffic(Source::Tap, Box::new(sample)));
                }
            }
            Input::Recorded(written) => {
                let now = self.clock.now();
                let Executor { recordings, captures, tools, .. } = &mut self.executor;
                recordings.on_written(written, captures, tools, now);
            }
            Input::Intruder(detail) => {
                tracing::warn!(detail, "a process of the runtime called the control socket");
                self.anomaly(self.core.active_slot(), "control_socket", detail);
            }
        }
    }

    fn on_instance(&mut self, slot: Slot, id: &str, event: InstanceEvent) {
        match event {
            InstanceEvent::Crashed { store_path, exit } => self.on_crash(slot, &store_path, exit),
            InstanceEvent::Stopped | InstanceEvent::Exited(..) if self.executor.instances.dismiss(id) => {}
            event if self.executor.instances.id(slot) != Some(id) => tracing::debug!(%slot, id, ?event, "stale"),
            InstanceEvent::Signal(signal) => self.observe(slot, signal),
            InstanceEvent::Found(source, found) => self.executor.instances.reports.has_found(slot, source, found),
            InstanceEvent::Ready => {
                self.observe(slot, Signal::Ready(true));
                self.queue.push_back(Event::Ready { slot });
            }
            InstanceEvent::Extends(by) => {
                // An instance that stops has a timeout of its own, which expires first.
                let grace = if self.core.slot(slot).run == RunState::Stopping { GRACE } else { Duration::ZERO };
                self.executor.instances.reports.extends(slot, id, by + grace);
            }
            InstanceEvent::NotYet(detail) => self.executor.instances.reports.is_not_ready(slot, detail),
            InstanceEvent::Exited(exit, ran_ms) => self.on_exited(slot, &exit, ran_ms),
            InstanceEvent::Stopped => {
                let stopped = self.executor.stopped(slot);
                self.queue.push_back(stopped);
            }
        }
    }

    fn on_exited(&mut self, slot: Slot, exit: &Exit, ran_ms: u64) {
        if !self.executor.instances.drains(slot) {
            self.executor.last_exit = Some(exit.to_string());
        }
        self.executor.instances.remove(slot);
        self.queue.push_back(Event::Exited { slot, exit: exit.to_string(), ran_ms });
    }

    /// A health signal of the instance in a slot.
    fn observe(&mut self, slot: Slot, mut signal: Signal) {
        self.executor.without_own(slot, &mut signal);
        let now = self.clock.now();
        let found = self.executor.monitors.observe(slot, now, signal);
        self.found(slot, found);
    }

    /// Handles a crash, after the last output of the instance was read. The version may already run again.
    fn on_crash(&mut self, slot: Slot, store_path: &str, exit: health::Exit) {
        if self.executor.monitors.is_of(slot, store_path) {
            self.observe(slot, Signal::Exited(exit));
            if matches!(self.core.slot(slot).run, RunState::Starting | RunState::Ready) {
                self.observe(slot, Signal::Restarted);
            }
        }
    }

    fn found(&mut self, slot: Slot, found: Vec<health::Finding>) {
        // While the journal cannot be written, events wait in the queue, and findings would fill it without a bound. A
        // fault that persists is found again.
        if self.ledger.stalled().is_none() {
            let event = |finding: health::Finding| Event::Found { slot: Some(slot), finding: finding.into() };
            self.queue.extend(found.into_iter().map(event));
        }
        if self.core.trial_slot().is_some() {
            let failed = self.executor.failure(self.clock.now());
            self.queue.extend(failed);
        }
    }

    /// A process of an instance did something that no instance may do.
    fn anomaly(&mut self, slot: Option<Slot>, kind: &str, detail: String) {
        let Some(slot) = slot else { return };
        let anomaly = PolicyAnomaly { kind: kind.to_owned(), detail };
        self.observe(slot, Signal::PolicyAnomaly(anomaly));
    }

    /// Handles a due timer. If it is the timer of a phase and an instance has asked for more time, the phase is
    /// extended instead.
    fn on_due(&mut self, timer: Timer) {
        let before = self.queue.len();
        for slot in Slot::ALL.into_iter().filter(|_| timer == Timer::Phase) {
            let instances = &mut self.executor.instances;
            let id = instances.id(slot).map(str::to_owned);
            if let Some(left) = instances.reports.take_extension(slot, id.as_deref()) {
                self.queue.push_back(Event::Extended { slot, by_ms: millis(left) });
            }
        }
        if self.queue.len() == before {
            self.queue.push_back(Event::Due(timer));
        }
    }

    /// Called once a second. It checks usage, windows, logs and the journal.
    pub fn tick(&mut self) {
        let now = self.clock.now();
        self.executor.look_for_unanswered();
        self.executor.monitors.block(now);
        for slot in Slot::ALL {
            let found = self.executor.monitors.tick(slot, now);
            self.found(slot, found);
        }
        if let Some(report) = self.health() {
            self.executor.monitors.push(report);
        }
        if self.executor.logs.look_at().is_none() {
            self.executor.look_at_logs();
        }
        self.executor.look_at_tap(self.core.trial_slot().is_some());
        self.look_at_recordings();
        self.ledger.look(&self.executor.tools.paths);
    }

    /// Pauses or continues the recordings, and writes what is due. Nothing is recorded while a version is under trial, or while
    /// one is taken back.
    pub fn look_at_recordings(&mut self) {
        let is_paused = self.core.trial_slot().is_some() || matches!(self.core.phase(), Phase::RollingBack { .. });
        self.executor.look_at_recordings(self.core.active_slot(), is_paused, self.clock.now());
    }

    /// Begins a recording.
    ///
    /// # Errors
    /// If the order is impossible, or a recording is under way.
    pub fn record(&mut self, order: &RecordOrder) -> Result<GoldenRecording, OperationsError> {
        if self.core.active().is_none() {
            let hint = "a golden run is recorded of Active: wait until a version is Active".to_owned();
            return Err(OperationsError::WrongPhase { phase: self.core.phase().into(), hint });
        }
        let begun = self.executor.recordings.record(order, &self.executor.tools, self.clock.now());
        self.look_at_recordings();
        begun
    }

    /// The number of ticks since the last record.
    pub const fn quiet_ticks(&self) -> u32 {
        self.ledger.looks_since_record()
    }

    /// The health report of Active.
    pub fn health(&mut self) -> Option<RuntimeHealthReport> {
        let (slot, now) = (self.core.active_slot()?, self.clock.now());
        self.executor.monitors.monitor(slot).map(|monitor| monitor.report(now))
    }

    /// The name of a new build or validation for a caller from outside, or why none may begin now.
    pub fn external_number(&mut self) -> Result<String, EvolutionError> {
        if let Some(refusal) = operator::busy(&self.core) {
            return Err(refusal);
        }
        self.external_jobs += 1;
        Ok(format!("x{}-{}", self.ledger.last_seq(), self.external_jobs))
    }

    /// The state and its surroundings, for the answer to a question.
    pub fn view(&self) -> View<'_> {
        View {
            core: &self.core,
            executor: &self.executor,
            stalled: self.ledger.stalled(),
            clock: self.clock,
            last_seq: self.ledger.last_seq(),
        }
    }

    /// Answers questions.
    pub const fn queries(&self) -> &Queries {
        &self.queries
    }

    /// The decisions from now on, for one subscriber.
    pub fn subscribe(&self) -> broadcast::Receiver<MonitorEvent> {
        self.announcer.subscribers.subscribe()
    }

    /// The next turn ends the service.
    pub fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    /// Handles an operator's request. It is refused with a reason, or decided at once, so that the answer contains the
    /// result.
    ///
    /// # Errors
    /// Why the request is refused, or cannot be recorded.
    pub fn request(&mut self, who: Caller, request: Request) -> Result<Requested, OperationsError> {
        if let Some(evolution) = self.core.answers(&who, &request) {
            return Ok(Requested { evolution: evolution.clone(), generation: operator::generation(&self.core) });
        }
        if let Some(refusal) = self.core.refusal(&who, &request) {
            return Err(operator::refused(&self.core, &refusal));
        }
        let about = operator::about(&self.core, &request);
        self.take(Event::Operator { who, request }).map_err(|(_, why)| OperationsError::Busy { reason: why })?;
        let evolution = about.unwrap_or_else(|| operator::current(&self.core));
        Ok(Requested { evolution, generation: operator::generation(&self.core) })
    }

    /// Opens both sockets. They are served until the returned tasks are dropped.
    ///
    /// # Errors
    /// When a socket, or the secret by which its callers prove themselves, cannot be created.
    pub fn serve(&self) -> Result<[AbortOnDrop<()>; 2], StartError> {
        sockets::serve(&self.executor, &self.reach)
    }

    /// Removes the files that ended evolutions have left. The loop does not wait for it.
    pub fn sweep(&mut self) {
        // If the journal has lost records, rei does not know yet which files are in use.
        if !self.core.is_held() {
            self.executor.jobs.sweep(&self.executor.tools);
        }
    }

    /// Reads rei.toml again. If a key has changed that cannot change while rei runs, the log names it.
    pub fn reload(&mut self) {
        let Some(tools) = read_again(&self.executor.tools) else { return };
        let tools = Arc::new(tools);
        self.reach.look(&tools);
        self.executor.configure(tools);
        self.queue.push_back(Event::Configured { policy: policy(&self.executor.tools.config) });
    }

    /// Whether a write of the journal has failed since the last call.
    pub const fn wants_repair(&mut self) -> bool {
        std::mem::replace(&mut self.wants_repair, false)
    }

    /// Restores rei's permissions to its own files. Returns one line for each change.
    pub fn repair(&self) -> Vec<String> {
        repair::files(&self.executor.tools.paths)
    }

    /// A process of rei's user has changed files or threads that rei needs. The changes were undone.
    pub fn on_repaired(&mut self, changed: &[String]) {
        let detail = changed.join("; ");
        tracing::warn!(detail, "a process of rei's user has changed what rei needs");
        self.anomaly(self.core.active_slot(), "supervisor_files", detail);
    }

    /// The status line for the service manager, if it is new.
    pub const fn take_status(&mut self) -> Option<String> {
        self.announcer.status.take()
    }

    /// The state, for the start of tasks that depend on it.
    pub const fn core(&self) -> &Lifecycle {
        &self.core
    }

    /// The executor, for the code that starts, ends or replaces the program.
    pub const fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Adds an event to the queue. The next turn decides about it.
    pub fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Prepares for the next supervisor: aborts all jobs, leaves only the descriptors of living instances in the store,
    /// and stores the state. The next program may be another version that decides otherwise. Thanks to the stored state
    /// it replays no record of this version.
    pub async fn end_work(&mut self) {
        self.executor.jobs.abort_all();
        self.executor.recordings.leave(&self.executor.tools).await;
        tokio::time::sleep(LAST_ANSWERS).await;
        self.executor.instances.release(&self.executor.store.shared);
        self.ledger.snapshot(&self.core);
    }

    /// Continues after the program could not be replaced: the lifecycle starts the aborted work again.
    pub fn resume(&mut self) {
        let running = Slot::ALL.map(|slot| {
            let state = self.core.slot(slot);
            let (version, _) = (state.version.clone()?, self.executor.instances.get(slot)?);
            let ready = matches!(state.run, RunState::Ready | RunState::Stopping);
            Some(Running { store_path: version.store_path, ready })
        });
        self.queue.push_back(Event::Recovered { running, rebooted: false });
    }

    /// Ends the service: asks the instances to end, removes the files of unix sockets, and makes the store release the
    /// listeners. If an instance asks for more time, `extended` is called with that time.
    pub async fn end_all(&mut self, extended: impl Fn(Duration)) {
        self.executor.jobs.abort_all();
        self.executor.recordings.leave(&self.executor.tools).await;
        tokio::time::sleep(LAST_ANSWERS).await;
        shutdown::end_all(&mut self.executor, &mut self.received, extended).await;
        self.ledger.snapshot(&self.core);
        shutdown::close(&self.executor);
    }
}

/// The time for the last answer to reach its caller, and for aborted jobs to end. Both need only the loop to yield.
const LAST_ANSWERS: Duration = Duration::from_millis(20);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The last step of a start.
impl Service {
    /// Takes over the instances that an earlier supervisor left. See [`recover`].
    pub fn take_over(&mut self, stored: StoredFds, reality: Option<Reality>) {
        let events = recover::take_over(&self.core, &mut self.executor, stored, reality, self.clock.now());
        self.queue.extend(events);
    }
}
