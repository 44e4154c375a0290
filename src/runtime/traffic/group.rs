//! A TCP or UDP listener: one `SO_REUSEPORT` group of sockets. A BPF program chooses the member for each connection.
//!
//! The members are the sockets of the two slots, with TCP the sockets of the tap in front of each slot, and the guard K.
//! No instance inherits a tap's socket or K, the program never chooses K,
//! and K is the last member: when a member leaves, the kernel moves the *last* one into its place. So as long as K is
//! the last, no member before it has moved. An instance that tampers with its member makes K receive connections; it
//! does not get more connections itself.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::poll::PollFlags;
use nix::sys::socket::{SockType, setsockopt, sockopt};

use super::diag;
use super::error::OpenError;
use super::label::Label;
use super::options::Options;
use super::order::Order;
use super::program::{self, Program};
use super::slot::{Role, Routing, Slot, Taps};
use super::socket::{self, Mark};
use crate::config::types::ListenAddress;
use crate::poll::is_ready;

/// The specification of a group.
#[derive(Clone, Debug)]
pub(super) struct GroupSpec {
    /// The listener's name.
    pub name: String,
    /// The address as configured, for messages.
    pub listen: ListenAddress,
    /// The same as a socket address; its port may be 0.
    pub address: SocketAddr,
    /// Do not accept IPv4 clients, because another listener has them.
    pub v6_only: bool,
}

impl GroupSpec {
    pub fn kind(&self) -> SockType {
        if matches!(self.listen, ListenAddress::Udp(_)) { SockType::Datagram } else { SockType::Stream }
    }

    pub fn error(&self, act: &'static str, source: io::Error) -> OpenError {
        OpenError::of(&self.name, act, &self.listen, source)
    }

    /// Creates a socket that can be bound.
    fn socket(&self) -> io::Result<OwnedFd> {
        let fd = socket::inet(self.address, self.kind())?;
        // Connections of an earlier run that are still closing (TIME_WAIT) must not block the port.
        setsockopt(&fd, sockopt::ReuseAddr, &(self.kind() == SockType::Stream))?;
        if self.v6_only {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        Ok(fd)
    }

    /// Opens a member, which joins the group. Only the first member gets a `program`, so that even the first connection
    /// is routed right.
    pub fn member(&self, at: SocketAddr, role: Role, program: Option<Program>) -> Result<OwnedFd, OpenError> {
        let open = || {
            let fd = self.socket()?;
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            if let Some(mut program) = program {
                socket::attach(&fd, &mut program)?;
            }
            configure(&fd, role)?;
            socket::bind_inet(&fd, at)?;
            if self.kind() == SockType::Stream {
                socket::listen(&fd)?;
            }
            Ok(fd)
        };
        open().map_err(|source| self.error("listen on", source))
    }

    /// Joins a group of one member with a helper socket, and routes everything to that member. If the kernel sends a
    /// client to the helper before that, the packet is dropped and the client sends it again, as after any packet loss.
    pub fn helper(&self, at: SocketAddr) -> Result<OwnedFd, OpenError> {
        let open = || {
            let fd = self.socket()?;
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            socket::drop_all_packets(&fd)?;
            socket::bind_inet(&fd, at)?;
            if self.kind() == SockType::Stream {
                socket::listen(&fd)?;
            }
            socket::attach(&fd, &mut program::route(Routing::All(Slot::A), Taps::NONE, |_| 0))?;
            Ok(fd)
        };
        open().map_err(|source| self.error("join", source))
    }

    /// Binds a socket without SO_REUSEPORT. This fails if any process uses the address, even one that would share it.
    fn reserve(&self) -> Result<OwnedFd, OpenError> {
        let reserve = || {
            let fd = self.socket()?;
            socket::bind_inet(&fd, self.address)?;
            // Now the members may join.
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            Ok(fd)
        };
        reserve().map_err(|source| self.error("listen on", source))
    }
}

/// Sets the mark and the flags for the role of a socket.
pub(super) fn configure(fd: &OwnedFd, role: Role) -> io::Result<()> {
    if let Some(mark) = Mark::of(role) {
        mark.put(fd)?;
    }
    // By the convention of socket activation, inherited sockets block. Supervisor and tap must not block.
    socket::set_nonblocking(fd, !matches!(role, Role::Slot(_)))?;
    if role == Role::Guard { Ok(()) } else { socket::lock_filter(fd) }
}

/// A listening socket of the tap, and how the tap connects to the instance behind it.
#[derive(Clone, Copy, Debug)]
pub struct TapListener<'t> {
    /// The slot.
    pub slot: Slot,
    /// The name of the listener.
    pub name: &'t str,
    /// The address of the instances.
    pub address: SocketAddr,
    /// The differentiated-services field that chooses the slot: see [`super::marked_socket`].
    pub field: u8,
    /// The socket. It does not block.
    pub fd: &'t OwnedFd,
}

