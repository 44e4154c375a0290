//! The loop: one input, one decision, all its effects, the next input.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::AbortHandle;

use super::clock::Clock;
use super::failure::reason;
use super::input::{Ask, Input, Inputs, News};
use super::instances::slots::Occupants;
use super::keep::{Lifeline, Store};
use super::logger::Reading;
use super::memory;
use super::mend::{self, Standing};
use super::reach::Reach;
use super::signals::{Signal, Signals};
use super::tools::Tools;
use super::watch::Watch;
use crate::history::entry::Entry;
use crate::interface::operations::MonitorEvent;
use crate::interface::types::EvolutionId;
use crate::journal::{Journal, Reserve};
use crate::lifecycle::{Event, Lifecycle, RunState, Slot, Timer};
use crate::report::chain;
use crate::runtime::traffic::{Alarm, Traffic};
use crate::time::Timestamp;

/// The pause between looks at usage and windows.
const TICK: Duration = Duration::from_secs(1);
/// The pause before an event is tried again that could not be journalled.
const RETRY: Duration = Duration::from_secs(1);
/// Looks without a record after which memory is given back: whatever happened is over then.
const QUIET_LOOKS: u32 = 10;
/// Looks without a record after which the journal's sealed head is synced: a burst of records is synced once. Without any
/// pause between records the kernel writes it back, in half a minute.
const SYNC_LOOKS: u32 = 1;
/// Records between snapshots of the state: a restart reads at most so many.
const SNAPSHOT_EVERY: u64 = 256;

/// From a child's end to the look for orphans: an instance's successor is started before it.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// The journal cannot be written.
pub struct Stalled {
    /// Why not, with the next step.
    pub(super) why: String,
    again_at: Instant,
}

/// Why the supervisor ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Asked,
    /// The program is replaced in place.
    Reexec,
    /// It was asked to leave the runtime to the next supervisor.
    Left,
    /// There is nothing to supervise.
    GaveUp {
        /// Why.
        reason: String,
        /// The next step.
        hint: String,
    },
}

/// The supervisor.
pub struct Shell {
    pub(super) core: Lifecycle,
    pub(super) journal: Journal<Entry>,
    pub(super) clock: Clock,
    pub(super) tools: Arc<Tools>,
    pub(super) pending: VecDeque<Event>,
    /// Until when alarms wait.
    pub(super) alarm_at: Option<Instant>,
    /// Why events wait.
    pub(super) stalled: Option<Stalled>,
    pub(super) inputs: Inputs,
    pub(super) received: mpsc::Receiver<Input>,
    pub(super) listeners: broadcast::Sender<MonitorEvent>,
    pub(super) traffic: Arc<Mutex<Traffic>>,
    pub(super) store: Store,
    pub(super) lifeline: Lifeline,
    pub(super) reading: Reading,
    /// The program, as it was found at the start: a newer one may be in its place.
    pub(super) exe: PathBuf,
    pub(super) alarm: Alarm,
    pub(super) occupants: Occupants,
    pub(super) watch: Watch,
    pub(super) working: Vec<(EvolutionId, AbortHandle)>,
    pub(super) signals: Signals,
    /// When orphans are looked for.
    pub(super) reap_at: Option<Instant>,
    pub(super) end: Option<End>,
    pub(super) since_snapshot: u64,
    pub(super) started_at: Timestamp,
    /// What the last probe of an instance that is not ready said.
    pub(super) not_yet: [Option<String>; 2],
    /// Until when an instance, by its id, has asked to be waited for.
    pub(super) extended: [Option<(String, Instant)>; 2],
    /// How the last instance of Active ended.
    pub(super) last_exit: Option<String>,
    /// Who reads the journal for an operator takes one.
    pub(super) journal_readers: Arc<Semaphore>,
    /// Builds and validations that were asked for from outside.
    pub(super) asides: u64,
    /// How many looks there were since the last record.
    pub(super) looks_since_record: u32,
    /// Whether the journal lacked space at the last look.
    pub(super) is_journal_short: bool,
    /// Whether instances can read what operators prove themselves by.
    pub(super) reach: Reach,
    /// How this process ran at its start.
    pub(super) standing: Standing,
    /// Looks since its files and its standing were looked at.
    pub(super) looks_since_mend: u32,
}

