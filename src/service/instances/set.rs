//! The instances in the two slots: started, adopted, listened to, ended.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ids::drains;
use super::logfiles::SlotLog;
use super::logpipe::{self, SparePipe};
use super::reports::Reports;
use super::sandbox::SandboxCache;
use super::task::{InstanceTask, attend};
use super::types::{AdoptError, Readiness, SpawnContext, StopCommand};
use crate::lifecycle::{self, Slot};
use crate::process;
use crate::report::chain;
use crate::runtime::instance::Instance;
use crate::runtime::isolation::Sandbox;
use crate::runtime::keeper::INSTANCE_PREFIX;
use crate::runtime::logs::{Log, Logger, PIPE_PREFIX};
use crate::runtime::notify::NotifySocket;
use crate::runtime::spawn::{self, Gate, SpawnSpec};
use crate::runtime::table::{self, InstanceTable};
use crate::runtime::traffic::NextVersion;
use crate::runtime::tree::{TreeLimits, Trees};
use crate::service::failure::reason;
use crate::service::fdstore::{SharedStore, StoredFds, keep, keep_copy};
use crate::service::logger::keep_logger;
use crate::service::sync::lock;

/// Names the notify socket of an instance in the descriptor store.
const NOTIFY_PREFIX: &str = "notify/";

/// All that runs.
pub struct Instances {
    trees: Trees,
    table: Arc<InstanceTable>,
    slots: [Option<InstanceHandle>; 2],
    /// Instances whose slot has a fresh one.
    leaving: Vec<InstanceHandle>,
    /// The tasks of those that have ended: each kills what its instance has left, and hears its last words.
    ending: Vec<JoinHandle<()>>,
    /// What the last instance of each slot printed.
    pub logs: [Option<SlotLog>; 2],
    /// The store path that had the sockets of each slot last.
    last: [Option<String>; 2],
    /// Who reads what they print.
    pub logger: Logger,
    rules: SandboxCache,
    /// What the descriptor store need not keep any more.
    released: Vec<String>,
    /// What the instances said of themselves last.
    pub reports: Reports,
    spare: SparePipe,
}

/// The instance in a slot.
pub struct InstanceHandle {
    /// Its id.
    pub id: String,
    /// Its slot.
    pub slot: Slot,
    /// Its main process.
    pub pid: u32,
    /// When it was started.
    pub since: Instant,
    orders: mpsc::Sender<StopCommand>,
    task: JoinHandle<()>,
    /// What it prints.
    pub log: Arc<Log>,
    /// Copies of what the descriptor store keeps for it, should the store be lost.
    pub kept: Vec<(String, OwnedFd)>,
}

impl Instances {
    /// Nothing runs yet.
    pub fn new(trees: Trees, table: InstanceTable, logger: Logger) -> Self {
        Self {
            trees,
            table: Arc::new(table),
            slots: [None, None],
            leaving: Vec::new(),
            ending: Vec::new(),
            logs: [None, None],
            last: [None, None],
            logger,
            rules: SandboxCache::default(),
            released: Vec::new(),
            reports: Reports::default(),
            spare: SparePipe::default(),
        }
    }

