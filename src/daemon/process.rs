//! The process: signals, the service manager, orphans, and the service that it supervises.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::memory;
use super::reexec;
use super::scheduling::Scheduling;
use super::signals::{Signal, Signals};
use crate::runtime::tree::Trees;
use crate::service::StartError;
use crate::service::sync::AbortOnDrop;
use crate::service::{End, Service};

/// The pause between two checks of usage, windows, logs and the journal.
const TICK: Duration = Duration::from_secs(1);
/// The number of ticks without a record after which memory is given back: all work has ended by then.
const QUIET_TICKS: u32 = 10;
/// The number of ticks between two checks of rei's own files and threads.
const REPAIR_TICKS: u32 = 30;
/// The pause between the end of a child and the search for orphans. The successor of an instance is started before that
/// search.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// The things that a process has only once, and its service.
pub struct Daemon {
    service: Service,
    /// The service's sockets and background work.
    _tasks: Vec<AbortOnDrop<()>>,
    signals: Signals,
    /// The scheduling of this process at its start.
    scheduling: Scheduling,
    trees: Trees,
    /// The path of the program, as it was found at the start. A newer program may be at that path now.
    exe: PathBuf,
    /// The time of the next search for orphans.
    reap_at: Option<Instant>,
    /// The number of ticks since the last check of rei's own files and threads.
    ticks_since_repair: u32,
}

impl Daemon {
    /// A daemon around a supervised service.
    pub fn new(
        service: Service,
        tasks: Vec<AbortOnDrop<()>>,
        signals: Signals,
        scheduling: Scheduling,
        trees: Trees,
        exe: &Path,
    ) -> Self {
        let exe = exe.to_owned();
        Self { service, _tasks: tasks, signals, scheduling, trees, exe, reap_at: None, ticks_since_repair: 0 }
    }

    /// Tells the service manager that requests can be served.
    pub fn notify_ready(&self) {
        self.signals.notify("READY=1");
    }

    /// Supervises until the end, and then ends the service if it must end.
    ///
    /// # Errors
    /// When no first version could serve, so there is nothing to supervise.
    pub async fn run(&mut self) -> Result<End, StartError> {
        let end = loop {
            match self.until_end().await {
                // The call returns only if the program could not be replaced.
                End::Reexec => self.reexec().await,
                End::Left => {
                    self.signals.notify("STOPPING=1\nSTATUS=the runtime continues to serve");
                    self.service.end_work().await;
                    return Ok(End::Left);
                }
                end => break end,
            }
        };
        self.signals.notify("STOPPING=1");
        let signals = &self.signals;
        // The service manager has a timeout of its own, which is extended too.
        let extended = |by: Duration| signals.notify(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
        self.service.end_all(extended).await;
        match end {
            End::GaveUp(gave_up) => Err(StartError::GaveUp(gave_up)),
            end => Ok(end),
        }
    }

    async fn until_end(&mut self) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let reap_at = self.reap_at;
            // The branches have no fixed order, as in the service's own loop.
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Terminate => return End::Asked,
                    Signal::Leave => return End::Left,
                    Signal::Reload => self.service.reload(),
                    Signal::Child => {
                        self.reap_at.get_or_insert_with(|| Instant::now() + REAP_PAUSE);
                    }
                },
                end = self.service.turn() => if let Some(end) = end {
                    return end;
                },
                () = sleep_until(reap_at) => {
                    self.reap_at = None;
                    self.trees.reap_orphans();
                }
                _ = tick.tick() => self.on_tick(),
            }
            if self.service.wants_repair() {
                self.repair();
            }
            if let Some(line) = self.service.take_status() {
                self.signals.status(&line);
            }
        }
    }

    fn on_tick(&mut self) {
        self.service.tick();
        self.signals.feed_watchdog();
        self.ticks_since_repair += 1;
        if self.ticks_since_repair >= REPAIR_TICKS {
            self.repair();
        }
        if self.service.quiet_ticks() == QUIET_TICKS {
            memory::give_back();
        }
    }

    /// Undoes the changes that a process of rei's user made to rei, and reports them.
    fn repair(&mut self) {
        self.ticks_since_repair = 0;
        let changed = [self.service.repair(), self.scheduling.restore()].concat();
        if !changed.is_empty() {
            self.service.on_repaired(&changed);
        }
    }

    /// Replaces the program. It returns only if that failed. Then the old program continues, and aborted work starts
    /// again.
    async fn reexec(&mut self) {
        self.service.end_work().await;
        // The repair comes first, because the new program takes the scheduling that it finds as its original one.
        self.repair();
        let passed = self.service.executor().store.across_exec();
        let Err(why) = reexec::exec(&self.exe, &passed);
        tracing::error!(%why, exe = %self.exe.display(), "cannot become the new program; the old program continues");
        self.service.resume();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
