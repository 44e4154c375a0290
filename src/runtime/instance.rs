//! One running instance: its end is awaited by process descriptor, its stop takes the whole tree.
//!
//! An instance that is not asked to end is over when its main process is over. A service that forks and exits has ended,
//! whatever it left running: what is left is killed, so that nothing runs that nobody watches. An instance that is asked
//! to finish is over when its whole tree is: the main process may be a shell in front of the service.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

use super::exit::Exit;
use super::pidfd::{self, Waited};
use super::spawn::Spawned;
use super::tree::{KILL_MAX, Killed, Told, Tree, Trees};
use crate::config::StopMode;
use crate::process::{self, Tag};

/// How often, and how far apart, the kernel is asked how a process ended that another one must reap first.
const FOREIGN_EXIT_TRIES: u32 = 20;
const FOREIGN_EXIT_PAUSE: Duration = Duration::from_millis(5);

/// How often, and how far apart, a process's environment is read: it is empty for a moment inside exec.
const TAG_TRIES: u32 = 20;
const TAG_PAUSE: Duration = Duration::from_millis(5);

/// A running process tree.
pub struct Instance {
    id: String,
    pid: u32,
    start_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
    tree: Tree,
    exit: Option<Exit>,
    /// Who got the stop signal, once the instance was asked to finish.
    told: Told,
}

/// How an instance is asked to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopBy {
    /// The signal.
    pub signal: Signal,
    /// Who gets it.
    pub mode: StopMode,
}

impl Default for StopBy {
    fn default() -> Self {
        Self { signal: Signal::SIGTERM, mode: StopMode::ControlGroup }
    }
}

/// What ended an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// It ended before it was asked to.
    Itself,
    /// The stop signal, within the grace: nothing had to be killed that was asked to finish.
    Term,
    /// SIGKILL, to all of it or to what was left when the grace was over.
    Kill,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The main process's end.
    pub exit: Exit,
    /// What ended it.
    pub by: EndedBy,
    /// What else was found in its tree.
    pub tree: Killed,
}

/// Why a process is not the instance that it was taken for.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It has ended.
    #[error("process {pid} of instance {id} has ended")]
    Gone {
        /// The instance.
        id: String,
        /// Its process.
        pid: u32,
    },
    /// Another process has its pid.
    #[error("process {pid} is not instance {id}: {why}")]
    Other {
        /// The instance.
        id: String,
        /// Its process.
        pid: u32,
        /// How that is known.
        why: &'static str,
    },
    /// It cannot be watched.
    #[error("cannot watch process {pid} of instance {id}")]
    Watch {
        /// The instance.
        id: String,
        /// Its process.
        pid: u32,
        /// What the system said.
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
    /// Watches a process that was just made in `tree`.
    ///
    /// # Errors
    /// When the event loop cannot take its descriptor.
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
            told: Told::new(),
        })
    }

    /// Takes over a process that an earlier supervisor started. Its descriptor is opened first, so what is compared
    /// then is of this process: its start, or, where none was recorded, the instance in its environment. For the start
    /// of the supervisor: it may wait a tenth of a second.
    ///
    /// # Errors
    /// When the process has ended or is another one.
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
        Ok(Self { id: id.to_owned(), pid, start_ticks: stat.start_ticks, pidfd, tree, exit: None, told: Told::new() })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its main process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When that was started, in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Its processes.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// How it ended, once [`Instance::wait`] has seen it.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Waits until the main process has ended. May be cancelled and called again. The process stays a zombie, and so
    /// its pid its own, until [`Instance::end`]: to start a successor at once, do so before that.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        // An error means that the event loop is going down, and then nobody listens to the answer.
        let _ = self.pidfd.readable().await;
        let exit = match pidfd::peek(self.pidfd.get_ref()) {
            Waited::Ended(exit) => exit,
            Waited::Running => Exit::UNKNOWN,
            Waited::NotOurs => self.exit_told_by_kernel().await,
        };
        self.exit = Some(exit);
        exit
    }

    async fn exit_told_by_kernel(&self) -> Exit {
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
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        pidfd::signal(self.pidfd.get_ref(), signal)
    }

    /// Asks the instance to finish, and kills what is left of it when `grace` is over. Returns when nothing of it runs any
    /// more.
    pub async fn stop(&mut self, by: StopBy, grace: Duration) -> Ended {
        if !self.ask_to_finish(by).await {
            return self.end().await;
        }
        let finished = tokio::time::timeout(grace, self.finished(by)).await.is_ok();
        self.end_asked(by, finished).await
    }

    /// Sends the stop signal, as systemd does: to every process of the tree, or to the main process alone. `false` when
    /// the main process has ended already; then there is nobody to ask.
    pub async fn ask_to_finish(&mut self, by: StopBy) -> bool {
        if self.exit.is_none() && pidfd::peek(self.pidfd.get_ref()) != Waited::Running && !self.runs() {
            self.wait().await;
        }
        if self.exit.is_some() {
            return false;
        }
        let main = (self.pid, self.start_ticks);
        if by.mode == StopMode::ControlGroup {
            self.told = self.tree.tell(by.signal, main).await;
            return true;
        }
        // Gone in this moment is as good.
        let _ = self.signal(by.signal);
        // A stopped process sees the signal only when it goes on.
        let _ = self.signal(Signal::SIGCONT);
        self.told.insert(main);
        true
    }

    /// Waits until all that was asked to finish has ended: the tree, or the main process alone. May be cancelled and
    /// called again.
    pub async fn finished(&mut self, by: StopBy) {
        self.wait().await;
        if by.mode == StopMode::ControlGroup {
            // What was started after the signal was sent has not heard of it, and nobody is left who would end it.
            self.tree.gone(by.signal, &mut self.told).await;
        }
    }

    /// Kills what did not finish, and reaps the instance. `finished` says whether [`Instance::finished`] returned.
    pub async fn end_asked(&mut self, by: StopBy, finished: bool) -> Ended {
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

    /// Whether the main process has not ended, for one that is no child of ours.
    fn runs(&self) -> bool {
        process::stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie())
    }

    /// Kills what is left of the instance, all of it if it still runs, and reaps it.
    pub async fn end(&mut self) -> Ended {
        let by = if self.exit.is_some() { EndedBy::Itself } else { EndedBy::Kill };
        let tree = self.tree.kill().await;
        // A process that hangs in the kernel does not end even so; it is told as a survivor.
        let exit = tokio::time::timeout(KILL_MAX, self.wait()).await.unwrap_or(Exit::UNKNOWN);
        pidfd::reap(self.pidfd.get_ref());
        Ended { exit, by, tree }
    }
}