    /// Whether nothing runs any more.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty() && self.slots.iter().all(Option::is_none)
    }

    /// The id of the instance in a slot.
    pub fn id(&self, slot: Slot) -> Option<&str> {
        self.get(slot).map(|instance| &*instance.id)
    }

    /// The instance in a slot.
    pub fn get(&self, slot: Slot) -> Option<&InstanceHandle> {
        self.slots[slot.index()].as_ref()
    }

    /// Whether the instance in a slot only empties its queue.
    pub fn drains(&self, slot: Slot) -> bool {
        self.id(slot).is_some_and(drains)
    }

    /// Takes an instance out of its slot: it has ended.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(instance) = self.slots[slot.index()].take() {
            self.let_end(instance);
        }
    }

    fn let_end(&mut self, instance: InstanceHandle) {
        self.free(&instance.id);
        self.ending.retain(|task| !task.is_finished());
        self.ending.push(instance.task);
    }

    /// Waits until nothing is left of instances that have ended.
    pub async fn leftovers_gone(&mut self) {
        for task in self.ending.drain(..) {
            // One that panicked was told.
            let _ = task.await;
        }
    }

    /// Asks the instance of a slot to end and frees the slot for a fresh one.
    pub fn retire(&mut self, slot: Slot) {
        self.stop(slot, false);
        self.leaving.extend(self.slots[slot.index()].take());
    }

    /// Forgets a retired instance that has ended; `false` when there is none of this id.
    pub fn dismiss(&mut self, id: &str) -> bool {
        let Some(at) = self.leaving.iter().position(|instance| instance.id == id) else { return false };
        let instance = self.leaving.swap_remove(at);
        self.let_end(instance);
        true
    }

    fn free(&mut self, id: &str) {
        self.table.clear(id);
        self.released.extend([INSTANCE_PREFIX, PIPE_PREFIX, NOTIFY_PREFIX].map(|prefix| format!("{prefix}{id}")));
        self.released.push(logpipe::memory_name(&logpipe::name(id)));
    }

    /// Lets the store forget instances that have ended, and prepares the next start. Their successors were started first:
    /// it takes a while to ask the store.
    pub fn release(&mut self, store: &SharedStore) {
        for name in self.released.drain(..) {
            if let Err(error) = lock(store).remove(&name) {
                tracing::warn!(error = %chain(&error), name, "the descriptor store did not let go");
            }
        }
        self.spare.prepare(store);
    }

    /// The log of the last instance in a slot.
    pub fn last_log(&self, slot: Slot) -> Option<SlotLog> {
        self.logs[slot.index()].clone()
    }

    /// Reaps processes that instances left behind.
    pub fn reap_orphans(&self) -> usize {
        self.trees.reap_orphans()
    }

    /// The trees of all instances: who belongs to one has no say.
    pub fn trees(&self) -> Trees {
        self.trees.clone()
    }

    /// Starts an instance in a slot that has none. Behind a gate it is made ready, and this waits until that is decided.
    ///
    /// # Errors
    /// In one line, for a person: which step failed and why.
    pub fn start(
        &mut self,
        wanted: &SpawnContext<'_>,
        id: String,
        gate: Option<&Gate>,
    ) -> Result<lifecycle::Instance, String> {
        let mut kept = StoredFds::new();
        let pipe = self.spare.take(&id, wanted.store)?;
        let spawned = self.spawn(wanted, &id, &pipe.write, gate, &mut kept);
        let (instance, notify) = spawned.inspect_err(|_| self.free(&id))?;
        // The process runs already: what it prints meanwhile waits in the pipe.
        let log = match self.begin_log(wanted, &id, &pipe) {
            Ok(log) => log,
            Err(why) => {
                self.free(&id);
                end(instance);
                return Err(why);
            }
        };
        kept.extend(pipe.belongs_to(&id, wanted.store));
        let started = lifecycle::Instance { id, pid: instance.pid(), start_ticks: instance.start_ticks() };
        let instance = self.occupy(wanted, instance, log, notify, Readiness::default(), kept);
        self.slots[wanted.slot.index()] = Some(instance);
        Ok(started)
    }

    fn spawn(
        &mut self,
        wanted: &SpawnContext<'_>,
        id: &str,
        output: &OwnedFd,
        gate: Option<&Gate>,
        kept: &mut StoredFds,
    ) -> Result<(Instance, Option<NotifySocket>), String> {
        let config = &wanted.tools.config;
        let (state, temporary) = self.directories(wanted)?;
        let store_path = Path::new(wanted.store_path);
        let (program, args) = command(store_path, &config.runtime.command);
        let env = spawn::environment(&config.runtime.env, &state, &temporary);
        let heir = self.heir(wanted, id);
        let sandbox = self.rules.get(wanted, &state, &temporary, &self.trees)?;
        let notify = bind_notify(wanted, id, sandbox)?;
        if let Some(notify) = &notify {
            keep(wanted.store, format!("{NOTIFY_PREFIX}{id}"), notify.as_fd(), kept);
        }
        let watchdog = config.health.notify.as_ref().and_then(|notify| notify.watchdog);
        let limits =
            TreeLimits { memory_bytes: config.isolation.memory_bytes, processes: Some(config.isolation.processes) };
        let tree = self.trees.create(id, limits).map_err(|error| format!("cannot make its cgroup: {error}"))?;
        let cell = self.table.reserve(id).map_err(|error| chain(&error))?;
        let mut traffic = lock(wanted.traffic);
        let slot = wanted.slot.into();
        if !self.leaving.iter().any(|instance| instance.slot == wanted.slot) {
            // What an instance did to the sockets is undone, unless one that lives uses them.
            let refused = traffic.prepare(slot, heir, &mut **lock(wanted.store)).map_err(|error| chain(&error))?;
            for name in refused {
                tracing::error!(name, "another version left this listener unusable; what waited there was refused");
            }
        }
        self.last[wanted.slot.index()] = (!drains(id)).then(|| wanted.store_path.to_owned());
        let fds = traffic.slot_fds(slot);
        let spawned = spawn::spawn(&SpawnSpec {
            id,
            program: &program,
            args: &args,
            env: &env,
            dir: Some(&state),
            fds: &fds,
            stdout: output.as_fd(),
            stderr: output.as_fd(),
            sandbox: Some(sandbox),
            cgroup: tree.cgroup(),
            notify: notify.as_ref().map(|notify| (notify.path(), watchdog)),
            pid_cell: Some(cell),
            gate,
        })
        .map_err(|error| reason(&error, error.hint()))?;
        drop(fds);
        drop(traffic);
        self.table.started(id, spawned.start_ticks);
        keep(wanted.store, format!("{INSTANCE_PREFIX}{id}"), spawned.pidfd.as_fd(), kept);
        let instance =
            Instance::new(id, spawned, tree).map_err(|error| format!("cannot watch its process: {error}"))?;
        Ok((instance, notify))
    }

    /// Who inherits the sockets. An instance that only empties a queue takes it as it is.
    fn heir(&self, wanted: &SpawnContext<'_>, id: &str) -> NextVersion {
        let same = self.last[wanted.slot.index()].as_deref() == Some(wanted.store_path);
        if same || drains(id) { NextVersion::Same } else { NextVersion::Other }
    }

    fn directories(&self, wanted: &SpawnContext<'_>) -> Result<(PathBuf, PathBuf), String> {
        let paths = &wanted.tools.paths;
        let temporary = paths.run().join(format!("tmp-{}", wanted.slot.to_string().to_lowercase()));
        Ok((paths.instance_state(), temporary))
    }

    /// Takes over an instance that an earlier supervisor started in a slot. `ready` says whether that one knew it to be.
    ///
    /// # Errors
    /// When it has ended or cannot be watched; what it printed last goes to the log.
    pub fn adopt(
        &mut self,
        wanted: &SpawnContext<'_>,
        entry: &table::Entry,
        from: &mut StoredFds,
        ready: bool,
    ) -> Result<(), AdoptError> {
        let instance = self.take_over(wanted, entry, from, ready)?;
        self.slots[wanted.slot.index()] = Some(instance);
        Ok(())
    }

    /// Asks an instance of an earlier supervisor to end that no slot knows of: one that was begun and never recorded, one
    /// that drained, or one whose place another had taken. It may finish what it has.
    pub fn end_stray(&mut self, wanted: &SpawnContext<'_>, entry: &table::Entry, from: &mut StoredFds) {
        match self.take_over(wanted, entry, from, true) {
            Ok(instance) => {
                tracing::warn!(id = instance.id, pid = instance.pid, "an instance that no slot has is asked to end");
                instance.stop(false);
                self.leaving.push(instance);
            }
            Err(AdoptError { why, .. }) => tracing::debug!(id = entry.id, why, "an instance is gone"),
        }
    }

    fn take_over(
        &mut self,
        wanted: &SpawnContext<'_>,
        entry: &table::Entry,
        from: &mut StoredFds,
        ready: bool,
    ) -> Result<InstanceHandle, AdoptError> {
        let id = &*entry.id;
        self.last[wanted.slot.index()] = Some(wanted.store_path.to_owned());
        let mut kept = StoredFds::new();
        let mut take = |prefix: &str| {
            let name = format!("{prefix}{id}");
            let (_, fd) = from.swap_remove(from.iter().position(|(kept, _)| *kept == name)?);
            keep_copy(name, fd.as_fd(), &mut kept);
            Some(fd)
        };
        let (notify, pidfd) = (take(NOTIFY_PREFIX), take(INSTANCE_PREFIX));
        let pipe = logpipe::kept(id, from, wanted.store).map(|(pipe, memory, of_pipe)| {
            kept.extend(of_pipe);
            (pipe, memory)
        });
        let adopted = match entry.pid {
            Some(pid) => Instance::adopt(id, pid, entry.start_ticks, &self.trees).map_err(|error| chain(&error)),
            None => Err("it was not made".to_owned()),
        };
        let instance = match adopted {
            Ok(instance) => instance,
            Err(why) => {
                let log = pipe.and_then(|pipe| self.resume_log(wanted, id, Some(pipe)).ok());
                let _ = std::fs::remove_file(notify_path(wanted, id));
                self.free(id);
                return Err(AdoptError { why, log });
            }
        };
        if pidfd.is_none()
            && let Ok(pidfd) = crate::runtime::pidfd::open(instance.pid())
        {
            keep(wanted.store, format!("{INSTANCE_PREFIX}{id}"), pidfd.as_fd(), &mut kept);
        }
        let log = self.resume_log(wanted, id, pipe).map_err(|why| AdoptError { why, log: None })?;
        let notify = match self.adopt_notify(wanted, id, notify, &mut kept) {
            Ok(notify) => notify,
            Err(why) => {
                tracing::error!(id, why, "the instance cannot be heard any more");
                None
            }
        };
        Ok(self.occupy(
            wanted,
            instance,
            log,
            notify,
            Readiness { ready, notified: ready || entry.reported_ready },
            kept,
        ))
    }

    fn adopt_notify(
        &mut self,
        wanted: &SpawnContext<'_>,
        id: &str,
        socket: Option<OwnedFd>,
        kept: &mut StoredFds,
    ) -> Result<Option<NotifySocket>, String> {
        if let Some(socket) = socket {
            let adopted = NotifySocket::adopt(&notify_path(wanted, id), socket);
            return adopted.map(Some).map_err(|error| error.to_string());
        }
        let (state, temporary) = self.directories(wanted)?;
        let sandbox = self.rules.get(wanted, &state, &temporary, &self.trees)?;
        let notify = bind_notify(wanted, id, sandbox)?;
        if let Some(notify) = &notify {
            keep(wanted.store, format!("{NOTIFY_PREFIX}{id}"), notify.as_fd(), kept);
        }
        Ok(notify)
    }

    /// What a new descriptor store must be given for the instances.
    pub fn store_all(&self, store: &SharedStore) {
        let instances = self.all().flat_map(|instance| &instance.kept);
        for (name, fd) in instances.chain(self.spare.kept()) {
            if let Err(error) = lock(store).store(name, fd.as_fd()) {
                tracing::warn!(error = %chain(&error), name, "it will not outlive the supervisor");
            }
        }
        keep_logger(&self.logger, store);
    }

    /// All that are there, also those whose slot has a fresh one.
    pub fn all(&self) -> impl Iterator<Item = &InstanceHandle> {
        self.slots.iter().flatten().chain(&self.leaving)
    }

    fn occupy(
        &self,
        wanted: &SpawnContext<'_>,
        instance: Instance,
        log: Arc<Log>,
        notify: Option<NotifySocket>,
        said: Readiness,
        kept: StoredFds,
    ) -> InstanceHandle {
        let (orders, received) = mpsc::channel(4);
        let read = log.clone();
        let (id, pid) = (instance.id().to_owned(), instance.pid());
        let now = Instant::now();
        let since = now.checked_sub(process::age(instance.start_ticks())).unwrap_or(now);
        let task = tokio::spawn(attend(InstanceTask {
            slot: wanted.slot,
            store_path: wanted.store_path.to_owned(),
            instance,
            since,
            log,
            logger: self.logger.clone(),
            notify,
            said,
            table: self.table.clone(),
            tools: wanted.tools.clone(),
            traffic: wanted.traffic.clone(),
            inputs: wanted.inputs.clone(),
            orders: received,
        }));
        InstanceHandle { id, slot: wanted.slot, pid, since, orders, task, log: read, kept }
    }

    /// Asks the instance of a slot to end; `false` when there is none.
    pub fn stop(&self, slot: Slot, drain: bool) -> bool {
        self.get(slot).is_some_and(|instance| instance.stop(drain))
    }

    /// The processes that the table knows of, from an earlier supervisor.
    pub fn recorded(&self) -> Vec<crate::runtime::table::Entry> {
        self.table.entries()
    }

    /// Whether no instance is to blame for not being there: the machine was started anew since the last supervisor, or
    /// that one ended them all.
    pub fn nothing_to_find(&self) -> bool {
        (self.table.is_new_boot() || self.table.was_clean_stop()) && self.is_empty()
    }

    /// Notes for the next supervisor that every instance was ended on purpose.
    pub fn all_ended(&self) {
        self.table.mark_clean_stop();
    }

    /// Lets the store forget what an earlier supervisor kept and nothing here has taken over.
    pub fn forget(&mut self, left: StoredFds) {
        let all = self.slots.iter().flatten().chain(&self.leaving).flat_map(|instance| &instance.kept);
        let ours: BTreeSet<&String> = all.chain(self.spare.kept()).map(|(name, _)| name).collect();
        let prefixes = [INSTANCE_PREFIX, PIPE_PREFIX, NOTIFY_PREFIX];
        let is_instances = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let names = left.into_iter().map(|(name, _)| name);
        self.released.extend(names.filter(|name| is_instances(name) && !ours.contains(name)));
    }

    /// Forgets the prepared rules: the configuration has changed.
    pub fn configure(&mut self) {
        self.rules = SandboxCache::default();
    }
}

