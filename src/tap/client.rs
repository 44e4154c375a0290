//! The supervisor's side of the tap.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::exchange;
use super::server::size_buffers;
use super::wire::{ALL_NAMED, CAPTURE, END, HOLD, LISTEN, Orders, Report};
use crate::poll::{is_ready, wait};
use crate::runtime::keeper::wire;
use crate::runtime::traffic::Traffic;

/// How long a tap may take to end.
const END_MAX: Duration = Duration::from_secs(1);

/// A connection to the tap. The tap outlives it.
#[derive(Clone, Debug)]
pub struct TapLink(Arc<OwnedFd>);

impl TapLink {
    /// Starts a tap as `exe tap --directory DIRECTORY`. The directory only identifies the service.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(exe: &Path, directory: &Path) -> io::Result<(Self, u32)> {
        let (ours, theirs) = Self::connection()?;
        let mut command = Command::new(exe);
        command.arg("tap").arg("--directory").arg(directory).env_clear();
        // Like the logger: in the supervisor's session, so that it is not mistaken for a process of an instance, and in
        // its own process group, so that signals of a terminal do not reach it.
        command.process_group(0).current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        Ok((Self::of(ours), child.id()))
    }

    /// The two ends of a connection: the supervisor's and the tap's.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        [&ours, &theirs].into_iter().for_each(size_buffers);
        Ok((ours, theirs))
    }

    /// The connection to the tap at the other end.
    pub fn of(connection: OwnedFd) -> Self {
        Self(Arc::new(connection))
    }

    /// True if no process has the other end.
    pub fn is_gone(&self) -> bool {
        is_ready(self.0.as_fd(), PollFlags::empty()) != Ok(false)
    }

    /// True if nothing waits to be read. Call it after a look at [`Self::report`], before waiting for the next one.
    pub fn is_quiet(&self) -> bool {
        is_ready(self.0.as_fd(), PollFlags::POLLIN) == Ok(false)
    }

    /// A copy of the connection.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Gives the tap its listeners, and the sockets of the slots to hold. It releases all others. It keeps those that it
    /// has.
    ///
    /// # Errors
    /// If the tap is gone or does not read.
    pub fn serve(&self, traffic: &Traffic) -> io::Result<()> {
        for (name, fd) in traffic.sockets_to_hold() {
            wire::send(&*self.0, HOLD, &name, &[fd.as_fd()], MsgFlags::MSG_DONTWAIT)?;
        }
        let listeners = traffic.tap_listeners();
        for listener in listeners {
            let (slot, name) = (listener.slot, listener.name);
            let text = format!("{slot}\n{name}\n{}\n{}", listener.address, listener.field);
            wire::send(&*self.0, LISTEN, &text, &[listener.fd.as_fd()], MsgFlags::MSG_DONTWAIT)?;
        }
        wire::send(&*self.0, ALL_NAMED, "", &[], MsgFlags::MSG_DONTWAIT)
    }

    /// Says which exchanges the tap copies. The order holds for some seconds, so it must be repeated.
    ///
    /// # Errors
    /// If the tap is gone or does not read.
    pub fn order(&self, orders: &Orders) -> io::Result<()> {
        let text = serde_json::to_string(orders)?;
        wire::send(&*self.0, CAPTURE, &text, &[], MsgFlags::MSG_DONTWAIT)
    }

    /// Ends the tap, with the connections that it relays, and waits a moment until it has closed its end of the connection.
    pub fn end(&self) {
        // If it is gone, it has ended.
        if wire::send(&*self.0, END, "", &[], MsgFlags::MSG_DONTWAIT).is_err() {
            return;
        }
        // Without events, poll(2) waits for the other side's end alone.
        let _ = wait(&mut [PollFd::new(self.0.as_fd(), PollFlags::empty())], END_MAX);
    }

    /// The next report, if there is one. A report of another version of rei that cannot be read is skipped.
    ///
    /// # Errors
    /// If the tap is gone.
    pub fn report(&self) -> io::Result<Option<Report>> {
        loop {
            match exchange::receive(&self.0)? {
                exchange::Received::Nothing => return Ok(None),
                exchange::Received::Report(report) => return Ok(Some(*report)),
                exchange::Received::Unknown => {}
            }
        }
    }
}
