//! Executes the effects that the lifecycle decided. The executor does not see the lifecycle, and decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::capture::{Captures, Consumer};
use super::facts::Facts;
use super::failure::HINT;
use super::fdstore::StoreWatch;
use super::input::{Inputs, TapNews};
use super::instances::ids::DRAINS;
use super::instances::set::Instances;
use super::instances::types::SpawnContext;
use super::jobs::{self, BuildOrder, DiagnosisFacts, Jobs, ValidationOrder};
use super::listeners::Listeners;
use super::logger_watch::LoggerWatch;
use super::monitors::Monitors;
use super::recordings::Recordings;
use super::shadow::ShadowWatch;
use super::sync::lock;
use super::tap_watch::{Seen, TapWatch};
use super::timers::Timers;
use super::tools::Tools;
use crate::golden::Captured;
use crate::health::{Analysis, Signal};
use crate::interface::types::{ContextId, EvolutionId, RuntimeIncident, Verdict, Version};
use crate::lifecycle::{Effect, Event, Instance, Plan, Reason, Routing, Slot, Step};
use crate::live::{Sample, Source};
use crate::narrate;
use crate::nix;
use crate::report::chain;
use crate::runtime::keeper::{Keeper, StoreError};
use crate::runtime::logs::{LogError, Logger};
use crate::runtime::traffic::{self, SlotDial};
use crate::tap::{Orders, TapLink};
use crate::time::Timestamp;

/// The events that wait for a decision.
pub type Queue = VecDeque<Event>;

/// A started instance, or the reason why it did not start.
pub type Started = Result<Instance, String>;

/// Why there is nothing to supervise, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// Why.
    pub reason: String,
    /// The next step.
    pub hint: String,
}

/// Why a step of a plan is not done.
#[derive(Debug, thiserror::Error)]
enum StepError {
    /// Another program holds the profile's lock.
    #[error("another program holds the lock of the profile")]
    Busy,
    /// The step failed.
    #[error("{0}")]
    Failed(String),
}

/// The decision that an effect belongs to: its record, its time, and the facts that jobs need.
pub struct Decision {
    /// The number of its record.
    pub seq: u64,
    /// The time of the decision.
    pub at: Timestamp,
    /// A copy of the state, for jobs.
    pub facts: Facts,
}

/// All parts that execute effects.
pub struct Executor {
    /// What all parts work with.
    pub tools: Arc<Tools>,
    /// The channel for answers that come later.
    pub inputs: Inputs,
    /// The instances.
    pub instances: Instances,
    /// The listening sockets.
    pub listeners: Listeners,
    /// The descriptor store: its descriptors outlive the supervisor.
    pub store: StoreWatch,
    /// The logger.
    pub logs: LoggerWatch,
    /// The tap.
    pub tap: TapWatch,
    /// Which exchanges the tap copies, and for whom.
    pub captures: Captures,
    /// The recordings of live traffic.
    pub recordings: Recordings,
    /// The health of the versions in the slots, and the trial.
    pub monitors: Monitors,
    /// The requests of users that are asked once more before a candidate has users.
    pub shadow: ShadowWatch,
    /// Slow work.
    pub jobs: Jobs,
    /// The timers that are set.
    pub timers: Timers,
    /// How the last instance of Active ended.
    pub last_exit: Option<String>,
}