impl InstanceHandle {
    /// The pipe that it prints to; `None` where another logger has it, of which the store knew nothing.
    pub fn pipe(&self) -> Option<&OwnedFd> {
        let name = logpipe::name(&self.id);
        self.kept.iter().find(|(kept, _)| *kept == name).map(|(_, pipe)| pipe)
    }

    fn stop(&self, drain: bool) -> bool {
        self.orders.try_send(StopCommand { drain }).is_ok()
    }
}

impl Drop for Instances {
    /// Nobody attends any more. One that left its slot before is left alone: its task ends by itself, once the leftovers
    /// of the instance are killed and its last words are told.
    fn drop(&mut self) {
        for instance in self.all() {
            instance.task.abort();
        }
    }
}

/// Ends an instance that no slot has.
fn end(mut instance: Instance) {
    tokio::spawn(async move { instance.end().await });
}

fn notify_path(wanted: &SpawnContext<'_>, id: &str) -> PathBuf {
    wanted.tools.paths.run().join(format!("notify-{id}"))
}

fn bind_notify(wanted: &SpawnContext<'_>, id: &str, sandbox: &Sandbox) -> Result<Option<NotifySocket>, String> {
    if wanted.tools.config.health.notify.is_none() {
        return Ok(None);
    }
    let path = notify_path(wanted, id);
    let socket = NotifySocket::bind(&path, sandbox.user());
    socket.map(Some).map_err(|error| format!("cannot bind its notify socket {}: {error}", path.display()))
}

/// The program and arguments of an instance. The program is inside the store path.
pub fn command(store_path: &Path, words: &[String]) -> (PathBuf, Vec<OsString>) {
    let program = words.first().map_or_else(|| store_path.to_owned(), |program| store_path.join(program));
    (program, words.iter().skip(1).map(OsString::from).collect())
}
