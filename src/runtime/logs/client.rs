//! A supervisor's side of the logger.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::files;
use super::memory::{LogStats, MEMORY_BYTES, Memory, StandIn};
use super::relief::{Unread, Watch, relieve};
use super::server::{FORGET, READ};
use crate::poll::is_ready;
use crate::runtime::keeper::wire;

/// Why a log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no memory for its end.
    #[error("cannot make the memory of a log")]
    Memory(#[source] io::Error),
    /// The logger cannot be started.
    #[error("cannot start the logger {program}")]
    Logger {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The connection to the logger. Clones speak of the same one, also when another logger has taken its place. The logger
/// ends when nobody has this end any more and every instance's output is read.
#[derive(Clone, Debug)]
pub struct Logger(Arc<Mutex<OwnedFd>>);

impl Logger {
    /// Starts one, as `exe logger --directory DIRECTORY`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(exe: &Path, directory: &Path) -> Result<(Self, Child), LogError> {
        let failed = |source| LogError::Logger { program: exe.display().to_string(), source };
        let (ours, theirs) = Self::connection().map_err(failed)?;
        let mut command = Command::new(exe);
        command.arg("logger").arg("--directory").arg(directory).env_clear();
        // In the supervisor's session, so that it is not taken for what an instance has left, and in a group of its own,
        // so that a terminal's signals do not reach it.
        command.process_group(0).current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        Ok((Self::of(ours), child))
    }

    /// The two ends of a connection: the supervisor's, and the logger's.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
    }

    /// The logger at the other end.
    pub fn of(connection: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    /// Whether nobody is at the other end any more.
    pub fn is_gone(&self) -> bool {
        self.with(|connection| is_ready(connection.as_fd(), PollFlags::empty())) != Ok(false)
    }

    /// A copy of the connection.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.with(OwnedFd::try_clone)
    }

    /// Speaks to another logger from now on.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn become_one_with(&self, other: &Self) -> io::Result<()> {
        let connection = other.copy()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> T {
        act(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has an instance's pipe read into its memory and into `path` and `path.1`, together at most `bytes_max`. A pipe of this
    /// instance that is read already goes on being read. A logger that has just died does not hold this up: the next one is
    /// asked again.
    pub fn read(&self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        let log = Log { id: id.to_owned(), path: path.to_owned(), bytes_max, memory, elsewhere: false };
        self.read_again(&log, pipe);
        log
    }

    /// As [`Logger::read`], for an instance that an earlier supervisor started: where its memory is empty, what is in its
    /// file is what it printed last.
    pub fn resume(&self, id: &str, pipe: &impl AsFd, memory: Memory, path: &Path, bytes_max: u64) -> Log {
        if memory.is_empty() {
            // Without it the file has the words.
            let _ = memory.begin_with(&files::tail_of(path, MEMORY_BYTES));
        }
        self.read(id, pipe, memory, path, bytes_max)
    }

    /// Has the pipe of a log read that another logger has read.
    pub fn read_again(&self, log: &Log, pipe: &impl AsFd) {
        let text = format!("{}\n{}\n{}", log.id, log.path.display(), log.bytes_max);
        self.send(READ, &text, &[pipe.as_fd(), log.memory.as_fd()]);
    }

    /// Has no more read of an instance than what is in its pipe: it has ended, and its last words were heard.
    pub fn forget(&self, id: &str) {
        self.send(FORGET, id, &[]);
    }

    fn send(&self, kind: u8, text: &str, fds: &[BorrowedFd<'_>]) {
        // Never waited for. One that is gone is seen by its end, and the next one is asked again.
        let sent = self.with(|connection| wire::send(connection, kind, text, fds, MsgFlags::MSG_DONTWAIT));
        if let Err(error) = sent {
            tracing::warn!(%error, of = text.lines().next(), "the logger does not hear");
        }
    }
}

/// The log of one instance, as the logger keeps it.
#[derive(Debug)]
pub struct Log {
    id: String,
    path: PathBuf,
    bytes_max: u64,
    memory: Memory,
    /// Whether nothing comes into the memory: another logger, that no store leads to any more, has the pipe.
    elsewhere: bool,
}

impl Log {
    /// The log of an instance whose pipe a logger has that this supervisor does not know: it goes on writing the file.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn of_another_logger(id: &str, path: &Path, bytes_max: u64) -> Result<Self, LogError> {
        let memory = Memory::new().map_err(LogError::Memory)?;
        Ok(Self { id: id.to_owned(), path: path.to_owned(), bytes_max, memory, elsewhere: true })
    }

    /// Looks whether anybody reads the pipe of this log.
    pub fn look(&self, pipe: &impl AsFd, watch: &mut Watch, by: StandIn) -> Unread {
        watch.look(pipe.as_fd(), &self.memory, by)
    }

    /// Empties the pipe of this log, if it is filling, so far that the instance can go on. Gives the bytes that were
    /// dropped; they are counted.
    ///
    /// # Errors
    /// When it is no pipe.
    pub fn relieve(&self, pipe: &impl AsFd, by: StandIn) -> io::Result<u64> {
        relieve(pipe.as_fd(), &self.memory, by)
    }

    /// The last bytes that the instance printed, from memory: at most [`super::MEMORY_BYTES`].
    pub fn recent(&self) -> Vec<u8> {
        if self.elsewhere { files::tail_of(&self.path, MEMORY_BYTES) } else { self.memory.recent() }
    }

    /// The last `bytes`, from the files. They begin with a whole line where there is more before them.
    pub async fn tail(&self, bytes: usize) -> Vec<u8> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || files::tail_of(&path, bytes)).await.unwrap_or_default()
    }

    /// What became of the bytes so far.
    pub fn stats(&self) -> LogStats {
        self.memory.stats()
    }

    /// Whether all writers are gone and all they wrote is read.
    pub fn is_finished(&self) -> bool {
        self.memory.is_finished()
    }
}
