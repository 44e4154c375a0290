//! The process of the keeper: one loop, no async runtime, a bounded number of descriptors.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libc::c_int;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use nix::unistd::{ForkResult, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::find;
use super::reader::{OtherReaders, Reader};
use super::store::{INSTANCE_PREFIX, LOGGER_PREFIX, check_name};
use super::wire::{self, FDS_MAX, PACKET_FDS_MAX, Packet};
use crate::poll::is_ready;

/// How long a keeper keeps running while no supervisor is connected and no stored instance is alive. It is enough time
/// for a service manager or a person to start the next supervisor, but the process does not stay for ever.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// Maximum number of connected clients: a supervisor, its successor, and some diagnostic connections.
const CLIENTS_MAX: usize = 8;
/// How long a client may take to read an answer before it is disconnected, in seconds.
const SEND_SECS_MAX: i64 = 1;

/// Runs the keeper. It forks. In the caller's process it returns success as soon as the socket at `path` answers, or
/// failure with one line on standard error. In the keeper's own process it returns later, when its work is done. Both
/// processes must exit then.
///
/// The keeper has its own session without a terminal, `/` as working directory, and only its own descriptors, because
/// it must outlive the processes around it. It exits on request, after the time `alone` without a client and a live
/// instance, and on SIGTERM or SIGINT if it is not needed. If a supervisor is connected or an instance is alive, it
/// ignores these signals and writes a message to syslog. On SIGHUP it creates its socket and its key again if they were
/// removed. It is not dumpable, so that no process of its user can read its descriptors.
///
/// Call it only while the process has one thread.
pub fn keeper_main(path: &Path, alone: Duration) -> ExitCode {
    let server = match start(path, alone) {
        Ok(Some(server)) => server,
        // Another keeper is running.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rei keeper: cannot serve {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    // SAFETY: by the contract above the process has one thread, so no other thread can hold a lock that the child would
    // wait for.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => ExitCode::SUCCESS,
        Ok(ForkResult::Child) => match detach().and_then(|()| server.run()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("rei keeper: cannot fork: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Closes inherited descriptors and listens at `path`; `None` if a keeper is already running there.
fn start(path: &Path, alone: Duration) -> io::Result<Option<Server>> {
    prctl::set_dumpable(false)?;
    close_inherited()?;
    umask(Mode::from_bits_truncate(0o077));
    let path = std::path::absolute(path)?;
    let key = new_key()?;
    let Some(lock) = lock_place(&path, &key)? else { return Ok(None) };
    let (listener, inode) = listen_at(&path)?;
    let (clients, entries, reader) = (Vec::new(), Vec::new(), Reader::new());
    Ok(Some(Server { path, lock, key, listener, inode, alone, clients, entries, reader }))
}

/// Locks the lock file and writes the key into it; `None` if another keeper has the lock.
fn lock_place(path: &Path, key: &str) -> io::Result<Option<File>> {
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(wire::lock_path(path))?;
    // Two supervisors may each start a keeper: the lock decides. The lock belongs to the open file description, so the
    // forked child keeps it, and it must not be unlocked explicitly. It is released when the last process closes the
    // file.
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    write_key(&lock, key)?;
    Ok(Some(lock))
}

fn write_key(mut lock: &File, key: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(key.as_bytes())
}

/// Listens at a path, replacing any socket there. Also returns the inode of the socket's file.
fn listen_at(path: &Path) -> io::Result<(OwnedFd, u64)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let address = UnixAddr::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::new(16)?)?;
    Ok((listener, inode(path).unwrap_or_default()))
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|file| file.ino())
}

/// 256 random bits, as hexadecimal text.
fn new_key() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(crate::digest::hex(bytes))
}

