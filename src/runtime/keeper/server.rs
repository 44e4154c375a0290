//! The keeper's process: one loop, no runtime, a bounded number of descriptors.

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
use super::reader::{Others, Reader};
use super::store::{INSTANCE_PREFIX, LOGGER_PREFIX, check_name};
use super::wire::{self, FDS_MAX, PACKET_FDS_MAX, Packet};
use crate::poll::is_ready;

/// How long a keeper stays while no supervisor is connected and no instance that it knows of lives: time enough for a service
/// manager or a person to start the next supervisor, and no leak for ever.
pub const ALONE_MAX: Duration = Duration::from_secs(600);

/// Supervisors at once: one, the next one, and a person's look.
const CLIENTS_MAX: usize = 8;
/// How long a client may take to read an answer before it is dropped, in seconds.
const SEND_SECS_MAX: i64 = 1;

/// Runs the keeper. Returns in the caller's process with success as soon as the socket at `path` answers, or with failure and
/// one line on standard error; and, later, in the keeper's own process when its work is done. Both shall exit then.
///
/// The keeper is a session of its own without a terminal, with `/` as its directory and no descriptor but its own. It must outlive
/// the end of everything around it. So it ends when it is told to; when it has been `alone` that long with no living instance;
/// and at SIGTERM or SIGINT if it is alone. If a supervisor is connected or an instance lives, it stays, and says so in the
/// system's log. At SIGHUP it makes its socket and its key anew, if somebody has removed them. It is not dumpable, so that nobody
/// of its user reads its descriptors.
///
/// Must be called while the process has one thread.
pub fn keeper_main(path: &Path, alone: Duration) -> ExitCode {
    let server = match start(path, alone) {
        Ok(Some(server)) => server,
        // Another one is at work.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rei keeper: cannot serve {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    // SAFETY: by the contract above no other thread holds a lock that the child would wait for.
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

/// Closes what was inherited and listens at `path`; `None` where a keeper does that already.
fn start(path: &Path, alone: Duration) -> io::Result<Option<Server>> {
    prctl::set_dumpable(false)?;
    close_inherited()?;
    umask(Mode::from_bits_truncate(0o077));
    let path = std::path::absolute(path)?;
    let key = new_key()?;
    let Some(lock) = take_place(&path, &key)? else { return Ok(None) };
    let (listener, inode) = listen_at(&path)?;
    let (clients, entries, reader) = (Vec::new(), Vec::new(), Reader::new());
    Ok(Some(Server { path, lock, key, listener, inode, alone, clients, entries, reader }))
}

/// Takes the lock of a place and leaves the key there; `None` if another keeper has it.
fn take_place(path: &Path, key: &str) -> io::Result<Option<File>> {
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(wire::lock_path(path))?;
    // Two supervisors may start one each: the lock decides. It belongs to the open file, so it lives on in the forked child, and
    // nobody may unlock it: it goes when the last process that has the file closes it.
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    leave_key(&lock, key)?;
    Ok(Some(lock))
}

fn leave_key(mut lock: &File, key: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(key.as_bytes())
}

/// Listens at a path, whatever socket was there; gives the inode of its file as well.
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

/// 256 random bits as text.
fn new_key() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(crate::digest::hex(bytes))
}

/// Closes all descriptors but the standard three.
fn close_inherited() -> io::Result<()> {
    // SAFETY: called first of all in a process whose own code has opened nothing yet; what is closed belongs to nobody here.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the session, terminal, directory and standard streams of whoever started this.
fn detach() -> io::Result<()> {
    setsid()?;
    chdir("/")?;
    // SAFETY: to ignore a signal runs no handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    // They come while it waits, and never elsewhere.
    heard().thread_block()?;
    for which in HEARD {
        // SAFETY: the handler stores a number, which is safe at any time.
        unsafe { signal(which, SigHandler::Handler(on_signal)) }?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // For `ps`; nothing depends on it.
    let _ = prctl::set_name(find::NAME);
    Ok(())
}

/// The signals that are heard.
const HEARD: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Whether one of them came that asks for the end, or for the files.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);
static ASKED_FOR_FILES: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(number: c_int) {
    let asked = if number == libc::SIGHUP { &ASKED_FOR_FILES } else { &ASKED_TO_END };
    asked.store(true, Ordering::Relaxed);
}

fn heard() -> SigSet {
    HEARD.into_iter().collect()
}

/// Tells the system's log, if there is one: the standard streams lead nowhere.
fn say(line: &str) {
    let log = UnixDatagram::unbound().and_then(|log| log.set_nonblocking(true).map(|()| log));
    // 28: a warning of a daemon.
    let message = format!("<28>rei-keeper[{}]: {line}", std::process::id());
    let _ = log.and_then(|log| log.send_to(message.as_bytes(), "/dev/log"));
}

struct Server {
    path: PathBuf,
    lock: File,
    key: String,
    listener: OwnedFd,
    /// Of the listener's file.
    inode: u64,
    alone: Duration,
    clients: Vec<Client>,
    entries: Vec<Entry>,
    reader: Reader,
}

struct Client {
    connection: OwnedFd,
    /// It has shown the key.
    known: bool,
}

struct Entry {
    name: String,
    fd: OwnedFd,
    /// A pidfd whose process has not ended.
    lives: bool,
}

/// Whether the keeper goes on.
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
            if ASKED_FOR_FILES.swap(false, Ordering::Relaxed)
                && let Err(error) = self.restore()
            {
                say(&format!("cannot make {} anew: {error}", self.path.display()));
            }
            if ASKED_TO_END.swap(false, Ordering::Relaxed) {
                match self.needed_by(0) {
                    None => return self.end(),
                    Some(why) => say(&format!("asked to end and stays, for {why}; `rei stop` ends everything")),
                }
            }
            for name in ended {
                self.entries.iter_mut().filter(|entry| entry.name == name).for_each(|entry| entry.lives = false);
            }
            // From the last to the first, so that a dropped one moves none that is still to come.
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

    /// Waits for a new client, a packet or an instance's end: whether somebody knocks, which clients, which instances.
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

    /// Reads what instances print, if it is time for it and nobody else does.
    fn read_logs(&mut self) {
        if !self.reader.pause().is_zero() || !self.entries.iter().any(|entry| entry.lives) {
            return;
        }
        let gone = |entry: &Entry| is_ready(entry.fd.as_fd(), PollFlags::empty()).unwrap_or(false);
        let has_logger = self.entries.iter().any(|entry| entry.name.starts_with(LOGGER_PREFIX) && !gone(entry));
        let others = match self.clients.iter().any(|client| client.known) {
            true => Others::Supervisor,
            false if has_logger => Others::Logger,
            false => Others::Nobody,
        };
        let entries: Vec<_> = self.entries.iter().map(|entry| (&*entry.name, entry.fd.as_fd())).collect();
        self.reader.look(&entries, others);
    }

    /// Why it cannot end, apart from `asking` clients; `None` if nobody needs it.
    fn needed_by(&self, asking: usize) -> Option<String> {
        let ended = |entry: &Entry| is_ready(entry.fd.as_fd(), PollFlags::POLLIN).unwrap_or(false);
        match self.entries.iter().find(|entry| entry.lives && !ended(entry)) {
            _ if self.clients.iter().filter(|client| client.known).count() > asking => {
                Some("a supervisor is connected".to_owned())
            }
            Some(entry) => Some(format!("{} still runs", entry.name.replacen(INSTANCE_PREFIX, "instance ", 1))),
            None => None,
        }
    }

    /// Makes the socket and the key anew where they are not what this keeper made.
    fn restore(&mut self) -> io::Result<()> {
        let lock = wire::lock_path(&self.path);
        if inode(&lock) == Some(self.lock.metadata()?.ino()) {
            leave_key(&self.lock, &self.key)?;
        } else if let Some(lock) = take_place(&self.path, &self.key)? {
            self.lock = lock;
        } else {
            return Err(io::Error::other("another keeper has its place"));
        }
        if inode(&self.path) != Some(self.inode) {
            (self.listener, self.inode) = listen_at(&self.path)?;
        }
        Ok(())
    }

    /// Takes a client of our own user, or root, in.
    fn accept(&mut self) {
        let Ok(raw) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: `accept4` has just made this descriptor, and nobody else knows of it.
        let client = unsafe { OwnedFd::from_raw_fd(raw) };
        let ours = getsockopt(&client, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == Uid::effective().as_raw() || peer.uid() == 0);
        let bounded = setsockopt(&client, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECS_MAX)).is_ok();
        if ours && bounded && self.clients.len() < CLIENTS_MAX {
            self.clients.push(Client { connection: client, known: false });
        }
    }

    /// Answers one packet.
    fn serve(&mut self, index: usize) -> Next {
        let packet = match wire::receive(&self.clients[index].connection, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(packet)) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Serve,
            Ok(None) | Err(_) => return Next::Drop,
        };
        if !self.clients[index].known && (packet.kind != wire::HELLO || packet.text != self.key) {
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
                self.clients[index].known = true;
                Ok(String::new())
            }
            // The system would name the process that made the socket, which has long gone.
            wire::PING => Ok(std::process::id().to_string()),
            wire::QUIT => Ok(String::new()),
            wire::LEAVE => {
                let needed = self.needed_by(1);
                quit = needed.is_none();
                needed.map_or_else(|| Ok(String::new()), Err)
            }
            _ => Err("an unknown request".to_owned()),
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
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(packet.fds) else { return Err("not one descriptor") };
        check_name(&packet.text).map_err(|_| "a bad name")?;
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
        // Another one may have this place by now.
        if inode(&self.path) == Some(self.inode) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}