impl Executor {
    /// Executes one effect. An immediate answer goes to the queue; a later answer comes as an input.
    pub fn execute(&mut self, effect: Effect, decision: &Decision, queue: &mut Queue) -> Option<GaveUp> {
        match effect {
            Effect::Diagnose { evolution, incident, slot, active } => {
                let name = &self.tools.config.runtime.name;
                let incident = incident.and(decision.facts.incident.as_ref()).map(|open| open.to_incident(name));
                let id = ContextId(evolution.0.replacen("evo", "ctx", 1));
                let facts = self.diagnosis(id, incident, slot, active, decision.at);
                self.begin(&evolution.clone(), jobs::diagnose(self.tools.clone(), evolution, facts));
            }
            Effect::Build { evolution, candidate, blueprint, rev, checkpoint, approved } => {
                let paths = &self.tools.paths;
                let order = BuildOrder::new(evolution.clone(), candidate, blueprint, decision.facts.clone(), paths);
                let order = BuildOrder { rev, checkpoint, approved, ..order };
                self.begin(&evolution, jobs::build(self.tools.clone(), order, self.inputs.clone()));
            }
            Effect::Install { evolution } => {
                self.begin(&evolution.clone(), jobs::install(self.tools.clone(), evolution, self.inputs.clone()));
            }
            Effect::Validate { evolution, candidate, version, report, active, incident } => {
                let order = ValidationOrder { candidate, version, report, active, incident };
                let job = jobs::validate(self.tools.clone(), evolution.clone(), order, self.inputs.clone());
                self.begin(&evolution, job);
            }
            Effect::Cancel { evolution } => self.jobs.cancel(&evolution),
            Effect::PrepareGeneration { evolution, store_path, way_back } => {
                self.begin(&evolution, jobs::prepare_generation(self.tools.clone(), store_path, way_back));
            }
            Effect::Start { slot, version, role: _ } => self.start(slot, &version, decision.seq, queue),
            Effect::Stop { slot, drain } => {
                if !self.instances.stop(slot, drain) {
                    queue.push_back(self.stopped(slot));
                }
            }
            Effect::Drain { slot, version } => self.drain(slot, &version, decision.seq, queue),
            Effect::Refresh { slot, version } => {
                self.instances.retire(slot);
                self.start(slot, &version, decision.seq, queue);
            }
            Effect::Execute(plan) => queue.push_front(self.execute_plan(&plan)),
            Effect::Route { routing } => self.route(routing),
            Effect::Restore { routing, generation } => self.restore(routing, generation),
            Effect::Observe { slot, baseline } => {
                self.end_shadow();
                self.monitors.begin_trial(slot, baseline, decision.at);
            }
            Effect::Shadow { slot, active } => self.begin_shadow(slot, active, decision.at),
            Effect::Judge => queue.push_back(self.judge(decision.at)),
            Effect::Prune { keep, in_use } => {
                let tools = Arc::clone(&self.tools);
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                tokio::spawn(async move { jobs::prune(&tools, keep, in_use).await });
            }
            Effect::GiveUp { reason } => return Some(self.give_up(&reason)),
            Effect::SetTimer { timer, at, reason: _ } => self.timers.set(timer, at),
            Effect::ClearTimer { timer } => self.timers.clear(timer),
            // The maintenance record is in the journal by now.
            Effect::Record(_) => {}
        }
        None
    }

    fn begin(&mut self, evolution: &EvolutionId, job: impl Future<Output = Option<Event>> + 'static + Send) {
        self.jobs.begin(evolution, &self.inputs, job);
    }

    /// The facts that a diagnosis needs.
    pub fn diagnosis(
        &self,
        id: ContextId,
        incident: Option<RuntimeIncident>,
        slot: Option<Slot>,
        active: Option<Version>,
        at: Timestamp,
    ) -> DiagnosisFacts {
        let interface = slot
            .filter(|_| self.tools.config.health.interface.is_some())
            .and_then(|slot| lock(&self.listeners.traffic).interface_path(slot.into()).map(std::path::Path::to_owned));
        DiagnosisFacts {
            id,
            incident,
            log: slot.and_then(|slot| self.instances.last_log(slot)),
            exit_status: self.last_exit.clone(),
            health: self.monitors.series(),
            active,
            interface,
            at,
        }
    }

