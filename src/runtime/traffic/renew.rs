//! Prepares the sockets of a slot for the next instance.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::error::OpenError;
use super::group::{Group, configure};
use super::rejoin::remove_member;
use super::slot::{NextVersion, Role, Slot};
use super::socket;
use crate::runtime::keeper::FdStore;

/// After a switch, a processor may still handle a packet from before the switch, or a client may have resolved a path
/// but not connected yet. Both take microseconds, but the host of a virtual machine may pause it meanwhile.
const RECENT: Duration = Duration::from_secs(1);

/// True if connections that were routed before the switch may still be arriving.
pub(super) fn is_recent(switch: Option<Instant>) -> bool {
    switch.is_some_and(|at| at.elapsed() < RECENT)
}

/// What `prepare` did with the socket of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// The socket is the same; its options and flags are reset.
    Kept,
    /// The socket is new.
    Renewed,
    /// The socket is new, and the connections in the queue of the old socket were refused.
    QueueLost,
}

impl Group {
    /// Resets the socket of a slot to its state when it was opened. Call this only while no instance lives in the slot.
    pub fn prepare(&mut self, slot: Slot, next: NextVersion, store: &mut dyn FdStore) -> Result<Prepared, OpenError> {
        if next == NextVersion::Other && self.is_free(slot)? {
            self.renew(slot, store)?;
            return Ok(Prepared::Renewed);
        }
        if self.reset_slot(slot) || next == NextVersion::Same {
            return Ok(Prepared::Kept);
        }
        let waits = self.backlog(slot).is_ok_and(|waiting| waiting > 0);
        self.renew(slot, store)?;
        Ok(if waits { Prepared::QueueLost } else { Prepared::Renewed })
    }

    /// True if no connection is lost when the socket of the slot is closed.
    fn is_free(&mut self, slot: Slot) -> Result<bool, OpenError> {
        // A packet that the program routed before the last switch may not have reached the queue yet.
        if is_recent(self.since) && !socket::all_packets_arrived() {
            return Ok(false);
        }
        self.pending = None;
        self.is_drained(slot).map_err(|source| self.spec.error("inspect", source))
    }

    /// Resets the socket of a slot. Returns true if it is completely restored.
    fn reset_slot(&self, slot: Slot) -> bool {
        let fd = self.slot(slot);
        let restored = self.options.restore(fd);
        // On a socket that listens already, `listen` only sets the length of the queue.
        restored
            && socket::clear_flags(fd).is_ok()
            && configure(fd, Role::Slot(slot)).is_ok()
            && (!self.is_stream() || socket::listens(fd) && socket::listen(fd).is_ok())
    }

    /// Replaces the socket of a slot by a new one.
    ///
    /// When a member leaves, the kernel moves the last member into its place. So the guard leaves first: it is the
    /// last, and no other member moves. Then the new socket joins as the last member, and moves into the old socket's
    /// place when the old one leaves. Then a new guard joins as the last. All the time the program in force names the
    /// right member, so no connection is misrouted. If the supervisor dies between two steps, the next one can still
    /// determine the order of the members: see [`super::rejoin`].
    fn renew(&mut self, slot: Slot, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let spec = self.spec.clone();
        let system = |source| spec.error("replace a socket of", source);
        // All members need SO_REUSEPORT to let another one join; an instance may have cleared it.
        for fd in self.slots.iter().chain(self.taps.iter().flatten()).chain(&self.guard) {
            setsockopt(fd, sockopt::ReusePort, &true).map_err(|errno| system(errno.into()))?;
        }
        let old = self.label(Role::Slot(slot), self.slot(slot)).map_err(system)?;
        self.remove_guard(store)?;
        let new = self.spec.member(self.address, Role::Slot(slot), None)?;
        let label = self.label(Role::Slot(slot), &new).map_err(system)?;
        store.store(&label.to_string(), new.as_fd()).map_err(OpenError::Store)?;
        let left = std::mem::replace(&mut self.slots[slot.index()], new);
        remove_member(&self.spec, &old, left, store)?;
        self.add_guard()?;
        self.locate_and_route(&self.order.clone(), true, store).map(drop)
    }
}