/// The sockets of one internet listener.
pub(super) struct Group {
    pub(super) spec: GroupSpec,
    /// The bound address.
    pub(super) address: SocketAddr,
    pub(super) routing: Routing,
    /// The shares of new connections that go through the tap.
    pub(super) shares: Taps,
    pub(super) slots: [OwnedFd; 2],
    /// The sockets of the tap in front of each slot; `None` for UDP.
    pub(super) taps: Option<[OwnedFd; 2]>,
    /// `None` only after a new guard could not be opened.
    pub(super) guard: Option<OwnedFd>,
    pub(super) order: Order,
    /// The options of an untouched socket of this group.
    pub(super) options: Options,
    /// When the current routing began; `None` if it never changed.
    pub(super) since: Option<Instant>,
    /// Handshakes that were in progress when `is_drained` was first called after the last switch.
    pub(super) pending: Option<BTreeSet<SocketAddr>>,
}

impl Group {
    /// Opens a group at an address that no other process uses.
    pub fn open(spec: &GroupSpec, routing: Routing) -> Result<Self, OpenError> {
        let reserved = spec.reserve()?;
        let address = socket::address(&reserved).unwrap_or(spec.address);
        // A bound datagram socket would already be a member. A stream socket is no member until it listens, so it can
        // reserve the port meanwhile.
        let _reserved = (spec.kind() == SockType::Stream).then_some(reserved);
        let first = routing.main();
        let to_first = program::route(Routing::All(first), Taps::NONE, |_| 0);
        let one = spec.member(address, Role::Slot(first), Some(to_first))?;
        let two = spec.member(address, Role::Slot(first.other()), None)?;
        let is_stream = spec.kind() == SockType::Stream;
        let tap = |slot| spec.member(address, Role::Tap(slot), None);
        let taps = if is_stream { Some([tap(Slot::A)?, tap(Slot::B)?]) } else { None };
        let guard = spec.member(address, Role::Guard, None)?;
        let slots = if first == Slot::A { [one, two] } else { [two, one] };
        let mut group = Self::of(spec, address, routing, slots, taps, guard, Order::joined(first, is_stream));
        group.route(routing).map_err(|source| spec.error("set the routing of", source))?;
        Ok(group)
    }

