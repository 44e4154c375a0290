//! The task of one instance: it watches the readiness, the health and the end of the instance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::requests::{AccessLog, COUNTS_PAUSE, send_metrics};
use super::sender::EventSender;
use super::types::{DRAIN_MAX, Readiness, StopCommand};
use crate::diagnosis;
use crate::health::{Probe, ProbeOutcome, Signal};
use crate::interface::client::{ClientError, EvolutionClient};
use crate::lifecycle::{EXTENDED_MS_MAX, Slot};
use crate::live::metrics;
use crate::report::chain;
use crate::runtime::instance::{Ended, EndedBy, Instance, StopBy};
use crate::runtime::logs::{Log, Logger};
use crate::runtime::notify::{Notification, NotifySocket};
use crate::runtime::probe::{ProbeResult, Probes, Target};
use crate::runtime::table::InstanceTable;
use crate::runtime::traffic::{SlotDial, Traffic};
use crate::runtime::usage::UsageMeter;
use crate::service::input::{Inputs, InstanceEvent};
use crate::service::sync::{AbortOnDrop, lock};
use crate::service::tools::Tools;
use crate::time::millis;

/// The pause between two checks of a queue that drains.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// The pause between two measurements of the usage.
const USAGE_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of probe results or notifications that wait in a channel.
const RESULTS_MAX: usize = 64;
/// How long to wait for the last output of an ended instance in its pipe, and the pause between two checks.
const LAST_OUTPUT_MAX: Duration = Duration::from_secs(2);
const LAST_OUTPUT_PAUSE: Duration = Duration::from_millis(5);

/// An instance, and what its task needs.
pub struct InstanceTask {
    pub slot: Slot,
    pub store_path: String,
    pub instance: Instance,
    pub since: Instant,
    pub log: Arc<Log>,
    pub logger: Logger,
    pub notify: Option<NotifySocket>,
    pub readiness: Readiness,
    pub table: Arc<InstanceTable>,
    pub tools: Arc<Tools>,
    pub traffic: Arc<Mutex<Traffic>>,
    pub inputs: Inputs,
    pub orders: mpsc::Receiver<StopCommand>,
}

/// Watches the instance until it has ended.
pub async fn watch(mut it: InstanceTask) {
    let sender = EventSender { slot: it.slot, id: it.instance.id().to_owned(), inputs: it.inputs.clone() };
    let (results, mut probed) = mpsc::channel(RESULTS_MAX);
    let (notified, mut notes) = mpsc::channel(RESULTS_MAX);
    let health = &it.tools.config.health;
    let dial = Arc::new(SlotDial::new(it.traffic.clone()));
    let target = Target { slot: it.slot.index(), pid: it.instance.pid(), store_path: it.store_path.clone() };
    let _probes = Probes::start(health, &target, &dial, &results);
    let (table, id) = (it.table.clone(), sender.id.clone());
    let forward = |socket: NotifySocket| {
        AbortOnDrop(socket.forward(it.instance.tree().clone(), notified.clone(), move || table.reported_ready(&id)))
    };
    let _notes = it.notify.take().map(forward);
    let mut reports: Option<[AbortOnDrop<()>; 2]> = None;
    let (own_probes, mut access_log) = (Arc::new(AtomicU64::new(0)), AccessLog::new(it.tools.secrets.clone()));
    let mut counts = tokio::time::interval(COUNTS_PAUSE);
    let asks = health.http.is_some() || health.tcp.is_some() || health.command.is_some();
    let heard = it.readiness.notified || health.notify.is_none();
    let mut readiness = ReadyGate { probed: !asks, notified: heard, reported: it.readiness.ready };
    let mut watchdog = Watchdog::new(health.notify.as_ref().and_then(|notify| notify.watchdog));
    let mut usage = tokio::time::interval(USAGE_PAUSE);
    let meter = UsageMeter::default();
    readiness.report(&sender).await;
    loop {
        // As with probes: what a starting instance reports says nothing about the health of Active.
        if readiness.reported && reports.is_none() {
            let native = send_native_reports(it.slot, it.tools.clone(), it.traffic.clone(), sender.clone());
            let metrics = read_metrics(it.tools.clone(), dial.clone(), own_probes.clone(), sender.clone());
            reports = Some([AbortOnDrop(tokio::spawn(native)), AbortOnDrop(tokio::spawn(metrics))]);
        }
        tokio::select! {
            biased;
            exit = it.instance.wait() => {
                drop(reports);
                access_log.send(&it.log, &sender).await;
                ended(&mut it, &sender, exit).await;
                return;
            }
            Some(command) = it.orders.recv() => {
                drop(reports);
                execute_stop(&mut it, &sender, command, &mut notes, &mut access_log).await;
                return;
            }
            Some(result) = probed.recv() => {
                readiness.probed |= result.ok;
                own_probes.fetch_add(u64::from(result.ok && result.probe == "http"), Ordering::Relaxed);
                readiness.report(&sender).await;
                // A starting instance that does not answer yet is not faulty.
                if readiness.reported {
                    sender.send(InstanceEvent::Signal(Signal::Probe(result.into()))).await;
                } else if !result.ok {
                    sender.send(InstanceEvent::NotYet(result.detail)).await;
                }
            }
            Some(note) = notes.recv() => {
                match note {
                    Notification::Ready => {
                        readiness.notified = true;
                        readiness.report(&sender).await;
                    }
                    Notification::Watchdog => {
                        watchdog.fed();
                        sender.send(InstanceEvent::Signal(Signal::Watchdog)).await;
                    }
                    Notification::WatchdogTrigger => sender.send(InstanceEvent::Signal(Signal::WatchdogMissed)).await,
                    Notification::Garbage(detail) => {
                        sender.send(InstanceEvent::Signal(Signal::ReportGarbage { detail: format!("sd_notify: {detail}") })).await;
                    }
                    Notification::ExtendTimeout(by) => sender.send(InstanceEvent::Extends(by)).await,
                    Notification::Status(status) => tracing::debug!(slot = %it.slot, status, "status"),
                    Notification::Stranger(pid) => tracing::debug!(slot = %it.slot, pid, "notification from a process that is not of the instance"),
                    Notification::Reloading
                    | Notification::Stopping
                    | Notification::MainPid(_) => {}
                }
            }
            () = watchdog.missed(), if readiness.reported => {
                watchdog.fed();
                sender.send(InstanceEvent::Signal(Signal::WatchdogMissed)).await;
            }
            _ = counts.tick(), if it.log.is_counted() => access_log.send(&it.log, &sender).await,
            _ = usage.tick() => {
                let used = meter.read(&it.instance);
                sender.send(InstanceEvent::Signal(Signal::Usage(used))).await;
            }
        }
    }
}

