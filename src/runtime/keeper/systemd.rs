//! systemd's descriptor store: descriptors are sent with `FDSTORE=1` over `NOTIFY_SOCKET`, and returned as `LISTEN_FDS`
//! at the next start.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::exec_fds;
use super::store::{FdStore, StoreError, check_name};
use crate::interface::runtime::LISTEN_FDS_START;
use crate::poll::wait;

/// Maximum number of descriptors that are adopted, whatever `LISTEN_FDS` says.
const LISTEN_FDS_MAX: i32 = 4096;
/// How long systemd may take to accept a message when its queue is full, in seconds.
const SEND_SECS_MAX: i64 = 2;

/// How long systemd may take to close removed descriptors. It has its own queue, and much to do at boot.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The store of the systemd service that runs this process.
#[derive(Debug)]
pub struct SystemdStore {
    notify: String,
    inherited: Vec<(String, OwnedFd)>,
    capacity: u64,
    /// Copies of the stored descriptors. systemd returns them only to a new process, so a new program in this process
    /// gets these copies.
    copies: Vec<(String, OwnedFd)>,
}

impl SystemdStore {
    /// The store, if the service has one: systemd 254 and later set `FDSTORE`. Earlier versions do not show whether
    /// `FileDescriptorStoreMax=` is set, and silently drop descriptors that they do not store; there rei uses its own
    /// keeper.
    ///
    /// # Safety
    /// Takes ownership of the descriptors in `LISTEN_FDS`: call it at most once per process, before any other code uses
    /// them.
    pub unsafe fn from_env() -> Option<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name| variable(name)?.parse::<i64>().ok();
        let capacity =
            number("FDSTORE").and_then(|capacity| u64::try_from(capacity).ok()).filter(|capacity| *capacity > 0)?;
        let notify = variable("NOTIFY_SOCKET")?;
        let mut inherited = Vec::new();
        // SAFETY: the previous program in this process passed these descriptors to us; by the contract no other code
        // took them.
        if let Some(passed) = unsafe { exec_fds::take() } {
            inherited = passed;
        } else if number("LISTEN_PID") == Some(i64::from(std::process::id())) {
            let count =
                number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0).clamp(0, LISTEN_FDS_MAX);
            let names = variable("LISTEN_FDNAMES").unwrap_or_default();
            for (number, name) in (LISTEN_FDS_START..LISTEN_FDS_START + count).zip(names.split(':')) {
                // SAFETY: systemd passed this descriptor to us; by the contract no other code took it.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                // Children of rei get copies only on purpose, so set close-on-exec.
                let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
                if nix::fcntl::fcntl(&fd, flags).is_ok() {
                    inherited.push((name.to_owned(), fd));
                }
            }
        }
        Some(Self::new(notify, inherited, capacity))
    }

    /// A store with the notification socket `notify` (a path, or `@` and an abstract name), the returned descriptors
    /// `inherited`, and a capacity of `capacity` descriptors.
    pub fn new(notify: String, inherited: Vec<(String, OwnedFd)>, capacity: u64) -> Self {
        let copy = |(name, fd): &(String, OwnedFd)| Some((name.clone(), fd.try_clone().ok()?));
        let copies = inherited.iter().filter_map(copy).collect();
        Self { notify, inherited, capacity, copies }
    }

    /// Maximum number of descriptors in the store (`FileDescriptorStoreMax=`).
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn send(&self, message: &str, fds: &[BorrowedFd<'_>]) -> Result<(), StoreError> {
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
        // systemd would add a second descriptor with the same name. Without FDPOLL=0 it would drop a pipe without a
        // writer.
        self.remove(name)?;
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd])?;
        self.copies.push((name.to_owned(), fd.try_clone_to_owned()?));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.copies.retain(|(known, _)| known != name);
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// systemd handles messages in order, and closes the descriptor of a barrier when it handles it.
    fn wait_for_closes(&mut self) -> Result<(), StoreError> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        self.send("BARRIER=1", &[write.as_fd()])?;
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

    /// The descriptors that systemd returned when this process started. Later calls return nothing.
    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        Ok(std::mem::take(&mut self.inherited))
    }
}
