//! The process tree of an instance: which processes belong to it, and how all of them are killed.
//!
//! | method | which processes belong to a tree | how they are killed |
//! |---|---|---|
//! | cgroup | those in its cgroup | `cgroup.kill`: all at once, none can escape by forking |
//! | scan | by session, group, descent, or `REI_INSTANCE` in the environment | SIGKILL to all that a scan finds, until a scan finds none |
//!
//! The scan is used if there is no delegated cgroup v2. It is weaker: a process that leaves its session, loses its
//! parents and clears its environment cannot be assigned to one instance. Such a process is killed with the last
//! instance, and counted as unattributed before that. [`TreeMethod`] says which method is used and why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

pub use super::cgroup::TreeLimits;
use super::cgroup::{Base, Cgroup};
use super::pidfd;
use crate::process::{self, Stat, Tag};

/// How long a tree may take to die after SIGKILL. A process that takes longer hangs in the kernel.
pub const KILL_MAX: Duration = Duration::from_secs(5);

/// The first and the longest pause between two scans of a dying tree.
const SCAN_PAUSE: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// How long an exited child in the supervisor's own session is left for the code that started it.
const FOREIGN_ZOMBIE_MAX: Duration = Duration::from_secs(10);

/// The number of empty scans in a row that end a kill. During exec a process has no environment for a moment, so one
/// scan can miss it.
const EMPTY_SCANS: u32 = 2;

/// Maximum number of scans for processes that have not got the stop signal yet. The first scan that finds none is the
/// last. If a tree forks faster than it is scanned, it is killed after the stop timeout.
const SIGNAL_SCANS_MAX: u32 = 16;

/// Maximum number of remembered members, by pid and start time. They are recognised even after they lose their parents.
const SEEN_MAX: usize = 1024;

/// Maximum number of ancestors that are followed.
const DESCENT_MAX: usize = 64;

/// The processes that got a signal, by pid and start time.
pub type Signalled = BTreeSet<(u32, u64)>;

/// How trees are found and killed on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeMethod {
    /// By cgroup v2.
    Cgroup(Base),
    /// By scans of all processes.
    Scan {
        /// The reason why there is no cgroup.
        why: String,
    },
}

impl fmt::Display for TreeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(base) => write!(f, "cgroup v2 in {}", base.dir.display()),
            Self::Scan { why } => write!(f, "process groups and scans ({why})"),
        }
    }
}

/// The result of killing a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Number of processes other than the main one that were alive and were killed.
    pub leftovers: usize,
    /// Number of processes that are still alive: they hang in the kernel, or fork faster than the scan.
    pub survivors: usize,
    /// Number of orphans that may belong to this tree or to another one. They are killed with the last tree.
    pub unattributed: usize,
}

/// The trees of all instances of this supervisor.
#[derive(Clone)]
pub struct Trees(Arc<Shared>);

struct Shared {
    method: TreeMethod,
    /// The pid and session of the supervisor.
    own: (u32, u32),
    /// The live instances, with the pids of their main processes.
    live: Mutex<BTreeMap<String, Option<u32>>>,
    /// Exited children that other code should reap, by pid and start time, with the time when they were first seen.
    zombies: Mutex<HashMap<(u32, u64), Instant>>,
    /// Orphans that belong to no instance: a keeper that was started again.
    excluded: Mutex<BTreeSet<u32>>,
}

impl Trees {
    /// Chooses the method for this machine, and makes this process a subreaper, so that it inherits orphans.
    ///
    /// # Errors
    /// If it cannot become a subreaper.
    pub fn detect() -> io::Result<Self> {
        Self::with(Base::find().map_or_else(|why| TreeMethod::Scan { why }, TreeMethod::Cgroup))
    }