/// The instance exited by itself. This reports the exit at once, then ends the remaining processes of the instance and
/// reports its last output.
async fn ended(it: &mut InstanceTask, sender: &EventSender, exit: crate::runtime::exit::Exit) {
    let ran_ms = millis(it.since.elapsed());
    sender.send(InstanceEvent::Exited(exit, ran_ms)).await;
    // First the event loop starts the successor: the kernel creates or removes only one cgroup at a time.
    tokio::task::yield_now().await;
    it.instance.end().await;
    let asked = Instant::now();
    while !it.log.is_finished() && asked.elapsed() < LAST_OUTPUT_MAX {
        tokio::time::sleep(LAST_OUTPUT_PAUSE).await;
    }
    let log = it.log.recent();
    it.logger.forget(it.instance.id());
    let secrets = it.tools.secrets.clone();
    let read = tokio::task::spawn_blocking(move || diagnosis::exit(exit.code, exit.signal, ran_ms, &log, &secrets));
    let Ok(exit) = read.await else { return };
    sender.send(InstanceEvent::Crashed { store_path: it.store_path.clone(), exit }).await;
}

/// Ends the instance. If the slot gets no new connections, the instance first empties its queue.
async fn execute_stop(
    it: &mut InstanceTask,
    sender: &EventSender,
    command: StopCommand,
    notes: &mut mpsc::Receiver<Notification>,
    access_log: &mut AccessLog,
) {
    let StopCommand { drain } = command;
    if drain {
        drained(&it.traffic, it.slot, &mut it.instance).await;
    }
    let runtime = &it.tools.config.runtime;
    let by = StopBy { signal: runtime.stop_signal, mode: runtime.stop_mode };
    let (asked, grace) = (Instant::now(), runtime.stop_timeout);
    let ended = stop(it, sender, by, grace, notes).await;
    if ended.by == EndedBy::Kill {
        let (slot, after) = (it.slot, asked.elapsed());
        tracing::warn!(%slot, ?after, "an instance did not exit in time after {}, so rei killed it", by.signal);
    }
    if ended.tree.survivors > 0 {
        tracing::error!(survivors = ended.tree.survivors, slot = %it.slot, "processes could not be killed");
    }
    access_log.send(&it.log, sender).await;
    it.logger.forget(it.instance.id());
    sender.send(InstanceEvent::Stopped).await;
}