impl Shell {
    /// Supervises until it ends.
    pub async fn run(&mut self) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.drain();
            self.occupants.let_go(&self.store);
            if let Some(end) = self.end.take() {
                return end;
            }
            self.watch_listeners();
            let (due, reap_at) = (self.next_timer(), self.reap_at);
            let again_at = self.stalled.as_ref().map(|stalled| stalled.again_at);
            // In no order: whatever a runtime floods, timers and operators get their turn.
            tokio::select! {
                signal = self.signals.next() => self.on_signal(signal),
                input = self.received.recv() => match input {
                    Some(input) => self.on_input(input),
                    None => unreachable!("the supervisor holds a sender itself"),
                },
                () = sleep_until(due.map(|(_, at)| at)) => {
                    if let Some((timer, _)) = due {
                        self.on_due(timer);
                    }
                }
                () = sleep_until(reap_at) => {
                    self.reap_at = None;
                    self.occupants.reap_orphans();
                }
                () = sleep_until(again_at) => {}
                () = self.lifeline.cut() => self.renew_keeper(Duration::ZERO),
                () = self.reading.lifeline.cut() => self.renew_logger(),
                () = sleep_until(self.reading.look_at) => self.look_at_logs(),
                () = sleep_until(self.alarm_at), if self.alarm_at.is_some() => self.alarm_at = None,
                tampering = self.alarm.next(), if self.alarm_at.is_none() => self.on_alarm(tampering),
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    /// The timer that is due first, and when. While nothing can be decided, none is.
    fn next_timer(&self) -> Option<(Timer, Instant)> {
        if self.stalled.is_some() {
            return None;
        }
        let first = self.core.timers().iter().min_by_key(|(_, armed)| armed.at)?;
        Some((*first.0, self.clock.instant(first.1.at)))
    }

    /// Takes every event that waits, in order; the effects of one may bring more. While the journal cannot be written,
    /// they wait: Active serves on, questions are answered, nothing is decided.
    pub(super) fn drain(&mut self) {
        if self.stalled.as_ref().is_some_and(|stalled| Instant::now() < stalled.again_at) {
            return;
        }
        while let Some(event) = self.pending.pop_front() {
            if let Err((event, why)) = self.take(event) {
                self.pending.push_front(event);
                // Perhaps it is only a mode; then the next try succeeds.
                self.mend();
                self.stall(why);
                return;
            }
            if self.stalled.take().is_some() {
                tracing::info!("the journal can be written again; what waited is decided now");
            }
        }
    }

    fn stall(&mut self, why: String) {
        if self.stalled.as_ref().is_none_or(|stalled| stalled.why != why) {
            tracing::error!("Active serves on, and nothing is decided: {why}");
        }
        self.stalled = Some(Stalled { why, again_at: Instant::now() + RETRY });
    }

    /// Decides about one event, writes it down, and carries out what follows. Gives the event back, and why, when it could
    /// not be written: the state is as before then.
    #[expect(
        clippy::result_large_err,
        reason = "the event goes back to the queue it came from; boxing it would copy it too"
    )]
    pub(super) fn take(&mut self, event: Event) -> Result<(), (Event, String)> {
        let at = self.clock.now();
        let mut next = self.core.clone();
        let effects = next.step(at, event.clone());
        if effects.is_empty() && next == self.core {
            // That a commit is not taken is news for a person.
            if matches!(event, Event::Followed { .. }) {
                self.tell_story(&event, &effects);
            }
            return Ok(());
        }
        let entry = Entry { event, effects };
        let (seq, begun) = match self.record(at, &entry) {
            Ok(recorded) => recorded,
            Err(error) => return Err((entry.event, reason(&error, error.hint()))),
        };
        let before = std::mem::replace(&mut self.core, next);
        self.tools.needed.update(&self.core);
        if self.core.trial_slot().is_none() {
            self.watch.end_trial();
        }
        // Nobody's service waits for what is told.
        self.carry_out_all(entry.effects.clone(), begun);
        let under_way = |core: &Lifecycle| core.evolution().map(|evolution| evolution.id.clone());
        if let Some(ended) = under_way(&before).filter(|ended| under_way(&self.core).as_ref() != Some(ended)) {
            tracing::debug!(%ended, "what it has left is cleared away");
            self.sweep();
        }
        self.tell(seq, at, &entry);
        self.looks_since_record = 0;
        self.since_snapshot += 1;
        // A restart must not meet the records again that this program does not follow.
        if self.since_snapshot >= SNAPSHOT_EVERY || matches!(entry.event, Event::Held(_)) {
            self.snapshot();
        }
        Ok(())
    }

    /// Stores the state, so that the next start replays only what follows.
    pub(super) fn snapshot(&mut self) {
        self.since_snapshot = 0;
        if let Err(error) = self.journal.snapshot(&self.core) {
            tracing::warn!(error = %chain(&error), "cannot write a snapshot; a restart takes longer");
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.pending.push_back(event),
            Input::Instance { slot, id, news } => self.on_news(slot, &id, news),
            Input::Progress { text, done } => self.tell_progress(text, done),
            Input::Ask(ask) => self.on_ask(ask),
            Input::Keeper(started) => self.on_keeper(started),
            Input::Logger(started) => self.on_logger(started),
            Input::Intruder(detail) => self.on_intruder(detail),
        }
    }

    fn on_news(&mut self, slot: Slot, id: &str, news: News) {
        match news {
            News::Crashed { store_path, exit } => self.saw_crash(slot, &store_path, exit),
            News::Stopped | News::Exited(..) if self.occupants.dismiss(id) => {}
            news if self.occupants.id(slot) != Some(id) => tracing::debug!(%slot, id, ?news, "stale news"),
            News::Signal(signal) => self.saw(slot, signal),
            News::Ready => {
                self.saw(slot, crate::health::Signal::Ready(true));
                self.pending.push_back(Event::Ready { slot });
            }
            News::Extends(by) => self.extends(slot, id, by),
            News::NotYet(detail) => self.not_yet[slot.index()] = Some(detail),
            News::Exited(exit, ran_ms) => self.on_exited(slot, exit, ran_ms),
            News::Stopped => self.on_stopped(slot),
        }
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Terminate => self.end = Some(End::Asked),
            Signal::Leave => self.end = Some(End::Left),
            Signal::Reload => self.reload(),
            Signal::Child => {
                self.reap_at.get_or_insert_with(|| Instant::now() + REAP_PAUSE);
            }
        }
    }

    fn on_tick(&mut self) {
        self.watch_tick();
        self.signals.feed_watchdog();
        if self.reading.look_at.is_none() {
            self.look_at_logs();
        }
        self.looks_since_mend += 1;
        if self.looks_since_mend >= mend::LOOKS {
            self.looks_since_mend = 0;
            self.mend();
        }
        self.looks_since_record = self.looks_since_record.saturating_add(1);
        if self.looks_since_record == SYNC_LOOKS {
            self.sync_head();
        }
        if self.looks_since_record == SYNC_LOOKS || self.is_journal_short {
            self.look_at_journal();
        }
        if self.looks_since_record == QUIET_LOOKS {
            memory::give_back();
        }
    }

    /// Undoes what a process of rei's user did to rei, and tells.
    pub(super) fn mend(&mut self) {
        let changed = [mend::files(&self.tools.paths), self.standing.restore()].concat();
        if changed.is_empty() {
            return;
        }
        let detail = changed.join("; ");
        tracing::warn!(detail, "a process of rei's user has changed what rei needs");
        if let Some(slot) = self.core.active_slot() {
            self.anomaly(slot, "supervisor_files", detail);
        }
    }

    /// Brings the journal's sealed head to disk, beside the loop: only a power cut asks for it.
    fn sync_head(&mut self) {
        if let Some(why) = self.journal.head_failure() {
            tracing::warn!(why, "the journal's head is behind: lost records would not be noticed");
        }
        if let Some(head) = self.journal.head_to_sync() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = head.sync_data() {
                    tracing::warn!(%error, "cannot sync the journal's sealed head");
                }
            });
        }
    }

    /// Tells an operator that the journal lacks space, once when it begins: the records of a rollback are written to it.
    fn look_at_journal(&mut self) {
        let mut lacks = Vec::new();
        if let Reserve::Shrinking { bytes, reason } = self.journal.reserve() {
            lacks.push(format!(
                "no space can be reserved for its next records, {bytes} bytes are left of what was: {reason}"
            ));
        }
        if let Some(reason) = self.journal.rotation_failure() {
            lacks.push(format!("its full file is not followed by a new one, and grows: {reason}"));
        }
        let was_short = std::mem::replace(&mut self.is_journal_short, !lacks.is_empty());
        match (was_short, lacks.is_empty()) {
            (false, false) => tracing::warn!(
                directory = %self.tools.paths.journal().display(),
                "the journal lacks space, and without it nothing can be decided; free space there: {}",
                lacks.join("; ")
            ),
            (true, true) => tracing::info!("the journal has its space again"),
            (false, true) | (true, false) => {}
        }
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Ask::Operator { who, request, reply } => {
                let answer = self.operator(who, request);
                let _ = reply.send(answer);
            }
            Ask::History(limit, reply) => self.history(limit, reply),
            Ask::Show(id, reply) => self.show(id, reply),
            Ask::Quarantine(reply) => {
                let _ = reply.send(self.quarantine());
            }
            Ask::Stop => self.end = Some(End::Asked),
            Ask::Reexec(reply) => {
                let _ = reply.send(Ok(()));
                self.end = Some(End::Reexec);
            }
            Ask::Health(reply) => {
                let _ = reply.send(self.health_report());
            }
            Ask::Context(incident, reply) => self.ask_context(incident, reply),
            Ask::Build(context, reply) => self.ask_build(*context, reply),
            Ask::Validate(candidate, reply) => self.ask_validate(*candidate, reply),
        }
    }

    /// Whether a process should run in a slot.
    pub(super) fn runs(&self, slot: Slot) -> bool {
        matches!(self.core.slot(slot).run, RunState::Starting | RunState::Ready)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
