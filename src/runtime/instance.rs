//! One running instance: waits for its exit by a pidfd, and stops its whole process tree.
//!
//! If an instance exits without being asked, it has ended when its main process exits. A service that forks and exits
//! has ended, too: the processes that it left are killed, so that no process runs unsupervised. If an instance is asked
//! to stop, it has ended when its whole tree has exited, because the main process may be a shell in front of the
//! service.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

use super::exit::Exit;
use super::pidfd::{self, Waited};
use super::spawn::Spawned;
use super::tree::{KILL_MAX, Killed, Signalled, Tree, Trees};
use crate::config::StopMode;
use crate::process::{self, Tag};

/// How often, and at which interval, the kernel is asked for the exit status of a process that its parent must reap
/// first.
const FOREIGN_EXIT_TRIES: u32 = 20;
const FOREIGN_EXIT_PAUSE: Duration = Duration::from_millis(5);

/// How often, and at which interval, the environment of a process is read: it is empty for a moment during exec.
const TAG_TRIES: u32 = 20;
const TAG_PAUSE: Duration = Duration::from_millis(5);

/// A running instance.
pub struct Instance {
    id: String,
    pid: u32,
    start_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
    tree: Tree,
    exit: Option<Exit>,
    /// The processes that got the stop signal, after the instance was asked to stop.
    signalled: Signalled,
}

/// How an instance is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopBy {
    /// The stop signal.
    pub signal: Signal,
    /// Which processes get it.
    pub mode: StopMode,
}

impl Default for StopBy {
    fn default() -> Self {
        Self { signal: Signal::SIGTERM, mode: StopMode::ControlGroup }
    }
}

/// The cause of an instance's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// It exited before it was asked to stop.
    Itself,
    /// The stop signal, within the stop timeout. No process that was asked to stop had to be killed.
    Term,
    /// SIGKILL, sent to all processes or to those that were left after the stop timeout.
    Kill,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit status of the main process.
    pub exit: Exit,
    /// The cause.
    pub by: EndedBy,
    /// What happened to the rest of its process tree.
    pub tree: Killed,
}

