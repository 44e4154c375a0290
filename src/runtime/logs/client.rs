//! The supervisor's side of the logger.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::counts::Counts;
use super::files;
use super::memory::{FallbackReader, LogStats, MEMORY_BYTES, Memory};
use super::server::{COUNT, FORGET, READ};
use super::unread::{PipeWatch, Unread, drain_excess};
use crate::live::Sample;
use crate::poll::is_ready;
use crate::runtime::keeper::wire;

/// The longest rules of an access log, in bytes. A packet to the logger has 16 KiB.
const RULES_BYTES_MAX: usize = 8 << 10;

/// Why a log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The memory file could not be created.
    #[error("cannot make the memory of a log")]
    Memory(#[source] io::Error),
    /// The logger could not be started.
    #[error("cannot start the logger {program}")]
    Logger {
        /// The program.
        program: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

/// A connection to the logger. Clones share it, also after it was switched to another logger. The logger exits when no
/// process has this end any more and every pipe has been read to its end.
#[derive(Clone, Debug)]
pub struct Logger(Arc<Mutex<OwnedFd>>);

impl Logger {
    /// Starts a logger as `exe logger --directory DIRECTORY`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(exe: &Path, directory: &Path) -> Result<(Self, Child), LogError> {
        let failed = |source| LogError::Logger { program: exe.display().to_string(), source };
        let (ours, theirs) = Self::connection().map_err(failed)?;
        let mut command = Command::new(exe);
        command.arg("logger").arg("--directory").arg(directory).env_clear();
        // It stays in the supervisor's session, so that it is not mistaken for a process of an instance. It has its own
        // process group, so that signals of a terminal do not reach it.
        command.process_group(0).current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        Ok((Self::of(ours), child))
    }

    /// The two ends of a connection: the supervisor's and the logger's.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
    }

    /// Makes a client of the logger at the other end of the connection.
    pub fn of(connection: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    /// True if no process has the other end.
    pub fn is_gone(&self) -> bool {
        self.with(|connection| is_ready(connection.as_fd(), PollFlags::empty())) != Ok(false)
    }

    /// A copy of the connection.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.with(OwnedFd::try_clone)
    }

    /// Switches this connection, with all its clones, to another logger.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn switch_to(&self, other: &Self) -> io::Result<()> {
        let connection = other.copy()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> T {
        act(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the logger to read an instance's pipe into its memory and into `path` and `path.1`, which together have at
    /// most `bytes_max` bytes. If it already reads a pipe of this instance, it continues to read that pipe. If the logger
    /// has just died, this is no error: the request is repeated to the next one.
    pub fn read(&self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        self.read_and_count(id, pipe, memory, path, bytes_max, None)
    }

    /// Like this logger, but it also counts the requests in the output, by rules as JSON.
    pub fn counting<'a>(&'a self, rules: &'a str) -> CountingLogger<'a> {
        CountingLogger { logger: self, rules }
    }

    fn read_and_count(
        &self,
        id: &str,
        pipe: &impl AsFd,
        memory: Memory,
        path: &Path,
        bytes_max: u64,
        counts: Option<(String, Counts)>,
    ) -> Log {
        let (id, path) = (id.to_owned(), path.to_owned());
        let log = Log { id, path, bytes_max, memory, read_by_other_logger: false, counts };
        self.read_again(&log, pipe);
        log
    }

    /// Like [`Logger::read`], for an adopted instance: if its memory is empty, the memory is filled from the end of its
    /// file.
    pub fn resume(&self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        begin_again(&memory, path);
        self.read(id, pipe, memory, path, bytes_max)
    }

    /// Asks this logger to read a pipe that another logger has read.
    pub fn read_again(&self, log: &Log, pipe: &impl AsFd) {
        if let Some((rules, counts)) = &log.counts {
            // The rules come first, so that no line is read without them.
            self.send(COUNT, &format!("{}\n{rules}", log.id), &[counts.as_fd()]);
        }
        let text = format!("{}\n{}\n{}", log.id, log.path.display(), log.bytes_max);
        self.send(READ, &text, &[pipe.as_fd(), log.memory.as_fd()]);
    }

    /// Asks the logger to read only what is in the pipe and then to release it, because the instance has ended.
    pub fn forget(&self, id: &str) {
        self.send(FORGET, id, &[]);
    }

    fn send(&self, kind: u8, text: &str, fds: &[BorrowedFd<'_>]) {
        // Never block. If the logger is gone, its hang-up shows it, and the request is repeated to the next one.
        let sent = self.with(|connection| wire::send(connection, kind, text, fds, MsgFlags::MSG_DONTWAIT));
        if let Err(error) = sent {
            tracing::warn!(%error, of = text.lines().next(), "cannot send a request to the logger");
        }
    }
}

/// A logger that also counts the requests in the output.
#[derive(Clone, Copy, Debug)]
pub struct CountingLogger<'a> {
    logger: &'a Logger,
    rules: &'a str,
}

impl CountingLogger<'_> {
    /// Like [`Logger::read`]. Without memory for the counts, nothing is counted.
    pub fn read(self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        let is_short = self.rules.len() <= RULES_BYTES_MAX;
        let counts = Counts::new().ok().filter(|_| is_short).map(|counts| (self.rules.to_owned(), counts));
        if counts.is_none() {
            tracing::warn!(id, is_short, "the requests in the output of an instance cannot be counted");
        }
        self.logger.read_and_count(id, pipe, memory, path, bytes_max, counts)
    }

    /// Like [`Logger::resume`].
    pub fn resume(self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        begin_again(&memory, path);
        self.read(id, pipe, memory, path, bytes_max)
    }
}

/// Fills an empty memory from the end of the file.
fn begin_again(memory: &Memory, path: &Path) {
    if memory.is_empty() {
        // On an error the output is still in the file.
        let _ = memory.begin_with(&files::tail_of(path, MEMORY_BYTES));
    }
}

/// The log of one instance in the logger.
#[derive(Debug)]
pub struct Log {
    id: String,
    path: PathBuf,
    bytes_max: u64,
    memory: Memory,
    /// True if another logger, which is in no store any more, has the pipe. Then the memory here stays empty.
    read_by_other_logger: bool,
    /// The rules of the access log as JSON, and what was counted by them.
    counts: Option<(String, Counts)>,
}

impl Log {
    /// The log of an instance whose pipe is read by a logger that this supervisor has no connection to. That logger
    /// still writes the file.
    ///
    /// # Errors
    /// If its memory cannot be created.
    pub fn of_another_logger(id: &str, path: &Path, bytes_max: u64) -> Result<Self, LogError> {
        let memory = Memory::new().map_err(LogError::Memory)?;
        Ok(Self {
            id: id.to_owned(),
            path: path.to_owned(),
            bytes_max,
            memory,
            read_by_other_logger: true,
            counts: None,
        })
    }

    /// Checks whether any process reads the pipe of this log.
    pub fn check(&self, pipe: &impl AsFd, watch: &mut PipeWatch, by: FallbackReader) -> Unread {
        watch.check(pipe.as_fd(), &self.memory, by)
    }

    /// Drains the pipe of this log, if it is filling up, so far that the instance does not block. Returns the number of
    /// dropped bytes, which are counted.
    ///
    /// # Errors
    /// If it is not a pipe.
    pub fn drain_excess(&self, pipe: &impl AsFd, by: FallbackReader) -> io::Result<u64> {
        drain_excess(pipe.as_fd(), &self.memory, by)
    }

    /// Takes the requests that were counted since the last call; `None` if there were none.
    pub fn take_counts(&self) -> Option<Sample> {
        self.counts.as_ref()?.1.take()
    }

    /// Whether requests are counted.
    pub fn is_counted(&self) -> bool {
        self.counts.is_some()
    }

    /// The newest output of the instance, at most [`super::MEMORY_BYTES`], from memory.
    pub fn recent(&self) -> Vec<u8> {
        if self.read_by_other_logger { files::tail_of(&self.path, MEMORY_BYTES) } else { self.memory.recent() }
    }

    /// The last `bytes` of the files. If there is more before them, the result begins with a whole line.
    pub async fn tail(&self, bytes: usize) -> Vec<u8> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || files::tail_of(&path, bytes)).await.unwrap_or_default()
    }

    /// The counters so far.
    pub fn stats(&self) -> LogStats {
        self.memory.stats()
    }

    /// True if all writers have closed the pipe and everything in it was read.
    pub fn is_finished(&self) -> bool {
        self.memory.is_finished()
    }
}
