//! The supervisor of one service: an input is decided about, the decision is recorded, and then it is carried out.
//!
//! All of one service is in this value, and a process could have two. What a process has once (signals, the service
//! manager, the reaper of orphans) is in `daemon`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::announcer::Announcer;
use super::clock::Clock;
use super::commit;
use super::error::StartError;
use super::executor::{Decision, Executor, GaveUp, Queue, Started};
use super::facts::{self, Facts};
use super::failure::reason;
use super::fdstore::StoredFds;
use super::findings;
use super::input::{Call, Input, InstanceEvent};
use super::ledger::Ledger;
use super::operator;
use super::policy::{GRACE, policy};
use super::queries::{Queries, View};
use super::reach::Reach;
use super::recover;
use super::reload::read_again;
use super::repair;
use super::requests;
use super::shutdown;
use super::sockets;
use super::sync::AbortOnDrop;
use crate::health::{self, Signal};
use crate::history::entry::Entry;
use crate::interface::evolution::EvolutionError;
use crate::interface::operations::OperationsError;
use crate::interface::types::{PolicyAnomaly, RuntimeHealthReport};
use crate::lifecycle::{Caller, Effect, Event, Lifecycle, Reality, Request, RunState, Running, Slot, Timer};
use crate::runtime::exit::Exit;
use crate::time::{Timestamp, millis};

/// Why a service is no longer supervised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An operator asked for it.
    Asked,
    /// The program is to be replaced in place.
    Reexec,
    /// The service is left to the next supervisor.
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
    /// Builds and validations that were asked for from outside.
    asides: u64,
    end: Option<End>,
    /// Whether the journal could not be written since [`Self::wants_repair`] was asked last.
    wants_repair: bool,
}

/// What a service is made of at its start.
pub struct Parts {
    /// The state that the journal leads to.
    pub core: Lifecycle,
    /// The journal.
    pub ledger: Ledger,
    /// The clock, not earlier than the journal's last record.
    pub clock: Clock,
    /// All that effects are carried out with.
    pub executor: Executor,
    /// Where inputs come from.
    pub received: mpsc::Receiver<Input>,
    /// Whether instances can read the operators' secret.
    pub reach: Reach,
}

