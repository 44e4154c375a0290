//! The supervisor's side of the keeper.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::find;
use super::store::{FdStore, StoreError, check_name};
use super::wire::{self, FDS_MAX, Packet};
use crate::poll::{is_ready, wait};
use crate::runtime::pidfd;

/// How long the keeper may take to answer, in seconds; it takes microseconds.
const ANSWER_SECS_MAX: i64 = 2;
/// How long a new keeper may take until it listens, in milliseconds; it takes a few.
const START_MS_MAX: u16 = 10_000;
/// Attempts to reach a keeper while another one is starting or exiting, with a pause after each: two seconds in total.
const START_TRIES_MAX: usize = 100;
const START_PAUSE: Duration = Duration::from_millis(20);
/// Maximum length of the error message of a keeper that fails to start, in bytes.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// A connection to the keeper. The keeper keeps running while it is open; it hangs up when the keeper exits.
#[derive(Debug)]
pub struct Keeper {
    connection: OwnedFd,
    pid: i32,
}

impl Keeper {
    /// Connects to the keeper at `path`. If none answers, starts one as `exe keeper --socket path`. Two supervisors
    /// that do this at the same time get the same keeper.
    ///
    /// # Errors
    /// If none answers and none can be started.
    pub fn start_or_connect(path: &Path, exe: &Path) -> Result<Self, StoreError> {
        let mut command = Command::new(exe);
        command.args([OsStr::new("keeper"), OsStr::new("--socket"), path.as_os_str()]).env_clear();
        Self::start_with_or_connect(path, command)
    }

    /// Like [`Keeper::start_or_connect`], with a command that calls [`super::keeper_main`].
    ///
    /// # Errors
    /// If none answers and none can be started.
    pub fn start_with_or_connect(path: &Path, mut command: Command) -> Result<Self, StoreError> {
        let mut connected = Self::connect(path);
        if matches!(&connected, Err(StoreError::Lost(error)) if is_absent(error))
            && let Some(keeper) = find::at(path)
        {
            // A keeper runs and holds sockets that no other process has, but its socket or its key was removed. SIGHUP
            // makes it create them again.
            let _ = pidfd::signal(&keeper, Signal::SIGHUP);
            for _ in 0..START_TRIES_MAX {
                connected = Self::connect(path);
                if connected.is_ok() || is_ready(keeper.as_fd(), PollFlags::POLLIN).unwrap_or(true) {
                    break;
                }
                std::thread::sleep(START_PAUSE);
            }
        }
        // Another keeper may be about to listen, or about to exit: then neither it nor ours answers for a moment.
        for _ in 0..START_TRIES_MAX {
            match connected {
                Err(StoreError::Lost(error)) if is_absent(&error) => {}
                result => return result,
            }
            start(&mut command)?;
            connected = Self::connect(path);
            if connected.is_err() {
                std::thread::sleep(START_PAUSE);
            }
        }
        connected
    }

    /// Connects to a running keeper.
    ///
    /// # Errors
    /// If none answers.
    pub fn connect(path: &Path) -> Result<Self, StoreError> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let connection =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(io::Error::from)?;
        let bound = TimeVal::seconds(ANSWER_SECS_MAX);
        setsockopt(&connection, sockopt::SendTimeout, &bound).map_err(io::Error::from)?;
        setsockopt(&connection, sockopt::ReceiveTimeout, &bound).map_err(io::Error::from)?;
        connect(connection.as_raw_fd(), &UnixAddr::new(path).map_err(invalid)?).map_err(io::Error::from)?;
        // Read the key only now: the keeper writes it before it listens.
        let key = fs::read_to_string(wire::lock_path(path))?;
        let mut keeper = Self { connection, pid: 0 };
        keeper.request(wire::HELLO, &key, &[])?;
        keeper.pid = keeper.request(wire::PING, "", &[])?.parse().map_err(|_| StoreError::InvalidAnswer)?;
        Ok(keeper)
    }

    /// Checks that the keeper answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.request(wire::PING, "", &[]).map(drop)
    }

    /// The pid of the keeper.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells the keeper to close everything and exit, when the service is stopped.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn quit(self) -> Result<(), StoreError> {
        self.request(wire::QUIT, "", &[]).map(drop)
    }

    /// Tells the keeper to exit if it is not needed: no other client is connected, and no stored instance is alive.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the reason if it is needed; another error if it does not answer.
    pub fn quit_if_unneeded(self) -> Result<(), StoreError> {
        self.request(wire::QUIT_IF_UNNEEDED, "", &[]).map(drop)
    }

    fn request(&self, kind: u8, text: &str, fds: &[BorrowedFd<'_>]) -> Result<String, StoreError> {
        wire::send(&self.connection, kind, text, fds, MsgFlags::empty())?;
        let answer = self.receive()?;
        match answer.kind {
            wire::OK => Ok(answer.text),
            wire::NO => Err(StoreError::Refused { name: text.to_owned(), why: answer.text }),
            _ => Err(StoreError::InvalidAnswer),
        }
    }

    fn receive(&self) -> Result<Packet, StoreError> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        Ok(wire::receive(&self.connection, MsgFlags::empty())?.ok_or_else(gone)?)
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl FdStore for Keeper {
    fn disconnect_fd(&self) -> Option<OwnedFd> {
        self.connection.try_clone().ok()
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.request(wire::QUIT, "", &[]).map(drop)
    }

    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        check_name(name)?;
        self.request(wire::STORE, name, &[fd]).map(drop)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.request(wire::REMOVE, name, &[]).map(drop)
    }

    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        wire::send(&self.connection, wire::FETCH, "", &[], MsgFlags::empty())?;
        let mut all = Vec::new();
        loop {
            let packet = self.receive()?;
            match packet.kind {
                wire::OK => return Ok(all),
                wire::PART if all.len() + packet.fds.len() <= FDS_MAX => {
                    let names: Vec<String> = packet.text.lines().map(str::to_owned).collect();
                    if names.len() != packet.fds.len() {
                        return Err(StoreError::InvalidAnswer);
                    }
                    all.extend(names.into_iter().zip(packet.fds));
                }
                _ => return Err(StoreError::InvalidAnswer),
            }
        }
    }
}

/// True if no keeper answers, so that starting one helps.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe)
}

/// Starts a keeper, and waits until it listens or has found another one.
fn start(command: &mut Command) -> Result<(), StoreError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |why: String| StoreError::NotStarted { program: program.clone(), why };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // The stream ends when the starter has exited and the keeper has redirected its streams.
    let message = child.stderr.take().map_or(Ok(String::new()), read_bounded);
    if message.is_err() {
        // It is too late for an answer. The process may have exited already, so an error is ignored.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let message = message.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("{status}, {}", message.trim()))) }
}

/// Reads until the end, or until the limit of time or size.
fn read_bounded(stream: std::process::ChildStderr) -> io::Result<String> {
    let deadline = Instant::now() + Duration::from_millis(START_MS_MAX.into());
    let (mut stream, mut text) = (stream.take(MESSAGE_BYTES_MAX), Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stream.get_ref().as_fd(), PollFlags::POLLIN)];
        if wait(&mut fds, left)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 256];
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            // Usually SIGCHLD of the starter itself.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