    /// Like [`Trees::detect`], with a given method.
    ///
    /// # Errors
    /// As [`Trees::detect`].
    pub fn with(method: TreeMethod) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let own = (std::process::id(), getsid(None)?.as_raw().unsigned_abs());
        Ok(Self(Arc::new(Shared {
            method,
            own,
            live: Mutex::default(),
            zombies: Mutex::default(),
            excluded: Mutex::default(),
        })))
    }

    /// Excludes a process: it belongs to no instance, although this process may inherit it, so it is not killed as an
    /// orphan.
    pub fn exclude(&self, pid: u32) {
        lock(&self.0.excluded).insert(pid);
    }

    /// The method in use.
    pub fn method(&self) -> &TreeMethod {
        &self.0.method
    }

    /// Makes the tree of an instance that is about to be started.
    ///
    /// # Errors
    /// If its cgroup cannot be created.
    pub fn create(&self, id: &str, limits: TreeLimits) -> io::Result<Tree> {
        let cgroup = match self.method() {
            TreeMethod::Cgroup(base) => Some(base.create(id, limits)?),
            TreeMethod::Scan { .. } => None,
        };
        Ok(self.tree(id, cgroup))
    }

    /// The tree of a running instance. If it has no cgroup here, scans are used.
    pub fn adopt(&self, id: &str) -> Tree {
        let cgroup = match self.method() {
            TreeMethod::Cgroup(base) => base.open(id).ok(),
            TreeMethod::Scan { .. } => None,
        };
        self.tree(id, cgroup)
    }

    fn tree(&self, id: &str, cgroup: Option<Cgroup>) -> Tree {
        lock(&self.0.live).insert(id.to_owned(), None);
        let id = id.to_owned();
        Tree(Arc::new(Member { shared: self.0.clone(), id, cgroup, main: Mutex::new(None), seen: Mutex::default() }))
    }

    /// True if the process is the main process of a live instance, or in the cgroup of one. It does not check
    /// ancestors; the caller does.
    pub fn contains(&self, pid: u32) -> bool {
        let live = lock(&self.0.live);
        let in_cgroup = || match &self.0.method {
            TreeMethod::Cgroup(base) => live.keys().any(|id| base.open(id).is_ok_and(|cgroup| cgroup.contains(pid))),
            TreeMethod::Scan { .. } => false,
        };
        live.values().flatten().any(|main| *main == pid) || in_cgroup()
    }

    /// Reaps the orphans that instances have left. Call it after SIGCHLD and regularly; returns the number of reaped
    /// processes. Each [`super::instance::Instance`] reaps its own main process. Children in the supervisor's own
    /// session are left for a while to the code that started them.
    pub fn reap_orphans(&self) -> usize {
        let shared = &self.0;
        let children = process::children(shared.own.0).unwrap_or_else(|| {
            process::all().iter().filter(|stat| stat.parent == shared.own.0).map(|stat| stat.pid).collect()
        });
        let zombies: Vec<Stat> = children.into_iter().filter_map(process::stat).filter(Stat::is_zombie).collect();
        let mut waiting = lock(&shared.zombies);
        waiting.retain(|(pid, start), _| zombies.iter().any(|stat| (stat.pid, stat.start_ticks) == (*pid, *start)));
        let mains: BTreeSet<u32> = lock(&shared.live).values().flatten().copied().collect();
        let mut reaped = 0;
        for stat in zombies.iter().filter(|stat| !mains.contains(&stat.pid)) {
            let since = *waiting.entry((stat.pid, stat.start_ticks)).or_insert_with(Instant::now);
            if stat.session != shared.own.1 || since.elapsed() > FOREIGN_ZOMBIE_MAX {
                reaped += usize::from(reap(stat.pid));
            }
        }
        reaped
    }
}

fn reap(pid: u32) -> bool {
    waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG)).is_ok()
}

/// No code leaves these maps half changed when it panics, so a poisoned lock can be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process tree of one instance. Clones refer to the same tree.
#[derive(Clone)]
pub struct Tree(Arc<Member>);

struct Member {
    shared: Arc<Shared>,
    id: String,
    cgroup: Option<Cgroup>,
    main: Mutex<Option<Stat>>,
    /// Members by pid and start time, found earlier by descent.
    seen: Mutex<BTreeSet<(u32, u64)>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        lock(&self.shared.live).remove(&self.id);
    }
}