    /// Calls `act` with the instances and the context of a version in a slot.
    pub fn with<T>(
        &mut self,
        slot: Slot,
        store_path: &str,
        act: impl FnOnce(&mut Instances, &SpawnContext<'_>) -> T,
    ) -> T {
        let context = SpawnContext {
            slot,
            store_path,
            tools: &self.tools,
            traffic: &self.listeners.traffic,
            store: &self.store.shared,
            inputs: &self.inputs,
        };
        act(&mut self.instances, &context)
    }

    /// Starts an instance. The record of the decision is already on disk.
    fn start(&mut self, slot: Slot, version: &Version, seq: u64, queue: &mut Queue) {
        let id = self.tools.paths.instance_id(seq, slot);
        let started = self.with(slot, &version.store_path, |instances, context| instances.start(context, id, None));
        self.on_started(slot, started, queue);
    }

    /// An instance was started: here, or by `commit` while the record was written.
    pub fn on_started(&mut self, slot: Slot, started: Started, queue: &mut Queue) {
        self.instances.reports.forget(slot);
        queue.push_back(match started {
            Ok(instance) => Event::Started { slot, instance },
            Err(reason) => Event::StartFailed { slot, reason },
        });
    }

    /// The instance of a slot has exited, or the slot had none.
    pub fn stopped(&mut self, slot: Slot) -> Event {
        self.instances.remove(slot);
        Event::Stopped { slot, waiting: self.listeners.are_waiting(slot) }
    }

    /// Starts an instance that empties the queue of a slot and then exits.
    fn drain(&mut self, slot: Slot, version: &Version, seq: u64, queue: &mut Queue) {
        let id = format!("{}{DRAINS}", self.tools.paths.instance_id(seq, slot));
        match self.with(slot, &version.store_path, |instances, context| instances.start(context, id, None)) {
            Ok(_) => {
                self.instances.stop(slot, true);
            }
            Err(reason) => {
                tracing::error!(%slot, reason, "connections wait in a queue and cannot be served");
                queue.push_back(Event::StartFailed { slot, reason });
            }
        }
    }

    /// Executes a plan step by step. If a step fails and the plan has `undo`, the steps before it are undone. Steps are
    /// idempotent, so a plan may be executed again.
    fn execute_plan(&self, plan: &Plan) -> Event {
        let begun = Instant::now();
        let mut done: Vec<Step> = Vec::new();
        let mut failure = None;
        for step in &plan.steps {
            match self.step(*step) {
                Ok(()) => done.push(*step),
                Err(error) => {
                    if !matches!(failure, Some(StepError::Failed(_))) {
                        failure = Some(error);
                    }
                    if plan.undo {
                        break;
                    }
                }
            }
        }
        if plan.undo && failure.is_some() {
            for undo in done.iter().rev().filter_map(|step| step.undo()) {
                if let Err(error) = self.step(undo) {
                    tracing::error!(?undo, "cannot undo a step: {error}");
                }
            }
        }
        let plan = plan.number;
        match failure {
            None => {
                let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                Event::PlanDone { plan, took_us }
            }
            Some(busy @ StepError::Busy) => Event::PlanBusy { plan, reason: busy.to_string() },
            Some(StepError::Failed(reason)) => Event::PlanFailed { plan, reason },
        }
    }

    fn step(&self, step: Step) -> Result<(), StepError> {
        match step {
            Step::SwitchProfile { to, .. } => match self.tools.profile.switch_now(to) {
                Err(nix::Error::ProfileBusy { .. }) => Err(StepError::Busy),
                switched => switched.map_err(|error| StepError::Failed(chain(&error))),
            },
            Step::Route { to, .. } => self.listeners.route(to).map_err(StepError::Failed),
        }
    }

    fn route(&self, routing: Routing) {
        if let Err(reason) = self.listeners.route(routing) {
            tracing::error!(reason, "cannot route new connections");
        }
    }

    fn restore(&self, routing: Routing, generation: Option<u64>) {
        self.route(routing);
        let current = self.tools.profile.current().ok().flatten().map(|generation| generation.number);
        if let Some(generation) = generation.filter(|generation| Some(*generation) != current)
            && let Err(error) = self.tools.profile.switch(generation)
        {
            tracing::error!(error = chain(&error), generation, "cannot restore the profile");
        }
    }

    /// Begins to ask Active and the candidate once more what users ask Active.
    fn begin_shadow(&mut self, candidate: Slot, active: Slot, at: Timestamp) {
        self.monitors.begin_shadow(candidate, active, at);
        let Some(plan) = &self.tools.config.promotion.shadow else {
            // The key was removed since. The lifecycle keeps its policy until the end of the evolution.
            return self.end_shadow();
        };
        let before = self.monitors.served(active, Source::Tap, at);
        let (dial, secrets) = (SlotDial::new(Arc::clone(&self.listeners.traffic)), self.tools.secrets.clone());
        let order = self.shadow.begin(candidate, plan, &before, dial, secrets);
        let orders = match active {
            Slot::A => Orders { a: Some(order), b: None },
            Slot::B => Orders { a: None, b: Some(order) },
        };
        self.captures.want(Consumer::Shadow, orders);
        self.tap.order(self.captures.orders());
    }

    /// No candidate is asked any more.
    fn end_shadow(&mut self) {
        self.shadow.end();
        self.captures.want(Consumer::Shadow, Orders::default());
        self.tap.order(self.captures.orders());
    }

    /// The verdict on a trial that has failed, returned once.
    pub fn failure(&mut self, at: Timestamp) -> Option<Event> {
        if let Some(reason) = self.shadow.current().and_then(|shadow| shadow.failure()) {
            self.end_trial();
            return Some(Event::Judged { verdict: Verdict::Fail, reason });
        }
        self.monitors.failure(at)
    }

    /// No version is under trial any more.
    pub fn end_trial(&mut self) {
        if self.shadow.is_under_way() {
            self.end_shadow();
        }
        self.monitors.end_trial();
    }

    /// Judges the version under trial by the present evidence.
    fn judge(&mut self, at: Timestamp) -> Event {
        let seen = self.monitors.judge(at);
        let judged = match (seen, self.shadow.current().map(|shadow| shadow.judge())) {
            (Some(seen), Some(asked)) => Some(both(asked, seen)),
            (one, None) => one,
            (None, Some(_)) => None,
        };
        match judged {
            Some(analysis) => {
                let missing = analysis.waits_for.filter(|_| analysis.verdict == Verdict::Inconclusive);
                let reason = missing.unwrap_or_else(|| analysis.reasons.join("; "));
                Event::Judged { verdict: analysis.verdict, reason }
            }
            None => Event::Judged {
                verdict: Verdict::Inconclusive,
                reason: "the instance under trial to run and to be probed".to_owned(),
            },
        }
    }

    /// Why no first version serves, and the operator's next step.
    fn give_up(&self, why: &Reason) -> GaveUp {
        let slot = Slot::A;
        let reason = narrate::reason(why);
        if let Some((reason, hint)) = reason.split_once(HINT) {
            return GaveUp { reason: reason.to_owned(), hint: hint.to_owned() };
        }
        let log = self.tools.paths.log(slot);
        let (detail, next) = match self.instances.reports.not_ready(slot) {
            Some(probe) => {
                (format!(" (the last probe: {probe})"), "see what it says, or raise runtime.start_timeout".to_owned())
            }
            None if matches!(why, Reason::FirstVersionExits { exit } if exit == "exit code 0") => {
                (String::new(), "the command must stay in the foreground, without a daemon mode; see".to_owned())
            }
            None => (String::new(), "see what it says".to_owned()),
        };
        GaveUp { reason: format!("{reason}{detail}"), hint: format!("{next}: tail {}", log.display()) }
    }

    /// Takes rei's own requests out of what a source counted as requests of users.
    pub fn without_own(&mut self, slot: Slot, signal: &mut Signal) {
        if let Signal::Traffic(source, sample) = signal {
            self.shadow.take_out_own(slot, *source, sample);
        }
    }

    /// Uses the configuration that was read again.
    pub fn configure(&mut self, tools: Arc<Tools>) {
        self.tools = tools;
        self.instances.configure();
        self.monitors.configure(&self.tools.config);
        self.tap.configure(&self.listeners.traffic, &self.tools, &self.inputs);
    }

    /// Begins with the tap that an earlier supervisor has left, or starts one.
    pub fn begin_tap(&mut self, left: Option<TapLink>) {
        self.tap.begin(left, &self.listeners.traffic, &self.store.shared, &self.tools, &self.inputs);
    }

    /// Adapts what goes through the tap, and checks that it works.
    pub fn look_at_tap(&mut self, in_trial: bool) {
        self.captures.on_counts(self.tap.gauges().unwrap_or_default().copies);
        self.tap.look(in_trial, &self.captures, &self.listeners.traffic, &self.tools, &self.inputs);
    }

    /// Looks for users who wait for a candidate that answers nothing.
    pub fn look_for_unanswered(&mut self) {
        let Some(slot) = self.monitors.silent() else { return };
        let of = |slot: Slot| lock(&self.listeners.traffic).unanswered(slot.into());
        match of(slot).and_then(|candidate| Ok((candidate, of(slot.other())?))) {
            Ok((candidate, other)) => self.monitors.unanswered(&candidate, &other),
            Err(error) => tracing::debug!(%error, "the kernel does not show which connections have no answer"),
        }
    }

    /// The tap was started, has ended, or has a report. Returns what the users of a slot got.
    pub fn on_tap(&mut self, news: TapNews) -> Option<(Slot, Sample)> {
        let seen = self.tap.on_news(news, &self.listeners.traffic, &self.store.shared, &self.tools, &self.inputs)?;
        match seen {
            Seen::Sample(slot, sample) => {
                self.recordings.saw(sample.total().total());
                let slot = Slot::ALL.into_iter().find(|known| traffic::Slot::from(*known) == slot)?;
                return Some((slot, sample));
            }
            Seen::Exchange(slot, Some(exchange)) => self.on_exchange(slot, *exchange),
            Seen::Exchange(_, None) => self.captures.on_undecoded(),
        }
        None
    }

    /// The tap has copied an exchange: each consumer that wants it gets it.
    fn on_exchange(&mut self, slot: traffic::Slot, exchange: Captured) {
        self.recordings.offer(&self.captures, slot, &exchange);
        let known = Slot::ALL.into_iter().find(|known| traffic::Slot::from(*known) == slot);
        if let (Some(shadow), Some(of)) = (self.shadow.current(), known)
            && self.captures.is_for(Consumer::Shadow, slot, &exchange)
        {
            shadow.offer(of, exchange, self.tap.share(slot));
        }
    }

    /// Writes and ends recordings that are due, and says what the tap copies for them.
    pub fn look_at_recordings(&mut self, active: Option<Slot>, is_paused: bool, at: Timestamp) {
        self.recordings.configure(&self.tools, at);
        self.recordings.pause(is_paused, at);
        self.recordings.look(&self.tools, &self.inputs, at);
        for (consumer, orders) in self.recordings.orders(active) {
            self.captures.want(consumer, orders);
        }
        // The tap need not wait for the next look.
        self.tap.order(self.captures.orders());
    }

    /// The logger has ended: starts another one.
    pub fn renew_logger(&mut self) {
        self.logs.renew(&self.tools, &self.inputs);
    }

    /// Checks that the logger reads the output of instances.
    pub fn look_at_logs(&mut self) {
        self.logs.look(&self.instances, &self.tools, &self.inputs);
    }

    /// A new logger was started, or could not be started.
    pub fn on_logger(&mut self, started: Result<Logger, LogError>) {
        self.logs.replace(started, &self.instances, &self.store.shared, &self.tools, &self.inputs);
    }

    /// A new keeper was started, or could not be started. This process has a copy of each descriptor that the old
    /// keeper had.
    pub fn on_keeper(&mut self, started: Result<Keeper, StoreError>) {
        let Some(pid) = self.store.replace(started, self.tools.paths.keeper(), &self.inputs) else { return };
        self.instances.trees().exclude(pid);
        self.listeners.store_all(&self.store.shared);
        self.instances.store_all(&self.store.shared);
        self.tap.store(&self.store.shared);
        tracing::info!("a new keeper has the listeners");
    }
}

/// The judgement by the answers that were compared, with that of probes and detectors: the worse one counts.
fn both(asked: Analysis, seen: Analysis) -> Analysis {
    let rank = |analysis: &Analysis| match analysis.verdict {
        Verdict::Fail => 2,
        Verdict::Inconclusive => 1,
        Verdict::Pass => 0,
    };
    if rank(&seen) > rank(&asked) {
        return seen;
    }
    let is_same = rank(&seen) == rank(&asked);
    let reasons = asked.reasons.into_iter().chain(seen.reasons.into_iter().filter(|_| is_same)).collect();
    Analysis { reasons, ..asked }
}
