//! A slot's sockets as the next instance shall find them.

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

use super::error::OpenError;
use super::group::{Group, dress};
use super::rejoin::leave;
use super::slot::{Heir, Role, Slot};
use super::socket;
use crate::runtime::keeper::FdStore;

/// What became of a slot's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// It is the same, as if nobody had had it.
    Kept,
    /// It is another.
    Renewed,
    /// It is another, and what waited in the queue of the one before was refused.
    QueueLost,
}

impl Group {
    /// Makes a slot's socket what it was when it was opened. Only while no instance lives in the slot.
    pub fn prepare(&mut self, slot: Slot, heir: Heir, store: &mut dyn FdStore) -> Result<Prepared, OpenError> {
        let drained = self.is_drained(slot).map_err(|source| self.wanted.error("look at", source))?;
        if heir == Heir::Other && drained {
            self.renew(slot, store)?;
            return Ok(Prepared::Renewed);
        }
        if self.put_back(slot) || heir == Heir::Same {
            return Ok(Prepared::Kept);
        }
        let waits = self.backlog(slot).is_ok_and(|waiting| waiting > 0);
        self.renew(slot, store)?;
        Ok(if waits { Prepared::QueueLost } else { Prepared::Renewed })
    }

    /// Undoes what can be undone; says whether all is as it was.
    fn put_back(&self, slot: Slot) -> bool {
        let fd = self.slot(slot);
        let restored = self.options.put_back(fd);
        // On a listener `listen` sets the length of the queue alone.
        restored
            && socket::clear_flags(fd).is_ok()
            && dress(fd, Role::Slot(slot)).is_ok()
            && (!self.is_stream() || socket::listens(fd) && socket::listen(fd).is_ok())
    }

    /// Puts a socket that nobody had in the place of a slot's.
    ///
    /// The kernel moves the last of the group into the place of one that leaves. So the guard, which is last, leaves first, and
    /// nothing moves; the new socket joins as the last and moves into the place of the old one as that leaves; then a new guard
    /// is the last. The program in force names the right member all the time, so nobody is routed otherwise. Whenever a
    /// supervisor ends in between, the next one finds members whose places are known: see [`super::rejoin`].
    fn renew(&mut self, slot: Slot, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let wanted = self.wanted.clone();
        let system = |source| wanted.error("replace a socket of", source);
        // Whoever joins must be let in: an instance may have taken the option away.
        for fd in self.slots.iter().chain(&self.guard) {
            setsockopt(fd, sockopt::ReusePort, &true).map_err(|errno| system(errno.into()))?;
        }
        let old = self.label(Role::Slot(slot), self.slot(slot)).map_err(system)?;
        self.remove_guard(store)?;
        let new = self.wanted.member(self.address, Role::Slot(slot), None)?;
        let label = self.label(Role::Slot(slot), &new).map_err(system)?;
        store.store(&label.to_string(), new.as_fd()).map_err(OpenError::Store)?;
        let left = std::mem::replace(&mut self.slots[slot.index()], new);
        leave(&self.wanted, &old, left, store)?;
        self.add_guard()?;
        self.settle(self.order, true, store).map(drop)
    }
}