    /// Makes a group of sockets that have joined.
    pub fn of(
        spec: &GroupSpec,
        address: SocketAddr,
        routing: Routing,
        slots: [OwnedFd; 2],
        taps: Option<[OwnedFd; 2]>,
        guard: OwnedFd,
        order: Order,
    ) -> Self {
        let options = Options::of(&guard);
        let (spec, guard) = (spec.clone(), Some(guard));
        let shares = Taps::NONE;
        Self { spec, address, routing, shares, slots, taps, guard, order, options, since: None, pending: None }
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The address where it is bound.
    pub fn bound(&self) -> ListenAddress {
        match self.spec.listen {
            ListenAddress::Udp(_) => ListenAddress::Udp(self.address),
            _ => ListenAddress::Tcp(self.address),
        }
    }

    /// Switches the routing with one system call.
    pub fn route(&mut self, routing: Routing) -> io::Result<()> {
        socket::attach(self.guard()?, &mut self.program(routing, &self.order))?;
        if self.routing != routing {
            self.since = Some(Instant::now());
        }
        self.routing = routing;
        self.pending = None;
        Ok(())
    }

    /// Changes the shares of new connections that go through the tap, with one system call. UDP has no tap.
    pub fn tap(&mut self, shares: Taps) -> io::Result<()> {
        if self.is_stream() {
            let before = std::mem::replace(&mut self.shares, shares);
            socket::attach(self.guard()?, &mut self.program(self.routing, &self.order))
                .inspect_err(|_| self.shares = before)?;
        }
        Ok(())
    }

    /// The program for a routing and an order of the members.
    pub fn program(&self, routing: Routing, order: &Order) -> Program {
        let route = program::route(routing, self.shares, |role| order.index(role));
        if self.is_stream() { program::choose(self.address.is_ipv6(), |role| order.index(role), route) } else { route }
    }

    /// The guard.
    pub fn guard(&self) -> io::Result<&OwnedFd> {
        self.guard.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    /// The socket of a slot.
    pub fn slot(&self, slot: Slot) -> &OwnedFd {
        let [a, b] = &self.slots;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    /// The socket of the tap in front of a slot.
    pub fn tap_of(&self, slot: Slot) -> Option<&OwnedFd> {
        self.taps.as_ref().map(|taps| &taps[slot.index()])
    }

    /// True for TCP, which queues connections; false for UDP, which queues datagrams.
    pub fn is_stream(&self) -> bool {
        self.spec.kind() == SockType::Stream
    }

    /// Number of connections in the queue of a slot, and in the queue of the tap in front of it: they arrive in the slot's
    /// next. For UDP it is 1 if a datagram waits.
    pub fn backlog(&self, slot: Slot) -> io::Result<u64> {
        let fd = self.slot(slot);
        if self.is_stream() {
            // The tap's queue first: a client that has left it is in the slot's by then.
            let at_tap = self.tap_backlog(slot)?;
            return Ok(at_tap + socket::tcp_queue(fd)?.unwrap_or(0));
        }
        Ok(is_ready(fd.as_fd(), PollFlags::POLLIN)?.into())
    }

    /// Number of connections in the queue of the tap in front of a slot.
    pub fn tap_backlog(&self, slot: Slot) -> io::Result<u64> {
        self.tap_of(slot).map_or(Ok(0), |fd| Ok(socket::tcp_queue(fd)?.unwrap_or(0)))
    }

    /// Handshakes in progress with any member.
    pub fn handshakes(&self) -> io::Result<BTreeSet<SocketAddr>> {
        if self.is_stream() { diag::handshakes(self.address) } else { Ok(BTreeSet::new()) }
    }

    /// True if the slot gets no new connections, none is in its queue, and none can arrive any more.
    ///
    /// The first packet of a handshake determines the member, and the kernel does not show which one. So all handshakes
    /// that were in progress at the first call after a switch must end. Handshakes that began later do not matter.
    pub fn is_drained(&mut self, slot: Slot) -> io::Result<bool> {
        if self.routing.plain() != Routing::All(slot.other()) || self.backlog(slot)? > 0 {
            return Ok(false);
        }
        let now = self.handshakes()?;
        let pending = self.pending.get_or_insert_with(|| now.clone());
        pending.retain(|client| now.contains(client));
        // A handshake that has just ended may have put its connection into the queue.
        Ok(pending.is_empty() && self.backlog(slot)? == 0)
    }

    /// The sockets with their names in the descriptor store.
    pub fn labelled(&self) -> io::Result<Vec<(Label, &OwnedFd)>> {
        let slots = Slot::ALL.map(|slot| (Role::Slot(slot), self.slot(slot)));
        let taps = Slot::ALL.into_iter().filter_map(|slot| Some((Role::Tap(slot), self.tap_of(slot)?)));
        let members = slots.into_iter().chain(taps).chain(self.guard.as_ref().map(|guard| (Role::Guard, guard)));
        members.map(|(role, fd)| Ok((self.label(role, fd)?, fd))).collect()
    }

    /// The name of a member in the descriptor store.
    pub fn label(&self, role: Role, fd: &OwnedFd) -> io::Result<Label> {
        let place = u64::from(self.order.index(role));
        Ok(Label { name: self.spec.name.clone(), role, place, cookie: socket::cookie(fd)? })
    }
}
