//! Completes a group again: after a supervisor crash, and after an instance tampered with it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{Shutdown, SockType, shutdown};

use super::error::OpenError;
use super::find::Search;
use super::group::{Group, GroupSpec, configure};
use super::label::Label;
use super::order::Order;
use super::slot::{Role, Routing, Slot};
use super::socket;
use crate::runtime::keeper::FdStore;

/// The result of an adoption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Members that were lost and replaced, as `NAME/a`, `NAME/b` or `NAME/k`. Connections in their queues are lost.
    pub lost: Vec<String>,
    /// True if members were not at their index, although it is known which index they should have: an instance tampered with its listener while no supervisor
    /// watched.
    pub moved: bool,
    /// Stored sockets that do not belong to any configured listener; they were closed.
    pub dropped: Vec<String>,
}

/// Live members of one group, taken out of the descriptor store.
#[derive(Default)]
pub(super) struct StoredMembers {
    slots: [Option<OwnedFd>; 2],
    taps: [Option<OwnedFd>; 2],
    guard: Option<OwnedFd>,
    labels: Vec<Label>,
    /// One socket has two names: the last supervisor died while it renamed the socket.
    doubt: bool,
    /// Second sockets of a slot: the last supervisor died while it replaced the first.
    second: Vec<(Label, OwnedFd)>,
}

impl StoredMembers {
    /// Takes the sockets that belong to the listener out of `all`.
    pub fn take(spec: &GroupSpec, all: &mut Vec<(Label, OwnedFd)>) -> Self {
        let mut kept = Self::default();
        // A guard that has become the socket of a slot has both names; the slot's name counts, so slots come first.
        all.sort_by_key(|(label, _)| label.role == Role::Guard);
        for (label, fd) in std::mem::take(all) {
            if !fits(spec, &label, &fd) {
                all.push((label, fd));
                continue;
            }
            let place = match label.role {
                Role::Slot(slot) => &mut kept.slots[slot.index()],
                Role::Tap(slot) => &mut kept.taps[slot.index()],
                Role::Guard => &mut kept.guard,
            };
            if kept.labels.iter().any(|known| known.cookie == label.cookie) {
                kept.doubt = true;
            } else if place.is_none() {
                *place = Some(fd);
                kept.labels.push(label);
            } else {
                kept.second.push((label, fd));
            }
        }
        kept
    }

    /// True if there is no socket to adopt.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// True if a stored socket is alive and belongs to this listener. A listener may get a new name, but not a new address.
fn fits(spec: &GroupSpec, label: &Label, fd: &OwnedFd) -> bool {
    let has_role = Role::all(spec.kind() == SockType::Stream).contains(&label.role);
    has_role && is_for(spec.address, spec.kind(), fd) && (spec.address.port() != 0 || label.name == spec.name)
}

/// True if the socket is alive and bound to the address; port 0 matches any port.
pub(super) fn is_for(address: SocketAddr, kind: SockType, fd: &OwnedFd) -> bool {
    let is_there = socket::address(fd)
        .is_some_and(|bound| bound.ip() == address.ip() && (address.port() == 0 || bound.port() == address.port()));
    is_there && socket::is(fd, kind) && (kind != SockType::Stream || socket::listens(fd))
}

impl Group {
    /// Adopts a group from an earlier supervisor. No live socket is closed, and all connections are routed as before.
    ///
    /// If the socket of a slot or tap was lost, it gets the guard's socket, because the kernel now sends its connections
    /// there. Then a new guard joins. In the same way, the group of a supervisor without taps gets them.
    pub fn adopt(
        spec: &GroupSpec,
        kept: StoredMembers,
        routing: Routing,
        store: &mut dyn FdStore,
        adoption: &mut Adoption,
    ) -> Result<Self, OpenError> {
        let StoredMembers { slots, taps, mut guard, labels, doubt, second } = kept;
        let is_stream = spec.kind() == SockType::Stream;
        for (label, fd) in second {
            // It joined after all sockets that stay, so none of them moves when it leaves.
            remove_member(spec, &label, fd, store)?;
        }
        let recorded = Order::recorded(labels.iter().map(|label| (label.role, label.place)), is_stream);
        let has = |role: &Role| labels.iter().any(|label| label.role == *role);
        let lost: Vec<Role> = Role::all(is_stream).iter().copied().filter(|role| !has(role)).collect();
        // A supervisor without taps had a guard at the third place.
        let had_taps = !labels.iter().any(|label| label.role == Role::Guard && label.place == 2);
        let was_lost = |role: &&Role| had_taps || !matches!(role, Role::Tap(_));
        adoption.lost.extend(lost.iter().filter(was_lost).map(|role| format!("{}/{role}", spec.name)));
        let members = || slots.iter().chain(&taps).flatten();
        let first = members().next().or(guard.as_ref());
        let address = first.and_then(socket::address).unwrap_or(spec.address);
        let mut order = recorded.without(&lost);
        let is_certain = recorded.is_certain_without(&lost);
        // The program in force was made for a larger group, and a new member may have an index that it names. Only a
        // guard may change the program, and there is no guard. So a helper socket, which drops all packets, joins and
        // routes everything to the one member that is left.
        let alone = guard.is_none() && members().count() == 1;
        let mut helper = alone.then(|| spec.helper(address)).transpose()?;
        let mut join = |order: &mut Vec<Role>, role| {
            order.push(role);
            let joined = spec.member(address, role, None);
            // When the helper leaves, the member that joined after it takes its index.
            helper.take().into_iter().for_each(|helper| shut_down_member(spec, helper));
            joined
        };
        let mut fill = |role, fd: Option<OwnedFd>, guard: &mut Option<OwnedFd>| {
            match (fd, guard) {
                // An instance may be using this socket, so it is not changed.
                (Some(fd), _) => Ok(fd),
                (None, guard) => match guard.take() {
                    Some(fd) => {
                        configure(&fd, role).map_err(|source| spec.error("recover", source))?;
                        order.iter_mut().filter(|member| **member == Role::Guard).for_each(|member| *member = role);
                        Ok(fd)
                    }
                    None => join(&mut order, role),
                },
            }
        };
        let [a, b] = slots;
        let slots = [fill(Role::Slot(Slot::A), a, &mut guard)?, fill(Role::Slot(Slot::B), b, &mut guard)?];
        let [a, b] = taps;
        let taps = match is_stream {
            true => Some([fill(Role::Tap(Slot::A), a, &mut guard)?, fill(Role::Tap(Slot::B), b, &mut guard)?]),
            false => None,
        };
        let guard = match guard {
            Some(guard) => guard,
            None => join(&mut order, Role::Guard)?,
        };
        let expected = Order::of(&order, is_stream).unwrap_or(recorded);
        let mut group = Self::of(spec, address, routing, slots, taps, guard, expected.clone());
        group.since = Some(Instant::now());
        let has_moved = group.locate_and_route(&expected, lost.is_empty() && !doubt, store)?;
        adoption.moved |= has_moved && is_certain;
        Ok(group)
    }

