//! The instances in the two slots: started, adopted, listened to, ended.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::attend::{Attend, attend};
use super::input::Inputs;
use super::tools::Tools;
use super::work::reason;
use crate::lifecycle::{self, Slot};
use crate::report::chain;
use crate::runtime::instance::Instance;
use crate::runtime::isolation::{InstancePaths, Sandbox};
use crate::runtime::keeper::{FdStore, INSTANCE_PREFIX};
use crate::runtime::logs::{self, Log};
use crate::runtime::notify::NotifySocket;
use crate::runtime::spawn::{self, SpawnSpec};
use crate::runtime::table::InstanceTable;
use crate::runtime::traffic::Traffic;
use crate::runtime::tree::{TreeLimits, TreeMethod, Trees};

/// Names the read end of an instance's log pipe in the descriptor store.
const LOG_PREFIX: &str = "log/";

/// All that runs.
pub struct Occupants {
    trees: Trees,
    table: InstanceTable,
    slots: [Option<Occupant>; 2],
    /// Instances whose slot has a fresh one.
    leaving: Vec<Occupant>,
    /// Instances that ended by themselves, until their last words are read.
    ended: Vec<Occupant>,
    logs: [Option<Arc<Log>>; 2],
    sandbox: Option<Sandbox>,
    /// What the descriptor store need not keep any more.
    released: Vec<String>,
}

/// The instance in a slot.
pub struct Occupant {
    /// Its id.
    pub id: String,
    /// Its slot.
    pub slot: Slot,
    /// Its main process.
    pub pid: u32,
    /// When it was started.
    pub since: Instant,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// What an occupant's task is asked to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// End the instance: SIGTERM, then SIGKILL after the grace; if asked, only once its queue is empty.
    Stop {
        /// Whether to wait for the queue first.
        drain: bool,
    },
}

/// What is to run where.
pub struct Wanted<'a> {
    /// The slot.
    pub slot: Slot,
    /// The store path.
    pub store_path: &'a str,
    /// What the supervisor's parts are.
    pub tools: &'a Arc<Tools>,
    /// The listening sockets.
    pub traffic: &'a Arc<Mutex<Traffic>>,
    /// Where descriptors outlive the supervisor.
    pub store: &'a Arc<Mutex<dyn FdStore + Send>>,
    /// Where news go.
    pub inputs: &'a Inputs,
}

impl Occupants {
    /// Nothing runs yet.
    pub fn new(trees: Trees, table: InstanceTable) -> Self {
        Self {
            trees,
            table,
            slots: [None, None],
            leaving: Vec::new(),
            ended: Vec::new(),
            logs: [None, None],
            sandbox: None,
            released: Vec::new(),
        }
    }

    /// The id of the instance in a slot.
    pub fn id(&self, slot: Slot) -> Option<&str> {
        self.get(slot).map(|occupant| &*occupant.id)
    }

