//! Reports that an instance tampered with a listener that it inherited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::slot::Slot;

/// A change that no well-behaved instance causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// The guard, which the program never chooses, got a connection: the members were renumbered, or the program was
    /// removed.
    GuardChosen {
        /// The name of the listener.
        listener: String,
    },
    /// An instance shut the socket of a slot down: it accepts no connection any more.
    ShutDown {
        /// The name of the listener.
        listener: String,
        /// The slot of the socket.
        slot: Slot,
    },
}

/// Watches the guards and the members of all listeners. Each socket reports once. After a report, call
/// [`super::Traffic::repair`] and make a new alarm.
pub struct Alarm {
    epoll: AsyncFd<EpollSet>,
    watched: Vec<Tampering>,
    replacements: u64,
}

/// A set of watched descriptors. It is readable when one of them is ready.
struct EpollSet(Epoll);

impl AsFd for EpollSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for EpollSet {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Alarm {
    /// Makes an alarm without watched sockets. `replacements` is the counter of [`super::Traffic`] at this time.
    pub(super) fn new(replacements: u64) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: `EpollSet` owns the descriptor, and returns the same one for as long as it lives.
        let epoll = unsafe { AsyncFd::register_with_interest(EpollSet(epoll), Interest::READABLE) }?;
        Ok(Self { epoll, watched: Vec::new(), replacements })
    }

    /// The counter of socket replacements when this alarm was made.
    pub(super) fn replacements(&self) -> u64 {
        self.replacements
    }

    pub(super) fn watch_guard(&mut self, listener: &str, guard: &OwnedFd) -> io::Result<()> {
        self.watch(Tampering::GuardChosen { listener: listener.to_owned() }, guard, EpollFlags::EPOLLIN)
    }

    pub(super) fn watch_member(&mut self, listener: &str, slot: Slot, member: &OwnedFd) -> io::Result<()> {
        // epoll always reports a hang-up. Waiting connections are not of interest here.
        self.watch(Tampering::ShutDown { listener: listener.to_owned(), slot }, member, EpollFlags::empty())
    }

    fn watch(&mut self, means: Tampering, fd: &OwnedFd, flags: EpollFlags) -> io::Result<()> {
        let event = EpollEvent::new(flags | EpollFlags::EPOLLONESHOT, self.watched.len() as u64);
        self.epoll.get_ref().0.add(fd, event)?;
        self.watched.push(means);
        Ok(())
    }

    /// Waits for the next tampering. Cancel safe.
    ///
    /// # Errors
    /// If the system refuses to wait.
    pub async fn next(&self) -> io::Result<Tampering> {
        loop {
            let mut ready = self.epoll.readable().await?;
            if let Some(tampering) = self.try_next()? {
                return Ok(tampering);
            }
            ready.clear_ready();
        }
    }

    /// Returns a tampering that was not reported yet, without waiting.
    ///
    /// # Errors
    /// If the system refuses to wait.
    pub fn try_next(&self) -> io::Result<Option<Tampering>> {
        let mut events = [EpollEvent::empty()];
        let n = self.epoll.get_ref().0.wait(&mut events, EpollTimeout::ZERO)?;
        let reported = events.first().filter(|_| n > 0).and_then(|event| usize::try_from(event.data()).ok());
        Ok(reported.and_then(|index| self.watched.get(index)).cloned())
    }
}