impl Tree {
    /// The directory in which the main process is started, if there is one.
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.0.cgroup.as_ref().map(Cgroup::fd)
    }

    /// Sets the main process.
    pub fn set_main(&self, pid: u32) {
        *lock(&self.0.main) = process::stat(pid);
        lock(&self.0.shared.live).insert(self.0.id.clone(), Some(pid));
    }

    /// The live processes of the tree, found cheaply: by cgroup, or by descent from the main process.
    pub fn members(&self) -> Vec<Stat> {
        let tree = &self.0;
        if let Some(cgroup) = &tree.cgroup {
            return cgroup.processes().into_iter().filter_map(process::stat).collect();
        }
        let Some(main) = *lock(&tree.main) else { return Vec::new() };
        let mut members: Vec<Stat> =
            process::stat(main.pid).filter(|now| now.start_ticks == main.start_ticks).into_iter().collect();
        members.extend(lock(&tree.seen).iter().filter_map(|(pid, start)| {
            process::stat(*pid).filter(|stat| stat.start_ticks == *start && stat.pid != main.pid)
        }));
        let mut members = process::with_descendants(members, SEEN_MAX);
        members.retain(|stat| !stat.is_zombie());
        let seen = members.iter().filter(|stat| stat.pid != main.pid).map(|stat| (stat.pid, stat.start_ticks));
        *lock(&tree.seen) = seen.take(SEEN_MAX).collect();
        members
    }

    /// CPU time of all processes that were ever in the tree, in microseconds, if it has a cgroup.
    pub fn cpu_us(&self) -> Option<u64> {
        self.0.cgroup.as_ref()?.cpu_us()
    }

    /// True if the process belongs to the tree, by facts that it cannot forge: cgroup, session or descent.
    pub fn contains(&self, pid: u32) -> bool {
        if let Some(cgroup) = &self.0.cgroup {
            return cgroup.contains(pid);
        }
        let Some(main) = *lock(&self.0.main) else { return false };
        let mut at = pid;
        for _ in 0..DESCENT_MAX {
            match process::stat(at) {
                Some(stat) if stat.pid == main.pid => return stat.start_ticks == main.start_ticks,
                Some(stat) if stat.session == main.pid => return true,
                Some(stat) if stat.parent > 1 => at = stat.parent,
                _ => return false,
            }
        }
        false
    }

    /// Sends a signal to every process of the tree, to `main` first. Returns the processes that got it.
    pub async fn signal_all(&self, signal: Signal, main: (u32, u64)) -> Signalled {
        let tree = self.clone();
        let signalled = tokio::task::spawn_blocking(move || tree.signal_all_blocking(signal, main)).await;
        signalled.unwrap_or_else(|_| Signalled::from([main]))
    }

    fn signal_all_blocking(&self, signal: Signal, main: (u32, u64)) -> Signalled {
        // List the processes before any of them gets the signal: a process that is started later, in response to the
        // signal, is part of the graceful stop.
        let listed = self.live().into_iter().map(|stat| (stat.pid, stat.start_ticks));
        let signalled: Vec<(u32, u64)> =
            std::iter::once(main).chain(listed.filter(|process| *process != main)).collect();
        signalled.iter().for_each(|process| Self::signal_one(*process, signal));
        let mut signalled: Signalled = signalled.into_iter().collect();
        for _ in 0..SIGNAL_SCANS_MAX {
            if !Self::signal_new(&self.live(), signal, &mut signalled) {
                break;
            }
        }
        signalled
    }

    fn signal_one((pid, start_ticks): (u32, u64), signal: Signal) {
        pidfd::signal_exactly(pid, start_ticks, signal);
        // A stopped process handles the signal only when it continues.
        pidfd::signal_exactly(pid, start_ticks, Signal::SIGCONT);
    }

    /// Signals the processes whose parent has not got the signal. A child of a process that got it is left alone: it
    /// may be a helper for the graceful stop. Returns true if there was a new one.
    fn signal_new(live: &[Stat], signal: Signal, signalled: &mut Signalled) -> bool {
        let signalled_pids: BTreeSet<u32> = signalled.iter().map(|(pid, _)| *pid).collect();
        let mut any = false;
        for stat in live.iter().filter(|stat| !signalled_pids.contains(&stat.parent)) {
            let process = (stat.pid, stat.start_ticks);
            if signalled.insert(process) {
                any = true;
                Self::signal_one(process, signal);
            }
        }
        any
    }

    /// Waits until no process of the tree is alive. Processes that have not got the signal get it meanwhile. It sleeps
    /// while they live. Cancel safe.
    pub async fn wait_until_empty(&self, signal: Signal, signalled: &mut Signalled) {
        let mut empty_scans = 0;
        loop {
            let (tree, mut known) = (self.clone(), signalled.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let live = tree.live();
                Self::signal_new(&live, signal, &mut known);
                (live, known)
            });
            // The task panics only while the tokio runtime shuts down.
            let Ok((live, known)) = looked.await else { return };
            *signalled = known;
            empty_scans = if live.is_empty() { empty_scans + 1 } else { 0 };
            // No process can hide from a cgroup, so one empty scan is enough.
            if empty_scans == EMPTY_SCANS || (empty_scans > 0 && self.0.cgroup.is_some()) {
                return;
            }
            for stat in live {
                if !pidfd::wait_for_exit(stat.pid, stat.start_ticks).await {
                    tokio::time::sleep(SCAN_PAUSE[1]).await;
                }
            }
            tokio::time::sleep(SCAN_PAUSE[0]).await;
        }
    }

    /// Cleans up after a tree without live processes.
    pub fn close(&self) -> Killed {
        if let Some(cgroup) = &self.0.cgroup {
            // This fails if a process entered the cgroup meanwhile. Then the directory stays, and its name shows the
            // instance.
            let _ = cgroup.remove();
        }
        Trees(self.0.shared.clone()).reap_orphans();
        Killed::default()
    }

    /// All live processes of the tree; without a cgroup by a scan of all processes.
    fn live(&self) -> Vec<Stat> {
        if let Some(cgroup) = &self.0.cgroup {
            let stats = cgroup.processes().into_iter().filter_map(process::stat);
            return stats.filter(|stat| !stat.is_zombie()).collect();
        }
        let main = *lock(&self.0.main);
        main.map_or_else(Vec::new, |main| self.scan(&main).members)
    }

    /// Kills every process of the tree and waits until they are gone, at most [`KILL_MAX`]. Reaps the orphans;
    /// [`super::instance::Instance`] reaps the main process.
    pub async fn kill(&self) -> Killed {
        let tree = self.clone();
        // The task panics only while the tokio runtime shuts down.
        tokio::task::spawn_blocking(move || tree.kill_blocking()).await.unwrap_or_default()
    }

    fn kill_blocking(&self) -> Killed {
        let killed = match &self.0.cgroup {
            Some(cgroup) => self.kill_cgroup(cgroup),
            None => self.kill_scanned(),
        };
        Trees(self.0.shared.clone()).reap_orphans();
        killed
    }

    fn kill_cgroup(&self, cgroup: &Cgroup) -> Killed {
        let main = lock(&self.0.main).map(|main| main.pid);
        let leftovers = cgroup.processes().into_iter().filter(|pid| Some(*pid) != main).count();
        let mut backoff = Backoff::new();
        // One write is enough, but the kernel may refuse it for a moment if memory is short.
        while cgroup.kill().is_err() || cgroup.is_populated() {
            if !backoff.pause() {
                break;
            }
        }
        // If processes are left, this fails and they are reported as survivors.
        let _ = cgroup.remove();
        Killed { leftovers, survivors: cgroup.processes().len(), unattributed: 0 }
    }

    fn kill_scanned(&self) -> Killed {
        let tree = &self.0;
        let Some(main) = *lock(&tree.main) else { return Killed::default() };
        let (mut killed, mut empty_scans, mut backoff) = (BTreeSet::new(), 0, Backoff::new());
        loop {
            let found = self.scan(&main);
            for stat in &found.members {
                if stat.pid != main.pid {
                    killed.insert((stat.pid, stat.start_ticks));
                }
                pidfd::signal_exactly(stat.pid, stat.start_ticks, Signal::SIGKILL);
            }
            let survivors = found.members.len();
            empty_scans = if survivors == 0 { empty_scans + 1 } else { 0 };
            if empty_scans == EMPTY_SCANS || !backoff.pause() {
                return Killed { leftovers: killed.len(), survivors, unattributed: found.unattributed };
            }
        }
    }

    fn scan(&self, main: &Stat) -> Scan {
        let tree = &self.0;
        let all = process::all();
        let (live, seen) = (lock(&tree.shared.live).clone(), lock(&tree.seen).clone());
        let excluded = lock(&tree.shared.excluded).clone();
        let alone = live.keys().all(|id| *id == tree.id);
        let foreign_mains: BTreeSet<u32> =
            live.iter().filter(|(id, _)| **id != tree.id).filter_map(|(_, pid)| *pid).collect();
        let (own_pid, own_session) = tree.shared.own;
        let mut found = Scan::default();
        let mut ours: BTreeSet<u32> = BTreeSet::new();
        let later = |stat: &&Stat| stat.start_ticks >= main.start_ticks && stat.pid != own_pid && stat.parent != 2;
        let others = |stat: &&Stat| !foreign_mains.contains(&stat.pid) && !excluded.contains(&stat.pid);
        for stat in all.iter().filter(later).filter(others) {
            let is_known = stat.pid == main.pid
                || stat.session == main.pid
                || stat.group == main.pid
                || seen.contains(&(stat.pid, stat.start_ticks));
            let is_ours = is_known
                || match process::tag(stat.pid) {
                    Tag::Instance(id) => id == tree.id,
                    Tag::None | Tag::Unreadable => {
                        let orphan = stat.parent == own_pid && stat.session != own_session;
                        found.unattributed += usize::from(orphan && !alone && !stat.is_zombie());
                        orphan && alone
                    }
                };
            if is_ours {
                ours.insert(stat.pid);
            }
        }
        // Add all descendants. The list is not sorted, so repeat until nothing is added.
        while all
            .iter()
            .any(|stat| !foreign_mains.contains(&stat.pid) && ours.contains(&stat.parent) && ours.insert(stat.pid))
        {
        }
        found.members = all.into_iter().filter(|stat| ours.contains(&stat.pid) && !stat.is_zombie()).collect();
        found
    }
}

/// The processes that one look at all processes found.
#[derive(Default)]
struct Scan {
    members: Vec<Stat>,
    unattributed: usize,
}

/// Growing backoff, until [`KILL_MAX`] is over.
struct Backoff {
    deadline: Instant,
    next: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self { deadline: Instant::now() + KILL_MAX, next: SCAN_PAUSE[0] }
    }

    /// Sleeps and returns true; returns false if the time is over.
    fn pause(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        std::thread::sleep(self.next);
        self.next = (self.next * 2).min(SCAN_PAUSE[1]);
        true
    }
}