/// Closes all descriptors but the three standard ones.
fn close_inherited() -> io::Result<()> {
    // SAFETY: this runs before any code of this process has opened a descriptor, so no owner of a closed descriptor
    // exists here.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the session, terminal, working directory and standard streams of the caller.
fn detach() -> io::Result<()> {
    setsid()?;
    chdir("/")?;
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    // Signals stay blocked except during ppoll, so handlers run only there.
    handled_signals().thread_block()?;
    for which in HANDLED_SIGNALS {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { signal(which, SigHandler::Handler(on_signal)) }?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // The process name is used by `ps` and by `find`; an error is not fatal.
    let _ = prctl::set_name(find::NAME);
    Ok(())
}

/// The signals that the keeper handles.
const HANDLED_SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Set by SIGINT and SIGTERM: the keeper is to exit. Set by SIGHUP: the keeper is to create its files again.
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);
static RESTORE_REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(number: c_int) {
    let asked = if number == libc::SIGHUP { &RESTORE_REQUESTED } else { &STOP_REQUESTED };
    asked.store(true, Ordering::Relaxed);
}

fn handled_signals() -> SigSet {
    HANDLED_SIGNALS.into_iter().collect()
}

/// Writes a line to syslog, if it runs. The standard streams lead to /dev/null.
fn log_to_syslog(line: &str) {
    let log = UnixDatagram::unbound().and_then(|log| log.set_nonblocking(true).map(|()| log));
    // Priority 28: facility daemon, severity warning.
    let message = format!("<28>rei-keeper[{}]: {line}", std::process::id());
    let _ = log.and_then(|log| log.send_to(message.as_bytes(), "/dev/log"));
}

struct Server {
    path: PathBuf,
    lock: File,
    key: String,
    listener: OwnedFd,
    /// The inode of the listener's file.
    inode: u64,
    alone: Duration,
    clients: Vec<Client>,
    entries: Vec<Entry>,
    reader: Reader,
}

struct Client {
    connection: OwnedFd,
    /// True after the client has sent the right key.
    authenticated: bool,
}

struct Entry {
    name: String,
    fd: OwnedFd,
    /// True if it is a pidfd whose process has not exited.
    lives: bool,
}

/// What to do after a packet.
#[derive(PartialEq)]
enum Next {
    Serve,
    Drop,
    Quit,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        let mut alone_since = Instant::now();
        loop {
            if !self.clients.is_empty() || self.entries.iter().any(|entry| entry.lives) {
                alone_since = Instant::now();
            } else if alone_since.elapsed() >= self.alone {
                return self.end();
            }
            self.read_logs();
            let (new, clients, ended) = self.wait(alone_since)?;
            if RESTORE_REQUESTED.swap(false, Ordering::Relaxed)
                && let Err(error) = self.restore()
            {
                log_to_syslog(&format!("cannot create {} again: {error}", self.path.display()));
            }
            if STOP_REQUESTED.swap(false, Ordering::Relaxed) {
                match self.needed_by(0) {
                    None => return self.end(),
                    Some(why) => log_to_syslog(&format!(
                        "ignores the request to exit, because {why}; `rei stop` stops everything"
                    )),
                }
            }
            for name in ended {
                self.entries.iter_mut().filter(|entry| entry.name == name).for_each(|entry| entry.lives = false);
            }
            // From the last to the first, so that removing a client does not move one that is still to be served.
            for index in clients.into_iter().rev() {
                match self.serve(index) {
                    Next::Serve => {}
                    Next::Drop => drop(self.clients.remove(index)),
                    Next::Quit => return self.end(),
                }
            }
            if new {
                self.accept();
            }
        }
    }

    /// Waits for a new client, a packet or the exit of an instance. Returns whether there is a new client, which
    /// clients have sent something, and which instances have exited.
    fn wait(&self, alone_since: Instant) -> io::Result<(bool, Vec<usize>, Vec<String>)> {
        let living = || self.entries.iter().filter(|entry| entry.lives);
        let timeout = if living().next().is_some() {
            Some(self.reader.pause())
        } else if self.clients.is_empty() {
            Some(self.alone.saturating_sub(alone_since.elapsed()) + Duration::from_millis(1))
        } else {
            None
        };
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.listener.as_fd())];
        fds.extend(self.clients.iter().map(|client| watch(client.connection.as_fd())));
        fds.extend(living().map(|entry| watch(entry.fd.as_fd())));
        match ppoll(&mut fds, timeout.map(TimeSpec::from), Some(SigSet::empty())) {
            Err(Errno::EINTR) => return Ok((false, Vec::new(), Vec::new())),
            result => result?,
        };
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let (clients, instances) = fds[1..].split_at(self.clients.len());
        let clients = clients.iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(index, _)| index).collect();
        let ended = living().zip(instances).filter(|(_, fd)| ready(fd)).map(|(entry, _)| entry.name.clone()).collect();
        Ok((ready(&fds[0]), clients, ended))
    }

    /// Drains the output of instances, if a check is due.
    fn read_logs(&mut self) {
        if !self.reader.pause().is_zero() || !self.entries.iter().any(|entry| entry.lives) {
            return;
        }
        let gone = |entry: &Entry| is_ready(entry.fd.as_fd(), PollFlags::empty()).unwrap_or(false);
        let has_logger = self.entries.iter().any(|entry| entry.name.starts_with(LOGGER_PREFIX) && !gone(entry));
        let others = match self.clients.iter().any(|client| client.authenticated) {
            true => OtherReaders::Supervisor,
            false if has_logger => OtherReaders::Logger,
            false => OtherReaders::Nobody,
        };
        let entries: Vec<_> = self.entries.iter().map(|entry| (&*entry.name, entry.fd.as_fd())).collect();
        self.reader.check(&entries, others);
    }

    /// The reason why the keeper cannot exit, not counting the number of clients in `asking`; `None` if it is not
    /// needed.
    fn needed_by(&self, asking: usize) -> Option<String> {
        let ended = |entry: &Entry| is_ready(entry.fd.as_fd(), PollFlags::POLLIN).unwrap_or(false);
        match self.entries.iter().find(|entry| entry.lives && !ended(entry)) {
            _ if self.clients.iter().filter(|client| client.authenticated).count() > asking => {
                Some("a supervisor is connected".to_owned())
            }
            Some(entry) => Some(format!("{} still runs", entry.name.replacen(INSTANCE_PREFIX, "instance ", 1))),
            None => None,
        }
    }

    /// Creates the socket and the lock file with the key again, if they were removed or replaced.
    fn restore(&mut self) -> io::Result<()> {
        let lock = wire::lock_path(&self.path);
        if inode(&lock) == Some(self.lock.metadata()?.ino()) {
            write_key(&self.lock, &self.key)?;
        } else if let Some(lock) = lock_place(&self.path, &self.key)? {
            self.lock = lock;
        } else {
            return Err(io::Error::other("another keeper has its place"));
        }
        if inode(&self.path) != Some(self.inode) {
            (self.listener, self.inode) = listen_at(&self.path)?;
        }
        Ok(())
    }

    /// Accepts a client of our own user or of root.
    fn accept(&mut self) {
        let Ok(raw) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: `accept4` has just created this descriptor, and no other code owns it.
        let client = unsafe { OwnedFd::from_raw_fd(raw) };
        let ours = getsockopt(&client, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == Uid::effective().as_raw() || peer.uid() == 0);
        let bounded = setsockopt(&client, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECS_MAX)).is_ok();
        if ours && bounded && self.clients.len() < CLIENTS_MAX {
            self.clients.push(Client { connection: client, authenticated: false });
        }
    }

    /// Answers one packet.
    fn serve(&mut self, index: usize) -> Next {
        let packet = match wire::receive(&self.clients[index].connection, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(packet)) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Serve,
            Ok(None) | Err(_) => return Next::Drop,
        };
        if !self.clients[index].authenticated && (packet.kind != wire::HELLO || packet.text != self.key) {
            return Next::Drop;
        }
        let mut quit = packet.kind == wire::QUIT;
        let answer = match packet.kind {
            wire::STORE => self.store(packet).map(|()| String::new()).map_err(str::to_owned),
            wire::REMOVE => {
                self.entries.retain(|entry| entry.name != packet.text);
                Ok(String::new())
            }
            wire::FETCH => match self.send_all(index) {
                Ok(()) => Ok(String::new()),
                Err(_) => return Next::Drop,
            },
            wire::HELLO => {
                self.clients[index].authenticated = true;
                Ok(String::new())
            }
            // SO_PEERCRED would give the process that created the socket, which exited after the fork.
            wire::PING => Ok(std::process::id().to_string()),
            wire::QUIT => Ok(String::new()),
            wire::QUIT_IF_UNNEEDED => {
                let needed = self.needed_by(1);
                quit = needed.is_none();
                needed.map_or_else(|| Ok(String::new()), Err)
            }
            _ => Err("unknown request".to_owned()),
        };
        let (kind, text) = answer.map_or_else(|why| (wire::NO, why), |text| (wire::OK, text));
        let sent = wire::send(&self.clients[index].connection, kind, &text, &[], MsgFlags::empty());
        match (sent, quit) {
            (_, true) => Next::Quit,
            (Ok(()), false) => Next::Serve,
            (Err(_), false) => Next::Drop,
        }
    }

    fn store(&mut self, packet: Packet) -> Result<(), &'static str> {
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(packet.fds) else {
            return Err("a request to store needs exactly one descriptor");
        };
        check_name(&packet.text).map_err(|_| "the name is not valid")?;
        let lives = packet.text.starts_with(INSTANCE_PREFIX);
        let entry = Entry { name: packet.text, fd, lives };
        let full = self.entries.len() >= FDS_MAX;
        match self.entries.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => *known = entry,
            None if full => return Err("the store is full"),
            None => self.entries.push(entry),
        }
        Ok(())
    }

    fn send_all(&self, index: usize) -> io::Result<()> {
        for part in self.entries.chunks(PACKET_FDS_MAX) {
            let names: Vec<&str> = part.iter().map(|entry| entry.name.as_str()).collect();
            let fds: Vec<BorrowedFd<'_>> = part.iter().map(|entry| entry.fd.as_fd()).collect();
            wire::send(&self.clients[index].connection, wire::PART, &names.join("\n"), &fds, MsgFlags::empty())?;
        }
        Ok(())
    }

    fn end(self) -> io::Result<()> {
        // Another keeper may own the path by now; then its file stays.
        if inode(&self.path) == Some(self.inode) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}