    /// Undoes tampering: members that were shut down listen again, a new guard joins as the last, the index of each
    /// member is searched for, and the program is set again. Connections in the old guard's queue are lost: no instance
    /// has that queue.
    pub fn repair(&mut self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        for fd in self.slots.iter().chain(self.taps.iter().flatten()) {
            if self.is_stream() && !socket::listens(fd) {
                socket::listen(fd).map_err(|source| self.spec.error("listen again on", source))?;
            }
        }
        self.new_guard(store)?;
        self.locate_and_route(&self.order.clone(), false, store)?;
        Ok(())
    }

    /// Finds the index of each member and routes. Replaces the guard if it is not the last. Returns true if the order
    /// was not as expected.
    pub(super) fn locate_and_route(
        &mut self,
        expected: &Order,
        complete: bool,
        store: &mut dyn FdStore,
    ) -> Result<bool, OpenError> {
        let found = match self.search(expected, complete)? {
            Some(order) => order,
            None => {
                self.new_guard(store)?;
                self.search(expected, false)?
                    .ok_or_else(|| OpenError::Strangers { name: self.spec.name.clone(), address: self.bound() })?
            }
        };
        let has_moved = found != *expected;
        self.order = found;
        self.route(self.routing).map_err(|source| self.spec.error("set the routing of", source))?;
        Ok(has_moved)
    }

    /// Searches for the members. Meanwhile all other connections are routed by the last known order.
    fn search(&self, expected: &Order, complete: bool) -> Result<Option<Order>, OpenError> {
        let search = || -> io::Result<Option<Order>> {
            let rest = || self.program(self.routing, &self.order);
            Search { address: self.address, stream: self.is_stream(), guard: self.guard()?, rest: &rest }
                .order(expected, complete)
        };
        search().map_err(|source| self.spec.error("find the members of", source))
    }

    /// Replaces the guard. If a single member left and came back as the last, the old guard is in its place. When the
    /// guard leaves, that member moves back to its old index, so the program in force is right all the time.
    fn new_guard(&mut self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        self.remove_guard(store)?;
        self.add_guard()
    }

    /// Removes the guard from the group.
    pub(super) fn remove_guard(&mut self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let Some(old) = self.guard.take() else { return Ok(()) };
        let label = self.label(Role::Guard, &old).map_err(|source| self.spec.error("inspect", source))?;
        remove_member(&self.spec, &label, old, store)
    }

    /// Adds a new guard as the last member.
    pub(super) fn add_guard(&mut self) -> Result<(), OpenError> {
        self.guard = Some(self.spec.member(self.address, Role::Guard, None)?);
        Ok(())
    }
}

/// Removes a socket from its group, even if other processes have copies. A datagram socket leaves only when all copies
/// are closed.
pub(super) fn remove_member(
    spec: &GroupSpec,
    label: &Label,
    fd: OwnedFd,
    store: &mut dyn FdStore,
) -> Result<(), OpenError> {
    // A copy in the store would keep it in the group.
    store.remove(&label.to_string()).map_err(OpenError::Store)?;
    shut_down_member(spec, fd);
    if spec.kind() == SockType::Stream { Ok(()) } else { store.wait_for_closes().map_err(OpenError::Store) }
}

fn shut_down_member(spec: &GroupSpec, fd: OwnedFd) {
    if spec.kind() == SockType::Stream {
        // This fails only if the socket was shut down before.
        let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    }
}
