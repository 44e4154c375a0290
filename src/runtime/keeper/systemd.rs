//! systemd's descriptor store: `FDSTORE=1` over `NOTIFY_SOCKET`, and everything back as `LISTEN_FDS` at the next start.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::handed;
use super::store::{FdStore, StoreError, check_name};
use crate::interface::runtime::LISTEN_FDS_START;
use crate::poll::wait;

/// Descriptors taken over at most, whatever the variable says.
const LISTEN_FDS_MAX: i32 = 4096;
/// How long systemd may take to empty its queue, in seconds.
const SEND_SECS_MAX: i64 = 2;

/// How long systemd may take to close what it was told to forget: it has a queue of its own, and much to do at boot.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The store of the systemd service that this process is.
#[derive(Debug)]
pub struct SystemdStore {
    notify: String,
    inherited: Vec<(String, OwnedFd)>,
    room: u64,
    /// Copies of what it keeps: systemd gives it back to a new process alone, so a new program in this one has them from
    /// us.
    copies: Vec<(String, OwnedFd)>,
}

impl SystemdStore {
    /// The store, if the service has one: systemd 254 and later say so in `FDSTORE`. Earlier ones do not tell whether
    /// `FileDescriptorStoreMax=` is set, and drop in silence what they do not keep; there the keeper does it.
    ///
    /// # Safety
    /// Takes ownership of the descriptors that `LISTEN_FDS` announces: at most one call in a process, before anybody else uses them.
    pub unsafe fn from_env() -> Option<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name| variable(name)?.parse::<i64>().ok();
        let room = number("FDSTORE").and_then(|room| u64::try_from(room).ok()).filter(|room| *room > 0)?;
        let notify = variable("NOTIFY_SOCKET")?;
        let mut inherited = Vec::new();
        // SAFETY: what an earlier program in this process has announced is ours, and by the contract nobody else took it.
        if let Some(handed) = unsafe { handed::take() } {
            inherited = handed;
        } else if number("LISTEN_PID") == Some(i64::from(std::process::id())) {
            let count =
                number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0).clamp(0, LISTEN_FDS_MAX);
            let names = variable("LISTEN_FDNAMES").unwrap_or_default();
            for (number, name) in (LISTEN_FDS_START..LISTEN_FDS_START + count).zip(names.split(':')) {
                // SAFETY: systemd gave us this descriptor, and by the contract nobody else took it.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                // Our own children get copies on purpose, never by accident.
                let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
                if nix::fcntl::fcntl(&fd, flags).is_ok() {
                    inherited.push((name.to_owned(), fd));
                }
            }
        }
        Some(Self::new(notify, inherited, room))
    }

    /// A store whose notify socket is at `notify` (a path, or `@` and an abstract name), which gave `inherited` back, and has
    /// room for that many descriptors.
    pub fn new(notify: String, inherited: Vec<(String, OwnedFd)>, room: u64) -> Self {
        let copy = |(name, fd): &(String, OwnedFd)| Some((name.clone(), fd.try_clone().ok()?));
        let copies = inherited.iter().filter_map(copy).collect();
        Self { notify, inherited, room, copies }
    }

    /// Descriptors that systemd keeps at most (`FileDescriptorStoreMax=`).
    pub fn room(&self) -> u64 {
        self.room
    }

    fn tell(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<(), StoreError> {
        let send = || -> io::Result<()> {
            let to = match self.notify.strip_prefix('@') {
                Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
                None => UnixAddr::new(self.notify.as_str())?,
            };
            let from = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&from, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECS_MAX))?;
            let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights = if raw.is_empty() { &[][..] } else { &rights };
            sendmsg(from.as_raw_fd(), &[IoSlice::new(message.as_bytes())], rights, MsgFlags::MSG_NOSIGNAL, Some(&to))?;
            Ok(())
        };
        Ok(send()?)
    }
}

impl FdStore for SystemdStore {
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        check_name(name)?;
        // systemd adds a second descriptor of the same name; and without FDPOLL=0 it drops a pipe whose writer is gone.
        self.remove(name)?;
        self.tell(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd])?;
        self.copies.push((name.to_owned(), fd.try_clone_to_owned()?));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.copies.retain(|(known, _)| known != name);
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// systemd takes messages in turn, and closes what came with a barrier when it gets there.
    fn settle(&mut self) -> Result<(), StoreError> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        self.tell("BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let mut end = [PollFd::new(read.as_fd(), PollFlags::empty())];
        match wait(&mut end, SETTLE_MAX).map_err(io::Error::from)? {
            0 => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            _ => Ok(()),
        }
    }

    fn across_exec(&self) -> Vec<(String, OwnedFd)> {
        self.copies.iter().filter_map(|(name, fd)| Some((name.clone(), fd.try_clone().ok()?))).collect()
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        let names: Vec<String> = self.copies.iter().map(|(name, _)| name.clone()).collect();
        names.iter().try_for_each(|name| self.remove(name))
    }

    /// What systemd gave back at the start of this process; once.
    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        Ok(std::mem::take(&mut self.inherited))
    }
}
