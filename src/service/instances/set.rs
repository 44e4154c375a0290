//! The instances in the two slots: starts, adopts and ends them.

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
use super::task::{InstanceTask, watch};
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

/// All instances that run.
pub struct Instances {
    trees: Trees,
    table: Arc<InstanceTable>,
    slots: [Option<InstanceHandle>; 2],
    /// Retired instances: a new instance has their slot.
    leaving: Vec<InstanceHandle>,
    /// The tasks of ended instances: each kills the remaining processes of its instance, and reads its last output.
    ending: Vec<JoinHandle<()>>,
    /// The log of the last instance in each slot.
    pub logs: [Option<SlotLog>; 2],
    /// The store path that used the sockets of each slot last.
    last: [Option<String>; 2],
    /// The connection to the logger, which reads the output of the instances.
    pub logger: Logger,
    sandbox: SandboxCache,
    /// Names that the descriptor store need not keep any more.
    released: Vec<String>,
    /// The last reports of the instances.
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
    /// Its log.
    pub log: Arc<Log>,
    /// Copies of the descriptors that the store keeps for it, in case the store is lost.
    pub kept: Vec<(String, OwnedFd)>,
}

impl Instances {
    /// An empty set: no instance runs yet.
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
            sandbox: SandboxCache::default(),
            released: Vec::new(),
            reports: Reports::default(),
            spare: SparePipe::default(),
        }
    }

    /// True if no instance runs any more.
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

    /// True if the instance in a slot only empties its queue.
    pub fn drains(&self, slot: Slot) -> bool {
        self.id(slot).is_some_and(drains)
    }

    /// Removes an instance that has ended from its slot.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(instance) = self.slots[slot.index()].take() {
            self.finish(instance);
        }
    }

    fn finish(&mut self, instance: InstanceHandle) {
        self.free(&instance.id);
        self.ending.retain(|task| !task.is_finished());
        self.ending.push(instance.task);
    }

    /// Waits until the tasks of all ended instances are done.
    pub async fn leftovers_gone(&mut self) {
        for task in self.ending.drain(..) {
            // The panic of a task was already reported.
            let _ = task.await;
        }
    }

    /// Asks the instance in a slot to end, and frees the slot for a new instance.
    pub fn retire(&mut self, slot: Slot) {
        self.stop(slot, false);
        self.leaving.extend(self.slots[slot.index()].take());
    }

    /// Removes a retired instance that has ended; `false` if no retired instance has this id.
    pub fn dismiss(&mut self, id: &str) -> bool {
        let Some(at) = self.leaving.iter().position(|instance| instance.id == id) else { return false };
        let instance = self.leaving.swap_remove(at);
        self.finish(instance);
        true
    }

    fn free(&mut self, id: &str) {
        self.table.clear(id);
        self.released.extend([INSTANCE_PREFIX, PIPE_PREFIX, NOTIFY_PREFIX].map(|prefix| format!("{prefix}{id}")));
        self.released.push(logpipe::memory_name(&logpipe::name(id)));
    }

    /// Removes the descriptors of ended instances from the store, and prepares the next start. Call this after the
    /// successors are started, because requests to the store take time.
    pub fn release(&mut self, store: &SharedStore) {
        for name in self.released.drain(..) {
            if let Err(error) = lock(store).remove(&name) {
                tracing::warn!(error = %chain(&error), name, "the descriptor store did not remove the descriptor of an ended instance");
            }
        }
        self.spare.prepare(store);
    }

    /// The log of the last instance in a slot.
    pub fn last_log(&self, slot: Slot) -> Option<SlotLog> {
        self.logs[slot.index()].clone()
    }

    /// Reaps the processes that ended instances left.
    pub fn reap_orphans(&self) -> usize {
        self.trees.reap_orphans()
    }

    /// The process trees of all instances: a process in one of them may not give orders to rei.
    pub fn trees(&self) -> Trees {
        self.trees.clone()
    }

    /// Starts an instance in an empty slot. With a gate this prepares the instance, and then waits for the gate's
    /// decision.
    ///
    /// # Errors
    /// The step that failed and why, in one line for a person.
    pub fn start(
        &mut self,
        context: &SpawnContext<'_>,
        id: String,
        gate: Option<&Gate>,
    ) -> Result<lifecycle::Instance, String> {
        let mut kept = StoredFds::new();
        let pipe = self.spare.take(&id, context.store)?;
        let spawned = self.spawn(context, &id, &pipe.write, gate, &mut kept);
        let (instance, notify) = spawned.inspect_err(|_| self.free(&id))?;
        // The process runs already; its output waits in the pipe.
        let log = match self.begin_log(context, &id, &pipe) {
            Ok(log) => log,
            Err(why) => {
                self.free(&id);
                end(instance);
                return Err(why);
            }
        };
        kept.extend(pipe.belongs_to(&id, context.store));
        let started = lifecycle::Instance { id, pid: instance.pid(), start_ticks: instance.start_ticks() };
        let instance = self.occupy(context, instance, log, notify, Readiness::default(), kept);
        self.slots[context.slot.index()] = Some(instance);
        Ok(started)
    }

    fn spawn(
        &mut self,
        context: &SpawnContext<'_>,
        id: &str,
        output: &OwnedFd,
        gate: Option<&Gate>,
        kept: &mut StoredFds,
    ) -> Result<(Instance, Option<NotifySocket>), String> {
        let config = &context.tools.config;
        let (state, temporary) = self.directories(context)?;
        let store_path = Path::new(context.store_path);
        let (program, args) = command(store_path, &config.runtime.command);
        let env = spawn::environment(&config.runtime.env, &state, &temporary);
        let next_version = self.next_version(context, id);
        let sandbox = self.sandbox.get(context, &state, &temporary, &self.trees)?;
        let notify = bind_notify(context, id, sandbox)?;
        if let Some(notify) = &notify {
            keep(context.store, format!("{NOTIFY_PREFIX}{id}"), notify.as_fd(), kept);
        }
        let watchdog = config.health.notify.as_ref().and_then(|notify| notify.watchdog);
        let limits =
            TreeLimits { memory_bytes: config.isolation.memory_bytes, processes: Some(config.isolation.processes) };
        let tree = self.trees.create(id, limits).map_err(|error| format!("cannot create its cgroup: {error}"))?;
        let cell = self.table.reserve(id).map_err(|error| chain(&error))?;
        let mut traffic = lock(context.traffic);
        let slot = context.slot.into();
        if !self.leaving.iter().any(|instance| instance.slot == context.slot) {
            // Undo what an earlier instance did to the sockets, unless a running instance still uses them.
            let refused =
                traffic.prepare(slot, next_version, &mut **lock(context.store)).map_err(|error| chain(&error))?;
            for name in refused {
                tracing::error!(
                    name,
                    "another version left this listener unusable; rei refused the connections that waited there"
                );
            }
        }
        self.last[context.slot.index()] = (!drains(id)).then(|| context.store_path.to_owned());
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
        keep(context.store, format!("{INSTANCE_PREFIX}{id}"), spawned.pidfd.as_fd(), kept);
        let instance =
            Instance::new(id, spawned, tree).map_err(|error| format!("cannot watch its process: {error}"))?;
        Ok((instance, notify))
    }

    /// Whether the version that gets the sockets is the same as before. An instance that only empties a queue takes the
    /// sockets as they are.
    fn next_version(&self, context: &SpawnContext<'_>, id: &str) -> NextVersion {
        let same = self.last[context.slot.index()].as_deref() == Some(context.store_path);
        if same || drains(id) { NextVersion::Same } else { NextVersion::Other }
    }

    fn directories(&self, context: &SpawnContext<'_>) -> Result<(PathBuf, PathBuf), String> {
        let paths = &context.tools.paths;
        let temporary = paths.run().join(format!("tmp-{}", context.slot.to_string().to_lowercase()));
        Ok((paths.instance_state(), temporary))
    }

    /// Adopts an instance that an earlier supervisor started in a slot, and returns the facts by which it is found again.
    /// `ready` is true if that supervisor knew that it was ready.
    ///
    /// # Errors
    /// If it has ended or cannot be watched; its last output goes to the log.
    pub fn adopt(
        &mut self,
        context: &SpawnContext<'_>,
        entry: &table::Entry,
        from: &mut StoredFds,
        ready: bool,
    ) -> Result<lifecycle::Instance, AdoptError> {
        let (instance, found) = self.take_over(context, entry, from, ready)?;
        self.slots[context.slot.index()] = Some(instance);
        Ok(found)
    }

    /// Asks an instance of an earlier supervisor to end, if no slot has it: its start was not recorded, it drained a
    /// queue, or another instance had taken its slot. It may finish the requests that it has.
    pub fn end_stray(&mut self, context: &SpawnContext<'_>, entry: &table::Entry, from: &mut StoredFds) {
        match self.take_over(context, entry, from, true) {
            Ok((instance, _)) => {
                tracing::warn!(id = instance.id, pid = instance.pid, "no slot has this instance; rei asks it to end");
                instance.stop(false);
                self.leaving.push(instance);
            }
            Err(AdoptError { why, .. }) => tracing::debug!(id = entry.id, why, "an instance has ended already"),
        }
    }

    fn take_over(
        &mut self,
        context: &SpawnContext<'_>,
        entry: &table::Entry,
        from: &mut StoredFds,
        ready: bool,
    ) -> Result<(InstanceHandle, lifecycle::Instance), AdoptError> {
        let id = &*entry.id;
        self.last[context.slot.index()] = Some(context.store_path.to_owned());
        let mut kept = StoredFds::new();
        let mut take = |prefix: &str| {
            let name = format!("{prefix}{id}");
            let (_, fd) = from.swap_remove(from.iter().position(|(kept, _)| *kept == name)?);
            keep_copy(name, fd.as_fd(), &mut kept);
            Some(fd)
        };
        let (notify, pidfd) = (take(NOTIFY_PREFIX), take(INSTANCE_PREFIX));
        let pipe = logpipe::kept(id, from, context.store).map(|(pipe, memory, of_pipe)| {
            kept.extend(of_pipe);
            (pipe, memory)
        });
        let adopted = match entry.pid {
            Some(pid) => Instance::adopt(id, pid, entry.start_ticks, &self.trees).map_err(|error| chain(&error)),
            None => Err("its process was never started".to_owned()),
        };
        let instance = match adopted {
            Ok(instance) => instance,
            Err(why) => {
                let log = pipe.and_then(|pipe| self.resume_log(context, id, Some(pipe)).ok());
                let _ = std::fs::remove_file(notify_path(context, id));
                self.free(id);
                return Err(AdoptError { why, log });
            }
        };
        if pidfd.is_none()
            && let Ok(pidfd) = crate::runtime::pidfd::open(instance.pid())
        {
            keep(context.store, format!("{INSTANCE_PREFIX}{id}"), pidfd.as_fd(), &mut kept);
        }
        let log = match self.resume_log(context, id, pipe) {
            Ok(log) => log,
            Err(why) => {
                // Its slot gets another instance, so this one may not continue beside it.
                self.free(id);
                end(instance);
                return Err(AdoptError { why, log: None });
            }
        };
        let notify = match self.adopt_notify(context, id, notify, &mut kept) {
            Ok(notify) => notify,
            Err(why) => {
                tracing::error!(id, why, "rei cannot receive the notifications of the instance any more");
                None
            }
        };
        let found = lifecycle::Instance { id: id.to_owned(), pid: instance.pid(), start_ticks: instance.start_ticks() };
        let readiness = Readiness { ready, notified: ready || entry.reported_ready };
        Ok((self.occupy(context, instance, log, notify, readiness, kept), found))
    }

    fn adopt_notify(
        &mut self,
        context: &SpawnContext<'_>,
        id: &str,
        socket: Option<OwnedFd>,
        kept: &mut StoredFds,
    ) -> Result<Option<NotifySocket>, String> {
        if let Some(socket) = socket {
            let adopted = NotifySocket::adopt(&notify_path(context, id), socket);
            return adopted.map(Some).map_err(|error| error.to_string());
        }
        let (state, temporary) = self.directories(context)?;
        let sandbox = self.sandbox.get(context, &state, &temporary, &self.trees)?;
        let notify = bind_notify(context, id, sandbox)?;
        if let Some(notify) = &notify {
            keep(context.store, format!("{NOTIFY_PREFIX}{id}"), notify.as_fd(), kept);
        }
        Ok(notify)
    }

    /// Puts the descriptors of all instances into a new descriptor store.
    pub fn store_all(&self, store: &SharedStore) {
        let instances = self.all().flat_map(|instance| &instance.kept);
        for (name, fd) in instances.chain(self.spare.kept()) {
            if let Err(error) = lock(store).store(name, fd.as_fd()) {
                tracing::warn!(error = %chain(&error), name, "the descriptor store did not take a descriptor; it is lost when the supervisor ends");
            }
        }
        keep_logger(&self.logger, store);
    }

    /// All running instances, with the retired ones.
    pub fn all(&self) -> impl Iterator<Item = &InstanceHandle> {
        self.slots.iter().flatten().chain(&self.leaving)
    }

    fn occupy(
        &self,
        context: &SpawnContext<'_>,
        instance: Instance,
        log: Arc<Log>,
        notify: Option<NotifySocket>,
        readiness: Readiness,
        kept: StoredFds,
    ) -> InstanceHandle {
        let (orders, received) = mpsc::channel(4);
        let read = log.clone();
        let (id, pid) = (instance.id().to_owned(), instance.pid());
        let now = Instant::now();
        let since = now.checked_sub(process::age(instance.start_ticks())).unwrap_or(now);
        let task = tokio::spawn(watch(InstanceTask {
            slot: context.slot,
            store_path: context.store_path.to_owned(),
            instance,
            since,
            log,
            logger: self.logger.clone(),
            notify,
            readiness,
            table: self.table.clone(),
            tools: context.tools.clone(),
            traffic: context.traffic.clone(),
            inputs: context.inputs.clone(),
            orders: received,
        }));
        InstanceHandle { id, slot: context.slot, pid, since, orders, task, log: read, kept }
    }

    /// Asks the instance in a slot to end; `false` if the slot is empty.
    pub fn stop(&self, slot: Slot, drain: bool) -> bool {
        self.get(slot).is_some_and(|instance| instance.stop(drain))
    }

    /// The processes of an earlier supervisor that are in the table.
    pub fn recorded(&self) -> Vec<crate::runtime::table::Entry> {
        self.table.entries()
    }

    /// True if it is no fault that no instance runs: the machine was restarted since the last supervisor, or the last
    /// supervisor ended all instances.
    pub fn nothing_to_find(&self) -> bool {
        (self.table.is_new_boot() || self.table.was_clean_stop()) && self.is_empty()
    }

    /// Records for the next supervisor that this one ended every instance on purpose.
    pub fn all_ended(&self) {
        self.table.mark_clean_stop();
    }

    /// Marks the descriptors of an earlier supervisor that no instance here uses for removal from the store.
    pub fn forget(&mut self, left: StoredFds) {
        let all = self.slots.iter().flatten().chain(&self.leaving).flat_map(|instance| &instance.kept);
        let ours: BTreeSet<&String> = all.chain(self.spare.kept()).map(|(name, _)| name).collect();
        let prefixes = [INSTANCE_PREFIX, PIPE_PREFIX, NOTIFY_PREFIX];
        let is_instances = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let names = left.into_iter().map(|(name, _)| name);
        self.released.extend(names.filter(|name| is_instances(name) && !ours.contains(name)));
    }

    /// Drops the prepared sandbox, because the configuration has changed.
    pub fn configure(&mut self) {
        self.sandbox = SandboxCache::default();
    }
}