/// Like [`Instance::stop`], with a grace period that the instance can extend.
async fn stop(
    it: &mut InstanceTask,
    sender: &EventSender,
    by: StopBy,
    grace: Duration,
    notes: &mut mpsc::Receiver<Notification>,
) -> Ended {
    if !it.instance.ask_to_finish(by).await {
        return it.instance.end().await;
    }
    let mut until = Instant::now() + grace;
    let last = until + Duration::from_millis(EXTENDED_MS_MAX);
    let finished = loop {
        tokio::select! {
            () = it.instance.finished(by) => break true,
            () = tokio::time::sleep_until(until.into()) => break false,
            Some(note) = notes.recv() => {
                if let Notification::ExtendTimeout(more) = note {
                    until = until.max(Instant::now() + more).min(last);
                    sender.send(InstanceEvent::Extends(more)).await;
                }
            }
        }
    };
    it.instance.finish_stop(by, finished).await
}

/// Waits until the slot's queues are empty, or the instance has exited, or [`DRAIN_MAX`] is over.
async fn drained(traffic: &Arc<Mutex<Traffic>>, slot: Slot, instance: &mut Instance) {
    let empty = async {
        while !lock(traffic).is_drained(slot.into()).unwrap_or(true) {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    };
    tokio::select! {
        () = empty => {}
        _ = instance.wait() => {}
        () = tokio::time::sleep(DRAIN_MAX) => tracing::warn!(%slot, "connections still wait in the queue; rei ends the instance"),
    }
}

/// The conditions for readiness.
struct ReadyGate {
    probed: bool,
    notified: bool,
    reported: bool,
}

impl ReadyGate {
    async fn report(&mut self, sender: &EventSender) {
        if self.probed && self.notified && !self.reported {
            self.reported = true;
            sender.send(InstanceEvent::Ready).await;
        }
    }
}

/// Checks that `WATCHDOG=1` comes in time.
struct Watchdog {
    every: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    fn new(every: Option<Duration>) -> Self {
        Self { every, last: Instant::now() }
    }

    fn fed(&mut self) {
        self.last = Instant::now();
    }

    async fn missed(&self) {
        match self.every {
            Some(every) => tokio::time::sleep_until((self.last + every).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// Reads the metrics of the runtime, if rei.toml says where they are.
async fn read_metrics(tools: Arc<Tools>, dial: Arc<SlotDial>, own_probes: Arc<AtomicU64>, sender: EventSender) {
    let health = &tools.config.health;
    if let (Some(source), Some(rules)) = (health.metrics.clone(), metrics::Rules::of(health)) {
        send_metrics(source, rules, dial, own_probes, sender).await;
    }
}

/// Reads the health reports of the runtime from its evolution interface, as long as the instance runs.
async fn send_native_reports(slot: Slot, tools: Arc<Tools>, traffic: Arc<Mutex<Traffic>>, sender: EventSender) {
    let Some(probe) = &tools.config.health.interface else { return };
    let Some(path) = lock(&traffic).interface_path(slot.into()).map(std::path::Path::to_owned) else { return };
    let late = probe.interval * 3;
    let client = EvolutionClient::new(path, late);
    loop {
        let signal = match client.stream_runtime_health(probe.interval).await {
            Ok(mut reports) => loop {
                match reports.next(late).await {
                    Some(Ok(report)) => {
                        sender.send(InstanceEvent::Signal(Signal::NativeReport(Box::new(report)))).await;
                    }
                    Some(Err(ClientError::Garbage { detail, .. })) => break Signal::ReportGarbage { detail },
                    Some(Err(error @ ClientError::TooLarge { .. })) => {
                        break Signal::ReportGarbage { detail: chain(&error) };
                    }
                    Some(Err(_)) | None => break Signal::ReportMissed,
                }
            },
            Err(error) => {
                tracing::debug!(error = %chain(&error), %slot, "the runtime does not answer on its interface");
                Signal::ReportMissed
            }
        };
        sender.send(InstanceEvent::Signal(signal)).await;
        tokio::time::sleep(probe.interval).await;
    }
}

impl From<ProbeResult> for Probe {
    fn from(result: ProbeResult) -> Self {
        let outcome = match (result.ok, result.timed_out) {
            (true, _) => ProbeOutcome::Ok,
            (false, true) => ProbeOutcome::TimedOut,
            (false, false) => ProbeOutcome::Failed,
        };
        Self { outcome, latency_us: result.latency_us, detail: result.detail }
    }
}
