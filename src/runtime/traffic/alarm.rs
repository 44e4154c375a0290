//! Tells when an instance tampers with a listener that it inherited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::slot::Slot;

/// Something that no well-behaved instance causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// The guard, which is never chosen, got a connection: the group was renumbered, or lost its program.
    GuardChosen {
        /// The listener.
        listener: String,
    },
    /// A slot's socket was shut down by whoever inherited it: it takes no connection any more.
    ShutDown {
        /// The listener.
        listener: String,
        /// Whose socket.
        slot: Slot,
    },
}

/// Watches the guards and the members of all listeners. Each tells once; [`super::Traffic::repair`], then a new alarm.
pub struct Alarm {
    epoll: AsyncFd<Watch>,
    watched: Vec<Tampering>,
    of: u64,
}

/// An epoll instance is readable when one of its own descriptors is ready.
struct Watch(Epoll);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Alarm {
    /// One that watches nothing yet, of the sockets that have this number.
    pub(super) fn new(of: u64) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: `Watch` names the same descriptor as long as it lives, and owns it.
        let epoll = unsafe { AsyncFd::register_with_interest(Watch(epoll), Interest::READABLE) }?;
        Ok(Self { epoll, watched: Vec::new(), of })
    }

    /// The number of the sockets that it watches.
    pub(super) fn of(&self) -> u64 {
        self.of
    }

    pub(super) fn watch_guard(&mut self, listener: &str, guard: &OwnedFd) -> io::Result<()> {
        self.watch(Tampering::GuardChosen { listener: listener.to_owned() }, guard, EpollFlags::EPOLLIN)
    }

    pub(super) fn watch_member(&mut self, listener: &str, slot: Slot, member: &OwnedFd) -> io::Result<()> {
        // Hang-up is always told; that connections wait is none of our business.
        self.watch(Tampering::ShutDown { listener: listener.to_owned(), slot }, member, EpollFlags::empty())
    }

    fn watch(&mut self, means: Tampering, fd: &OwnedFd, flags: EpollFlags) -> io::Result<()> {
        let event = EpollEvent::new(flags | EpollFlags::EPOLLONESHOT, self.watched.len() as u64);
        self.epoll.get_ref().0.add(fd, event)?;
        self.watched.push(means);
        Ok(())
    }

    /// Waits for the next tampering. May be dropped and called again at any time.
    ///
    /// # Errors
    /// When the system refuses to watch.
    pub async fn next(&self) -> io::Result<Tampering> {
        loop {
            let mut ready = self.epoll.readable().await?;
            if let Some(tampering) = self.look()? {
                return Ok(tampering);
            }
            ready.clear_ready();
        }
    }

    /// What has happened so far and was not told yet, without waiting.
    ///
    /// # Errors
    /// When the system refuses to watch.
    pub fn look(&self) -> io::Result<Option<Tampering>> {
        let mut events = [EpollEvent::empty()];
        let n = self.epoll.get_ref().0.wait(&mut events, EpollTimeout::ZERO)?;
        let told = events.first().filter(|_| n > 0).and_then(|event| usize::try_from(event.data()).ok());
        Ok(told.and_then(|index| self.watched.get(index)).cloned())
    }
}