    /// The instance in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Occupant> {
        self.slots[slot.index()].as_ref()
    }

    /// Takes an instance out of its slot: it has ended.
    pub fn remove(&mut self, slot: Slot) -> Option<Occupant> {
        let occupant = self.slots[slot.index()].take()?;
        self.release(&occupant.id);
        Some(occupant)
    }

    /// Takes an instance out of its slot that ended by itself: its attendant still reads its last words.
    pub fn bury(&mut self, slot: Slot) {
        self.ended.retain(|occupant| !occupant.task.is_finished());
        let occupant = self.remove(slot);
        self.ended.extend(occupant);
    }

    /// Asks the instance of a slot to end and frees the slot for a fresh one.
    pub fn retire(&mut self, slot: Slot) {
        self.stop(slot, false);
        self.leaving.extend(self.slots[slot.index()].take());
    }

    /// Forgets a retired instance that has ended; `false` when there is none of this id.
    pub fn dismiss(&mut self, id: &str) -> bool {
        let Some(at) = self.leaving.iter().position(|occupant| occupant.id == id) else { return false };
        let occupant = self.leaving.swap_remove(at);
        self.release(&occupant.id);
        true
    }

    fn release(&mut self, id: &str) {
        self.table.clear(id);
        self.released.extend([format!("{INSTANCE_PREFIX}{id}"), format!("{LOG_PREFIX}{id}")]);
    }

    /// Lets the store forget instances that have ended. Their successors were started first: it takes a while to ask it.
    pub fn let_go(&mut self, store: &Arc<Mutex<dyn FdStore + Send>>) {
        for name in self.released.drain(..) {
            if let Err(error) = lock(store).remove(&name) {
                tracing::warn!(error = %chain(&error), name, "the descriptor store did not let go");
            }
        }
    }

    /// The log of the last instance in a slot.
    pub fn last_log(&self, slot: Slot) -> Option<Arc<Log>> {
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

    /// Starts an instance in a slot that has none.
    ///
    /// # Errors
    /// In one line, for a person: which step failed and why.
    pub fn start(&mut self, wanted: &Wanted<'_>, id: String) -> Result<lifecycle::Instance, String> {
        let (read, write) = log_pipe(wanted, &id)?;
        let (instance, notify) = self.spawn(wanted, &id, &write).inspect_err(|_| self.release(&id))?;
        // The process runs already: what it prints meanwhile waits in the pipe.
        let log = match self.read_log(wanted, read) {
            Ok(log) => log,
            Err(why) => {
                self.release(&id);
                end(instance);
                return Err(why);
            }
        };
        let started = lifecycle::Instance { id, pid: instance.pid(), start_ticks: instance.start_ticks() };
        self.occupy(wanted, instance, log, notify, false);
        Ok(started)
    }

    fn read_log(&mut self, wanted: &Wanted<'_>, read: OwnedFd) -> Result<Arc<Log>, String> {
        let path = wanted.tools.paths.log(wanted.slot);
        let log = Log::start(read, &path, wanted.tools.config.state.log_bytes).map_err(|error| chain(&error))?;
        let log = Arc::new(log);
        self.logs[wanted.slot.index()] = Some(log.clone());
        Ok(log)
    }

    fn spawn(
        &mut self,
        wanted: &Wanted<'_>,
        id: &str,
        output: &OwnedFd,
    ) -> Result<(Instance, Option<NotifySocket>), String> {
        let config = &wanted.tools.config;
        let (state, temporary) = self.directories(wanted)?;
        let store_path = Path::new(wanted.store_path);
        let (program, args) = command(store_path, &config.runtime.command);
        let env = spawn::environment(&config.runtime.env, &state, &temporary);
        let sandbox = match self.sandbox.take() {
            Some(sandbox) => sandbox,
            None => sandbox(wanted.tools, &state, &temporary, &self.trees)?,
        };
        let sandbox = self.sandbox.insert(sandbox);
        let notify = bind_notify(wanted, id, sandbox)?;
        let watchdog = config.health.notify.as_ref().and_then(|notify| notify.watchdog);
        let limits =
            TreeLimits { memory_bytes: config.isolation.memory_bytes, processes: Some(config.isolation.processes) };
        let tree = self.trees.create(id, limits).map_err(|error| format!("cannot make its cgroup: {error}"))?;
        let cell = self.table.reserve(id).map_err(|error| chain(&error))?;
        let mut traffic = lock(wanted.traffic);
        let slot = wanted.slot.into();
        if !self.leaving.iter().any(|occupant| occupant.slot == wanted.slot) {
            // What an instance did to the sockets is undone, unless one that lives uses them.
            traffic.prepare(slot).map_err(|error| chain(&error))?;
        }
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
        })
        .map_err(|error| reason(&error, error.hint()))?;
        drop(fds);
        drop(traffic);
        self.table.started(id, spawned.start_ticks);
        if let Err(error) = lock(wanted.store).store(&format!("{INSTANCE_PREFIX}{id}"), spawned.pidfd.as_fd()) {
            tracing::warn!(error = %chain(&error), "the keeper does not know of the instance");
        }
        let instance =
            Instance::new(id, spawned, tree).map_err(|error| format!("cannot watch its process: {error}"))?;
        Ok((instance, notify))
    }

    fn directories(&self, wanted: &Wanted<'_>) -> Result<(PathBuf, PathBuf), String> {
        let paths = &wanted.tools.paths;
        let temporary = paths.run().join(format!("tmp-{}", wanted.slot.to_string().to_lowercase()));
        Ok((paths.instance_state(), temporary))
    }

    /// Takes over an instance that an earlier supervisor started in a slot.
    ///
    /// # Errors
    /// When it has ended or cannot be watched.
    pub fn adopt(
        &mut self,
        wanted: &Wanted<'_>,
        id: &str,
        pid: u32,
        start_ticks: Option<u64>,
        kept: &mut Vec<(String, OwnedFd)>,
        ready: bool,
    ) -> Result<(), String> {
        let instance = Instance::adopt(id, pid, start_ticks, &self.trees).map_err(|error| chain(&error))?;
        let name = format!("{LOG_PREFIX}{id}");
        let log = match kept.iter().position(|(kept, _)| *kept == name) {
            Some(at) => self.read_log(wanted, kept.swap_remove(at).1)?,
            // Its output goes nowhere any more; an empty pipe stands for it.
            None => self.read_log(wanted, log_pipe(wanted, id)?.0)?,
        };
        let sandbox_user = None;
        let notify = wanted.tools.config.health.notify.as_ref();
        let notify = notify.and_then(|_| NotifySocket::bind(&notify_path(wanted, id), sandbox_user).ok());
        self.occupy(wanted, instance, log, notify, ready);
        Ok(())
    }

    fn occupy(
        &mut self,
        wanted: &Wanted<'_>,
        instance: Instance,
        log: Arc<Log>,
        notify: Option<NotifySocket>,
        ready: bool,
    ) {
        let (orders, received) = mpsc::channel(4);
        let (id, pid) = (instance.id().to_owned(), instance.pid());
        let since = Instant::now();
        let task = tokio::spawn(attend(Attend {
            slot: wanted.slot,
            store_path: wanted.store_path.to_owned(),
            instance,
            since,
            log,
            notify,
            ready,
            tools: wanted.tools.clone(),
            traffic: wanted.traffic.clone(),
            inputs: wanted.inputs.clone(),
            orders: received,
        }));
        self.slots[wanted.slot.index()] = Some(Occupant { id, slot: wanted.slot, pid, since, orders, task });
    }

    /// Asks the instance of a slot to end; `false` when there is none.
    pub fn stop(&self, slot: Slot, drain: bool) -> bool {
        self.get(slot).is_some_and(|occupant| occupant.orders.try_send(Order::Stop { drain }).is_ok())
    }

    /// The processes that the table knows of, from an earlier supervisor.
    pub fn recorded(&self) -> Vec<crate::runtime::table::Entry> {
        self.table.entries()
    }

    /// Whether the machine was started anew since an instance was last recorded.
    pub fn rebooted(&self) -> bool {
        self.table.is_of_new_boot()
    }

    /// Ends an instance of an earlier supervisor that no slot knows of.
    pub fn end_stray(&self, entry: &crate::runtime::table::Entry) {
        let id = entry.id.clone();
        if let Some(pid) = entry.pid {
            match Instance::adopt(&id, pid, entry.start_ticks, &self.trees) {
                Ok(instance) => {
                    tracing::warn!(id, pid, "an instance that was begun and never recorded is ended");
                    end(instance);
                }
                Err(error) => tracing::debug!(error = %chain(&error), "an instance is gone"),
            }
        }
        self.table.clear(&id);
    }

    /// Forgets an instance that is not there any more.
    pub fn forget(&self, id: &str) {
        self.table.clear(id);
    }

    /// Forgets the prepared rules: the configuration has changed.
    pub fn configure(&mut self) {
        self.sandbox = None;
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens the pipe of an instance's log; its read end goes to the store, so that it outlives the supervisor.
fn log_pipe(wanted: &Wanted<'_>, id: &str) -> Result<(OwnedFd, OwnedFd), String> {
    let (read, write) = logs::pipe().map_err(|error| format!("cannot make a log pipe: {error}"))?;
    if let Err(error) = lock(wanted.store).store(&format!("{LOG_PREFIX}{id}"), read.as_fd()) {
        tracing::warn!(error = %chain(&error), "the log will not outlive the supervisor");
    }
    Ok((read, write))
}

/// Ends an instance that no slot has.
fn end(mut instance: Instance) {
    tokio::spawn(async move { instance.end().await });
}

fn sandbox(tools: &Tools, state: &Path, temporary: &Path, trees: &Trees) -> Result<Sandbox, String> {
    let (memory_by_cgroup, processes_by_cgroup) = match trees.method() {
        TreeMethod::Cgroup(base) => (base.memory, base.pids),
        TreeMethod::Scan { .. } => (false, false),
    };
    let paths = InstancePaths {
        user: &tools.config.runtime.name,
        closure: &[tools.nix.store_dir()],
        state,
        temporary,
        memory_by_cgroup,
        processes_by_cgroup,
    };
    let sandbox = Sandbox::instance(&tools.config.isolation, &paths).map_err(|error| chain(&error))?;
    for missing in sandbox.missing() {
        tracing::warn!(missing, "this machine cannot isolate instances fully");
    }
    Ok(sandbox)
}

fn notify_path(wanted: &Wanted<'_>, id: &str) -> PathBuf {
    wanted.tools.paths.run().join(format!("notify-{id}"))
}

fn bind_notify(wanted: &Wanted<'_>, id: &str, sandbox: &Sandbox) -> Result<Option<NotifySocket>, String> {
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

/// A lock that nobody holds for long. A panic elsewhere does not make what it guards useless.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Slot> for crate::runtime::traffic::Slot {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::A => Self::A,
            Slot::B => Self::B,
        }
    }
}

impl From<lifecycle::Routing> for crate::runtime::traffic::Routing {
    fn from(routing: lifecycle::Routing) -> Self {
        let main = routing.main.into();
        match routing.other_ppm {
            0 => Self::All(main),
            ppm => {
                Self::Share { to: routing.main.other().into(), share: f64::from(ppm) / f64::from(lifecycle::WHOLE_PPM) }
            }
        }
    }
}

/// Bound of a drain: what waits in a queue is accepted in milliseconds by a live instance; handshakes of distant
/// clients take a second or two.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
