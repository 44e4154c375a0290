//! The process: signals, the service manager, orphans, and the service that it supervises.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::memory;
use super::reexec;
use super::signals::{Signal, Signals};
use super::standing::Standing;
use crate::runtime::tree::Trees;
use crate::service::StartError;
use crate::service::sync::AbortOnDrop;
use crate::service::{End, Service};

/// The pause between looks at usage, windows, logs and the journal.
const TICK: Duration = Duration::from_secs(1);
/// Ticks without a record after which memory is given back: whatever happened is over then.
const QUIET_TICKS: u32 = 10;
/// Ticks from one look at rei's own files and threads to the next.
const REPAIR_TICKS: u32 = 30;
/// From a child's end to the look for orphans: an instance's successor is started before it.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// What a process has once, and its service.
pub struct Daemon {
    service: Service,
    /// The service's sockets and background work.
    _tasks: Vec<AbortOnDrop<()>>,
    signals: Signals,
    /// How this process ran at its start.
    standing: Standing,
    trees: Trees,
    /// The program, as it was found at the start: a newer one may be in its place.
    exe: PathBuf,
    /// When orphans are looked for.
    reap_at: Option<Instant>,
    /// Ticks since rei's own files and threads were looked at.
    ticks_since_repair: u32,
}

impl Daemon {
    /// Around a service that is supervised.
    pub fn new(
        service: Service,
        tasks: Vec<AbortOnDrop<()>>,
        signals: Signals,
        standing: Standing,
        trees: Trees,
        exe: &Path,
    ) -> Self {
        let exe = exe.to_owned();
        Self { service, _tasks: tasks, signals, standing, trees, exe, reap_at: None, ticks_since_repair: 0 }
    }

    /// Tells the service manager that requests can be served.
    pub fn notify_ready(&self) {
        self.signals.notify("READY=1");
    }

    /// Supervises until the end, and ends what is to be ended.
    ///
    /// # Errors
    /// When there turned out to be nothing to supervise.
    pub async fn run(&mut self) -> Result<End, StartError> {
        let end = loop {
            match self.until_end().await {
                // It comes back only if that failed.
                End::Reexec => self.reexec().await,
                End::Left => {
                    self.signals.notify("STOPPING=1\nSTATUS=the runtime serves on");
                    self.service.end_work().await;
                    return Ok(End::Left);
                }
                end => break end,
            }
        };
        self.signals.notify("STOPPING=1");
        let signals = &self.signals;
        // The service manager has a bound as well.
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
            // In no order, as in the service's own loop.
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

    /// Undoes what a process of rei's user did to rei, and has it told.
    fn repair(&mut self) {
        self.ticks_since_repair = 0;
        let changed = [self.service.repair(), self.standing.restore()].concat();
        if !changed.is_empty() {
            self.service.on_repaired(&changed);
        }
    }

    /// Replaces the program. Returns only when that failed, and then everything goes on as before, with work begun anew.
    async fn reexec(&mut self) {
        self.service.end_work().await;
        // The new program takes what it finds for what it was given.
        self.repair();
        let handed = self.service.executor().store.across_exec();
        let Err(why) = reexec::exec(&self.exe, &handed);
        tracing::error!(%why, exe = %self.exe.display(), "cannot become the new program; the old one goes on");
        self.service.resume();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