impl InstanceHandle {
    /// The pipe that it prints to; `None` if the store did not have it, because then another logger reads it.
    pub fn pipe(&self) -> Option<&OwnedFd> {
        let name = logpipe::name(&self.id);
        self.kept.iter().find(|(kept, _)| *kept == name).map(|(_, pipe)| pipe)
    }

    fn stop(&self, drain: bool) -> bool {
        self.orders.try_send(StopCommand { drain }).is_ok()
    }
}

impl Drop for Instances {
    /// Aborts the tasks of the running instances. The task of an ended instance is not aborted: it ends by itself after
    /// it has killed the remaining processes and reported the last output.
    fn drop(&mut self) {
        for instance in self.all() {
            instance.task.abort();
        }
    }
}

/// Ends an instance that no slot has, in a separate task.
fn end(mut instance: Instance) {
    tokio::spawn(async move { instance.end().await });
}

fn notify_path(context: &SpawnContext<'_>, id: &str) -> PathBuf {
    context.tools.paths.run().join(format!("notify-{id}"))
}

fn bind_notify(context: &SpawnContext<'_>, id: &str, sandbox: &Sandbox) -> Result<Option<NotifySocket>, String> {
    if context.tools.config.health.notify.is_none() {
        return Ok(None);
    }
    let path = notify_path(context, id);
    let socket = NotifySocket::bind(&path, sandbox.user());
    socket.map(Some).map_err(|error| format!("cannot bind its notify socket {}: {error}", path.display()))
}

/// The program and arguments of an instance. The program is inside the store path.
pub fn command(store_path: &Path, words: &[String]) -> (PathBuf, Vec<OsString>) {
    let program = words.first().map_or_else(|| store_path.to_owned(), |program| store_path.join(program));
    (program, words.iter().skip(1).map(OsString::from).collect())
}