impl Service {
    /// A service that decides nothing yet.
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
            asides: 0,
            end: None,
            wants_repair: false,
        }
    }

    /// Decides what waits, then waits for one thing and handles it. Gives the reason once the service is at its end.
    /// May be cancelled.
    pub async fn turn(&mut self) -> Option<End> {
        self.decide();
        self.executor.instances.release(&self.executor.store.shared);
        if let Some(end) = self.end.take() {
            return Some(end);
        }
        self.executor.listeners.watch();
        let due = self.next_timer();
        let (again_at, look_at) = (self.ledger.again_at(), self.executor.logs.look_at());
        // In no order: whatever a runtime floods, timers and operators get their turn.
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

    /// The timer that is due first, and when. While nothing can be decided, none is.
    fn next_timer(&self) -> Option<(Timer, Instant)> {
        if self.ledger.stalled().is_some() {
            return None;
        }
        let (timer, at) = self.executor.timers.first()?;
        Some((timer, self.clock.instant(at)))
    }

    /// Decides about every event that waits, in order; the effects of one may bring more. While the journal cannot be
    /// written, they wait: Active serves on, questions are answered, nothing is decided.
    pub fn decide(&mut self) {
        if self.ledger.is_waiting() {
            return;
        }
        while let Some(event) = self.queue.pop_front() {
            if let Err((event, why)) = self.take(event) {
                self.queue.push_front(event);
                // Perhaps it is only a mode; then the next try succeeds.
                self.wants_repair = true;
                self.ledger.stall(why);
                return;
            }
            self.ledger.resume();
        }
    }

    /// Decides about one event, records it, and carries out what follows. Gives the event back, and why, when it could
    /// not be recorded: the state is as before then.
    #[expect(
        clippy::result_large_err,
        reason = "the event goes back to the queue it came from; boxing it would copy it too"
    )]
    fn take(&mut self, event: Event) -> Result<(), (Event, String)> {
        let at = self.clock.now();
        if let Event::Due(timer) = &event {
            self.executor.timers.clear(*timer);
        }
        let mut next = self.core.clone();
        let effects = next.step(at, event.clone());
        if effects.is_empty() && next == self.core {
            // That a commit is not taken is news for a person.
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
        if self.core.trial_slot().is_none() {
            self.executor.monitors.end_trial();
        }
        if let Event::Started { slot, instance } = &entry.event {
            self.monitor(*slot, &instance.id);
        }
        // Nobody's service waits for what is told.
        self.carry_out(entry.effects.clone(), seq, at, started);
        let under_way = |core: &Lifecycle| core.evolution().map(|evolution| evolution.id.clone());
        if let Some(ended) = under_way(&before).filter(|ended| under_way(&self.core).as_ref() != Some(ended)) {
            tracing::debug!(%ended, "what it has left is removed");
            self.sweep();
        }
        self.announcer.tell(seq, at, &entry, &self.core);
        // A restart must not meet the records again that this program does not follow.
        if self.ledger.wants_snapshot() || matches!(entry.event, Event::Held(_)) {
            self.ledger.snapshot(&self.core);
        }
        Ok(())
    }

    /// Carries out what follows from a record; `started` is the instance that was made beside it.
    fn carry_out(&mut self, effects: Vec<Effect>, seq: u64, at: Timestamp, mut started: Option<Started>) {
        if effects.is_empty() {
            return;
        }
        // No other effect waits for what a build alone needs.
        let is_build = |effect: &Effect| matches!(effect, Effect::Build { .. } | Effect::Diagnose { .. });
        let facts = if effects.iter().any(is_build) { Facts::of(&self.core) } else { Facts::default() };
        let decision = Decision { seq, at, facts };
        for effect in effects {
            match (effect, started.take()) {
                (Effect::Start { slot, .. }, Some(made)) => {
                    self.executor.on_started(slot, made, &mut self.queue);
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

    /// Watches the health of the instance in a slot from now on.
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
            Input::Call(call) => self.on_call(call),
            Input::Keeper(started) => self.executor.on_keeper(started),
            Input::Logger(started) => self.executor.on_logger(started),
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
            InstanceEvent::Ready => {
                self.observe(slot, Signal::Ready(true));
                self.queue.push_back(Event::Ready { slot });
            }
            InstanceEvent::Extends(by) => {
                // The end of an instance has a bound of its own, which passes first.
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
    fn observe(&mut self, slot: Slot, signal: Signal) {
        let now = self.clock.now();
        let found = self.executor.monitors.observe(slot, now, signal);
        self.found(slot, found);
    }

    /// How an instance crashed, once its last words are read. The version may be running again by now.
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
        // fault that lasts is found again.
        if self.ledger.stalled().is_none() {
            let event = |finding: health::Finding| Event::Found { slot: Some(slot), finding: finding.into() };
            self.queue.extend(found.into_iter().map(event));
        }
        if self.core.trial_slot().is_some() {
            let failed = self.executor.monitors.failure(self.clock.now());
            self.queue.extend(failed);
        }
    }

    /// A process of an instance did what none may.
    fn anomaly(&mut self, slot: Option<Slot>, kind: &str, detail: String) {
        let Some(slot) = slot else { return };
        let anomaly = PolicyAnomaly { kind: kind.to_owned(), detail };
        self.observe(slot, Signal::PolicyAnomaly(anomaly));
    }

    /// A timer is due, unless it is a phase's and an instance has asked for more time.
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

    /// Once a second: looks at usage, windows, logs and the journal.
    pub fn tick(&mut self) {
        let now = self.clock.now();
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
        self.ledger.look(&self.executor.tools.paths);
    }

    /// Ticks since the last record.
    pub const fn quiet_ticks(&self) -> u32 {
        self.ledger.looks_since_record()
    }

    /// Active's joined health.
    fn health(&mut self) -> Option<RuntimeHealthReport> {
        let (slot, now) = (self.core.active_slot()?, self.clock.now());
        self.executor.monitors.monitor(slot).map(|monitor| monitor.report(now))
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Status(reply) => {
                let health = self.health();
                let _ = reply.send(self.queries.status(&self.view(), health));
            }
            Call::Operator { who, request, reply } => {
                let answer = self.operator(who, request);
                let _ = reply.send(answer);
            }
            Call::History(limit, reply) => self.queries.history(&self.executor.tools.paths, limit, reply),
            Call::Show(id, reply) => self.queries.show(&self.executor.tools.paths, id, reply),
            Call::Quarantine(reply) => {
                let _ = reply.send(self.view().quarantine());
            }
            Call::Stop => self.end = Some(End::Asked),
            Call::Reexec(reply) => {
                let _ = reply.send(Ok(()));
                self.end = Some(End::Reexec);
            }
            Call::Health(reply) => {
                let none = || EvolutionError::NotAvailable { reason: "nothing is Active yet".to_owned() };
                let _ = reply.send(self.health().ok_or_else(none));
            }
            Call::Context(incident, reply) => {
                let facts = Facts::of(&self.core);
                let (found, seq) = (facts::open(&self.core, &incident), self.ledger.last_seq());
                requests::context(&self.executor, incident, found, &facts, seq, self.clock.now(), reply);
            }
            Call::Build(context, reply) => match self.aside() {
                Ok(aside) => {
                    requests::build(&self.executor, aside, *context, Facts::of(&self.core), self.clock.now(), reply)
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Call::Validate(candidate, reply) => match self.aside() {
                Ok(aside) => requests::validate(&self.executor, &aside, *candidate, Facts::of(&self.core), reply),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
        }
    }

    /// The name of a build or validation from outside, or why there is none now.
    fn aside(&mut self) -> Result<String, EvolutionError> {
        if let Some(refusal) = operator::busy(&self.core) {
            return Err(refusal);
        }
        self.asides += 1;
        Ok(format!("x{}-{}", self.ledger.last_seq(), self.asides))
    }

    fn view(&self) -> View<'_> {
        View { core: &self.core, executor: &self.executor, stalled: self.ledger.stalled(), clock: self.clock }
    }

    /// An operator's request: refused with a reason, or decided at once, so that the answer names what came of it.
    /// Gives the evolution that it began or was about, and the profile's generation.
    fn operator(&mut self, who: Caller, request: Request) -> Result<(String, u64), OperationsError> {
        if let Some(evolution) = self.core.answers(&who, &request) {
            return Ok((evolution.0.clone(), operator::generation(&self.core)));
        }
        if let Some(refusal) = self.core.refusal(&who, &request) {
            return Err(operator::refused(&self.core, &refusal));
        }
        let about = operator::about(&self.core, &request);
        self.take(Event::Operator { who, request }).map_err(|(_, why)| OperationsError::Busy { reason: why })?;
        let evolution = about.unwrap_or_else(|| operator::current(&self.core));
        Ok((evolution, operator::generation(&self.core)))
    }

    /// Opens both sockets. They are served until what is given is dropped.
    ///
    /// # Errors
    /// When a socket, or what its callers prove themselves by, cannot be made.
    pub fn serve(&self) -> Result<[AbortOnDrop<()>; 2], StartError> {
        sockets::serve(&self.executor, &self.reach, &self.announcer.subscribers)
    }

    /// Removes, beside the loop, what ended evolutions have left.
    pub fn sweep(&mut self) {
        // If the journal has lost records, nobody can say yet what is in use.
        if !self.core.is_held() {
            self.executor.jobs.sweep(&self.executor.tools);
        }
    }

    /// Reads rei.toml again. A key that cannot change while rei runs is named.
    pub fn reload(&mut self) {
        let Some(tools) = read_again(&self.executor.tools) else { return };
        let tools = Arc::new(tools);
        self.reach.look(&tools);
        self.executor.configure(tools);
        self.queue.push_back(Event::Configured { policy: policy(&self.executor.tools.config) });
    }

    /// Whether the journal could not be written since this was asked last.
    pub const fn wants_repair(&mut self) -> bool {
        std::mem::replace(&mut self.wants_repair, false)
    }

    /// Gives rei back the rights to its own files; a line for each that was changed.
    pub fn repair(&self) -> Vec<String> {
        repair::files(&self.executor.tools.paths)
    }

    /// A process of rei's user has changed what rei needs. It was undone.
    pub fn on_repaired(&mut self, changed: &[String]) {
        let detail = changed.join("; ");
        tracing::warn!(detail, "a process of rei's user has changed what rei needs");
        self.anomaly(self.core.active_slot(), "supervisor_files", detail);
    }

    /// The line for the service manager, if it is another one than last time.
    pub const fn take_status(&mut self) -> Option<String> {
        self.announcer.status.take()
    }

    /// The state, for who starts what follows it.
    pub const fn core(&self) -> &Lifecycle {
        &self.core
    }

    /// What effects are carried out with, for who starts, ends or replaces the program.
    pub const fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// An event that waits to be decided about.
    pub fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Before another supervisor begins: nothing is under way any more, the store has what lives and no more, and the
    /// state is stored. The next program may be of another version, which decides otherwise: it replays nothing of this
    /// one.
    pub async fn end_work(&mut self) {
        self.executor.jobs.abort_all();
        tokio::time::sleep(LAST_WORDS).await;
        self.executor.instances.release(&self.executor.store.shared);
        self.ledger.snapshot(&self.core);
    }

    /// The program could not be replaced: what was aborted is asked for again.
    pub fn resume(&mut self) {
        let running = Slot::ALL.map(|slot| {
            let state = self.core.slot(slot);
            let (version, _) = (state.version.clone()?, self.executor.instances.get(slot)?);
            let ready = matches!(state.run, RunState::Ready | RunState::Stopping);
            Some(Running { store_path: version.store_path, ready })
        });
        self.queue.push_back(Event::Recovered { running, rebooted: false });
    }

    /// Ends the service: instances are asked to finish, the files of unix sockets are removed, and the store lets go of
    /// the listeners. `extended` hears of an instance that asks for more time.
    pub async fn end_all(&mut self, extended: impl Fn(Duration)) {
        self.executor.jobs.abort_all();
        shutdown::end_all(&mut self.executor, &mut self.received, extended).await;
        self.ledger.snapshot(&self.core);
        shutdown::close(&self.executor);
    }
}

/// Time for the answer to the caller, and for jobs to end: both wait for the loop alone.
const LAST_WORDS: Duration = Duration::from_millis(20);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The rest of the parts that a start makes.
impl Service {
    /// Takes over what an earlier supervisor left. See [`recover`].
    pub fn take_over(&mut self, kept: StoredFds, reality: Option<Reality>) {
        let events = recover::take_over(&self.core, &mut self.executor, kept, reality, self.clock.now());
        self.queue.extend(events);
    }
}