/// Why a process cannot be adopted as an instance.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The process has exited.
    #[error("process {pid} of instance {id} has exited")]
    Gone {
        /// The instance id.
        id: String,
        /// The process id.
        pid: u32,
    },
    /// Another process has the pid now.
    #[error("process {pid} is not instance {id}: {why}")]
    Other {
        /// The instance id.
        id: String,
        /// The process id.
        pid: u32,
        /// The reason.
        why: &'static str,
    },
    /// The process cannot be watched.
    #[error("cannot watch process {pid} of instance {id}")]
    Watch {
        /// The instance id.
        id: String,
        /// The process id.
        pid: u32,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

fn is_tagged(pid: u32, id: &str) -> bool {
    for _ in 0..TAG_TRIES {
        match process::tag(pid) {
            Tag::Instance(found) => return found == id,
            Tag::None | Tag::Unreadable => std::thread::sleep(TAG_PAUSE),
        }
    }
    false
}

impl Instance {
    /// Makes an instance of a process that was just started in `tree`.
    ///
    /// # Errors
    /// If the event loop cannot register its pidfd.
    pub fn new(id: &str, spawned: Spawned, tree: Tree) -> std::io::Result<Self> {
        tree.set_main(spawned.pid);
        let pidfd = pidfd::watch(spawned.pidfd)?;
        Ok(Self {
            id: id.to_owned(),
            pid: spawned.pid,
            start_ticks: spawned.start_ticks,
            pidfd,
            tree,
            exit: None,
            signalled: Signalled::new(),
        })
    }

    /// Adopts a process that an earlier supervisor started. The pidfd is opened first, so that the checks are about its
    /// process: they compare the start time, or, if none was recorded, the instance id in its environment. May block
    /// for a tenth of a second, so call it only when the supervisor starts.
    ///
    /// # Errors
    /// If the process has exited or is another one.
    pub fn adopt(id: &str, pid: u32, start_ticks: Option<u64>, trees: &Trees) -> Result<Self, AdoptError> {
        let gone = || AdoptError::Gone { id: id.to_owned(), pid };
        let other = |why| AdoptError::Other { id: id.to_owned(), pid, why };
        let watch = |source| AdoptError::Watch { id: id.to_owned(), pid, source };
        let pidfd = pidfd::open(pid).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => gone(),
            _ => watch(error),
        })?;
        let stat = process::stat(pid).ok_or_else(gone)?;
        match start_ticks {
            Some(start) if start != stat.start_ticks => return Err(other("it was started at another time")),
            Some(_) => {}
            None if is_tagged(pid, id) => {}
            None => return Err(other("its environment names no such instance")),
        }
        let tree = trees.adopt(id);
        tree.set_main(pid);
        let pidfd = pidfd::watch(pidfd).map_err(watch)?;
        Ok(Self {
            id: id.to_owned(),
            pid,
            start_ticks: stat.start_ticks,
            pidfd,
            tree,
            exit: None,
            signalled: Signalled::new(),
        })
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pid of the main process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The start time of the main process, in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// The process tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The exit status, once [`Instance::wait`] has returned.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Waits until the main process has exited. Cancel safe. The process stays a zombie and keeps its pid until
    /// [`Instance::end`]; to start a successor at once, do it before that.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        // This fails only while the event loop shuts down; then the result is not used.
        let _ = self.pidfd.readable().await;
        let exit = match pidfd::peek(self.pidfd.get_ref()) {
            Waited::Ended(exit) => exit,
            Waited::Running => Exit::UNKNOWN,
            Waited::NotOurChild => self.exit_from_kernel().await,
        };
        self.exit = Some(exit);
        exit
    }

    async fn exit_from_kernel(&self) -> Exit {
        for _ in 0..FOREIGN_EXIT_TRIES {
            if let Some(exit) = pidfd::exit_after_reap(self.pidfd.get_ref()) {
                return exit;
            }
            tokio::time::sleep(FOREIGN_EXIT_PAUSE).await;
        }
        Exit::UNKNOWN
    }

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// If it has exited.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        pidfd::signal(self.pidfd.get_ref(), signal)
    }

    /// Asks the instance to stop, and kills the processes that are left after `grace`. Returns when none of its
    /// processes runs.
    pub async fn stop(&mut self, by: StopBy, grace: Duration) -> Ended {
        if !self.ask_to_finish(by).await {
            return self.end().await;
        }
        let finished = tokio::time::timeout(grace, self.finished(by)).await.is_ok();
        self.finish_stop(by, finished).await
    }

    /// Sends the stop signal, like systemd: to every process of the tree, or to the main process only. Returns false if
    /// the main process has exited already.
    pub async fn ask_to_finish(&mut self, by: StopBy) -> bool {
        if self.exit.is_none() && pidfd::peek(self.pidfd.get_ref()) != Waited::Running && !self.is_running() {
            self.wait().await;
        }
        if self.exit.is_some() {
            return false;
        }
        let main = (self.pid, self.start_ticks);
        if by.mode == StopMode::ControlGroup {
            self.signalled = self.tree.signal_all(by.signal, main).await;
            return true;
        }
        // If it has exited just now, that is fine.
        let _ = self.signal(by.signal);
        // A stopped process handles the signal only when it continues.
        let _ = self.signal(Signal::SIGCONT);
        self.signalled.insert(main);
        true
    }

    /// Waits until all processes that were asked to stop have exited: the tree, or only the main process. Cancel safe.
    pub async fn finished(&mut self, by: StopBy) {
        self.wait().await;
        if by.mode == StopMode::ControlGroup {
            // Processes that started after the stop signal was sent have not got it yet; if their parents are gone,
            // they get it now.
            self.tree.wait_until_empty(by.signal, &mut self.signalled).await;
        }
    }

    /// Kills the processes that did not stop, and reaps the instance. `finished` is true if [`Instance::finished`]
    /// returned.
    pub async fn finish_stop(&mut self, by: StopBy, finished: bool) -> Ended {
        match (finished, self.exit) {
            (true, Some(exit)) if by.mode == StopMode::ControlGroup => {
                let tree = self.tree.close();
                pidfd::reap(self.pidfd.get_ref());
                Ended { exit, by: EndedBy::Term, tree }
            }
            (true, _) => Ended { by: EndedBy::Term, ..self.end().await },
            (false, _) => Ended { by: EndedBy::Kill, ..self.end().await },
        }
    }

    /// True if the main process has not exited; for a process that is not our child.
    fn is_running(&self) -> bool {
        process::stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie())
    }

    /// Kills all processes of the instance that are left, and reaps it.
    pub async fn end(&mut self) -> Ended {
        let by = if self.exit.is_some() { EndedBy::Itself } else { EndedBy::Kill };
        let tree = self.tree.kill().await;
        // A process that hangs in the kernel does not exit even after SIGKILL. It is reported as a survivor.
        let exit = tokio::time::timeout(KILL_MAX, self.wait()).await.unwrap_or(Exit::UNKNOWN);
        pidfd::reap(self.pidfd.get_ref());
        Ended { exit, by, tree }
    }
}
