//! All listeners of a runtime.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Alarm;
use super::error::{OpenError, RouteError};
use super::group::{Group, GroupSpec, TapListener};
use super::label::Label;
use super::program::service_field;
use super::rejoin::{Adoption, StoredMembers};
use super::renew::Prepared;
use super::slot::{NextVersion, Routing, Slot, Taps};
use super::unix_pair::{INTERFACE, InterfaceSockets, UnixPair};
use crate::config::types::{Listen, ListenAddress};
use crate::runtime::keeper::FdStore;

/// Maximum length of a listener's name, in bytes. A name in the descriptor store has at most 255 bytes, and the label
/// adds its own parts.
const NAME_BYTES_MAX: usize = 200;

/// The configuration of all listeners.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The listeners, in the order in which instances inherit them. An IPv6 listener does not accept IPv4 clients if
    /// another listener has an IPv4 address with the same port.
    pub listens: &'a [Listen],
    /// The directory of the Interface's private sockets, which only the supervisor may enter; `None` if the runtime
    /// does not serve the Interface.
    pub interface: Option<&'a Path>,
}

/// All listeners of a runtime, and the slot that gets new connections. Dropping it closes only this process's copies.
pub struct Traffic {
    listeners: Vec<Listener>,
    interface: Option<InterfaceSockets>,
    routing: Routing,
    taps: Taps,
    /// Counts how often sockets were replaced that an alarm watches.
    replacements: u64,
}

enum Listener {
    Group(Box<Group>),
    UnixPair(UnixPair),
}

/// The result of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Routed {
    /// The total time for all listeners.
    pub took: Duration,
    /// Unix listeners, if a share was requested. They cannot share: the slot of the share gets *nothing*, the other
    /// slot gets everything.
    pub unshared: Vec<String>,
}

impl Traffic {
    /// Opens all listeners, or none, if there is nothing to adopt. `routing` applies from the first connection on.
    ///
    /// # Errors
    /// If an address is in use, not permitted or invalid, or if the store refuses a socket.
    pub fn open(setup: Setup<'_>, routing: Routing, store: &mut dyn FdStore) -> Result<Self, OpenError> {
        Self::adopt(setup, routing, &mut Vec::new(), store).map(|(traffic, _)| traffic)
    }

    /// Adopts the listeners from an earlier supervisor and opens the missing ones.
    ///
    /// `kept` is what the store returned; the sockets of traffic are taken out of it, other descriptors stay. `routing`
    /// is the routing in force, as the journal has it: no client is routed differently, not even for a moment. Queues
    /// are preserved.
    ///
    /// # Errors
    /// As [`Traffic::open`], or if sockets of other processes share an address with a listener.
    pub fn adopt(
        setup: Setup<'_>,
        routing: Routing,
        kept: &mut Vec<(String, OwnedFd)>,
        store: &mut dyn FdStore,
    ) -> Result<(Self, Adoption), OpenError> {
        check(setup)?;
        let mut stored: HashSet<String> = HashSet::new();
        let mut ours = Vec::new();
        for (name, fd) in std::mem::take(kept) {
            if !Label::is_ours(&name) {
                kept.push((name, fd));
                continue;
            }
            // If the name does not match its socket, the socket is not used.
            if let Some(label) = Label::parse(&name)
                && super::socket::cookie(&fd).is_ok_and(|cookie| cookie == label.cookie)
            {
                ours.push((label, fd));
            }
            stored.insert(name);
        }
        let mut traffic = Self {
            listeners: Vec::with_capacity(setup.listens.len()),
            interface: None,
            routing,
            taps: Taps::NONE,
            replacements: 0,
        };
        match traffic.fill(setup, &mut ours, &stored, store) {
            Ok(adoption) => Ok((traffic, adoption)),
            Err(error) => {
                // All or nothing: remove the files of sockets that were opened just now. Adopted files stay.
                traffic.listeners.iter().for_each(Listener::unlink_new);
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        setup: Setup<'_>,
        ours: &mut Vec<(Label, OwnedFd)>,
        stored: &HashSet<String>,
        store: &mut dyn FdStore,
    ) -> Result<Adoption, OpenError> {
        let mut adoption = Adoption::default();
        for listen in setup.listens {
            self.listeners.push(Listener::open(listen, setup, self.routing, ours, store, &mut adoption)?);
        }
        self.interface = setup.interface.map(|dir| InterfaceSockets::open(dir, ours, &mut adoption)).transpose()?;
        adoption.dropped = ours.iter().map(|(label, _)| label.to_string()).collect();
        self.sync_store(stored, store)?;
        Ok(adoption)
    }

    /// Adds all sockets to a store, for example to a new keeper after the old one was lost.
    ///
    /// # Errors
    /// If the store refuses a socket.
    pub fn store_all(&self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        self.sync_store(&HashSet::new(), store)
    }

    /// Synchronises a store that has the names `stored`: adds the missing sockets first, then removes the obsolete
    /// ones.
    fn sync_store(&self, stored: &HashSet<String>, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let mut current = HashSet::new();
        for (label, fd) in self.labelled().map_err(|source| OpenError::Store(source.into()))? {
            let name = label.to_string();
            if !stored.contains(&name) {
                store.store(&name, fd.as_fd()).map_err(OpenError::Store)?;
            }
            current.insert(name);
        }
        stored.difference(&current).try_for_each(|name| store.remove(name)).map_err(OpenError::Store)
    }

    fn labelled(&self) -> io::Result<Vec<(Label, &OwnedFd)>> {
        let mut all = Vec::new();
        for listener in &self.listeners {
            all.extend(match listener {
                Listener::Group(group) => group.labelled()?,
                Listener::UnixPair(pair) => pair.labelled()?,
            });
        }
        all.extend(self.interface.as_ref().map(InterfaceSockets::labelled).transpose()?.into_iter().flatten());
        Ok(all)
    }

    /// The names of the sockets in the store. With these names in the journal, [`super::recover_from_instances`] finds the sockets
    /// in running instances if the store is lost. Only [`Traffic::adopt`], [`Traffic::prepare`] and [`Traffic::repair`]
    /// change them.
    ///
    /// # Errors
    /// If the system does not return a socket's properties; for an open socket it always does.
    pub fn labels(&self) -> io::Result<Vec<String>> {
        Ok(self.labelled()?.into_iter().map(|(label, _)| label.to_string()).collect())
    }

    /// Switches all listeners, with one system call each. If one fails, the others are switched all the same.
    ///
    /// # Errors
    /// The first listener that was not switched.
    pub fn route(&mut self, routing: Routing) -> Result<Routed, RouteError> {
        let begin = Instant::now();
        let (mut failure, mut unshared) = (None, Vec::new());
        for listener in &mut self.listeners {
            let switched = match listener {
                Listener::Group(group) => group.route(routing).map(|()| false),
                Listener::UnixPair(pair) => pair.route(routing),
            };
            match switched {
                Ok(true) => unshared.push(listener.name().to_owned()),
                Ok(false) => {}
                Err(source) => {
                    let (name, towards) = (listener.name().to_owned(), routing.main());
                    failure.get_or_insert(RouteError { name, towards, source });
                }
            }
        }
        let took = begin.elapsed();
        match failure {
            Some(error) => Err(error),
            None => {
                self.routing = routing;
                Ok(Routed { took, unshared })
            }
        }
    }

    /// The current routing.
    pub fn routing(&self) -> Routing {
        self.routing
    }

    /// Changes the shares of new connections that go through the tap, with one system call for each of these listeners.
    /// Unix sockets and UDP have no tap. Until the first call, and for listeners that are not named, the shares are zero.
    ///
    /// # Errors
    /// The first listener that was not changed.
    pub fn tap(&mut self, shares: Taps, is_tapped: impl Fn(&Listen) -> bool) -> Result<(), RouteError> {
        let mut failure = None;
        for group in groups(&mut self.listeners) {
            let listen = Listen { name: group.name().to_owned(), address: group.bound() };
            let shares = if is_tapped(&listen) { shares } else { Taps::NONE };
            if let Err(source) = group.tap(shares) {
                failure.get_or_insert(RouteError { name: listen.name, towards: self.routing.main(), source });
            }
        }
        failure.map_or(Ok(()), Err).inspect(|()| self.taps = shares)
    }

    /// The present shares of new connections that go through the tap.
    pub fn taps(&self) -> Taps {
        self.taps
    }

    /// The listening sockets of the tap.
    pub fn tap_listeners(&self) -> Vec<TapListener<'_>> {
        let groups = self.listeners.iter().filter_map(|listener| match listener {
            Listener::Group(group) => Some(group),
            Listener::UnixPair(_) => None,
        });
        groups
            .flat_map(|group| {
                Slot::ALL.into_iter().filter_map(|slot| {
                    let (name, fd) = (group.name(), group.tap_of(slot)?);
                    Some(TapListener { slot, name, address: reachable(group.address), field: service_field(slot), fd })
                })
            })
            .collect()
    }

    /// The sockets of the slots of TCP listeners, with their names in the store. The tap holds copies: see
    /// [`Traffic::replacements`].
    pub fn sockets_to_hold(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let groups =
            self.listeners.iter().filter(|listener| matches!(listener, Listener::Group(group) if group.is_stream()));
        let name = |listener: &Listener, slot| format!("{}/{slot}", listener.name());
        groups.flat_map(|listener| Slot::ALL.map(|slot| (name(listener, slot), listener.slot(slot).as_fd()))).collect()
    }

    /// Counts how often sockets were replaced.
    pub fn replacements(&self) -> u64 {
        self.replacements
    }

    /// Number of connections in the queues of the tap, for both slots.
    ///
    /// # Errors
    /// If the system query fails.
    pub fn tap_backlog(&self) -> io::Result<u64> {
        self.listeners.iter().try_fold(0, |sum, listener| match listener {
            Listener::Group(group) => Ok(sum + group.tap_backlog(Slot::A)? + group.tap_backlog(Slot::B)?),
            Listener::UnixPair(_) => Ok(sum),
        })
    }

    /// The sockets that an instance in this slot inherits, in the order of the configuration, with the Interface's
    /// socket `rei` last. They have close-on-exec; the spawner gives the instance copies without it.
    pub fn slot_fds(&self, slot: Slot) -> Vec<(String, BorrowedFd<'_>)> {
        let listeners = self.listeners.iter().map(|listener| (listener.name().to_owned(), listener.slot(slot).as_fd()));
        let interface = self.interface.iter().map(|sockets| (INTERFACE.to_owned(), sockets.slot(slot).as_fd()));
        listeners.chain(interface).collect()
    }

    /// Resets the sockets of a slot to their state when they were opened, undoing changes of instances. If the slot
    /// gets no traffic and its queue is empty, it gets new sockets; otherwise all options are reset. Call this before
    /// an instance starts, and only if no instance lives in the slot. Returns the listeners whose queue had to be
    /// refused because another version inherits a socket that could not be reset.
    ///
    /// # Errors
    /// If a socket cannot be replaced, or if the store refuses one.
    pub fn prepare(
        &mut self,
        slot: Slot,
        next: NextVersion,
        store: &mut dyn FdStore,
    ) -> Result<Vec<String>, OpenError> {
        let stored: HashSet<String> =
            self.labels().map_err(|source| OpenError::Store(source.into()))?.into_iter().collect();
        let (mut renewed, mut refused) = (false, Vec::new());
        for listener in &mut self.listeners {
            let prepared = match listener {
                Listener::Group(group) => group.prepare(slot, next, store)?,
                Listener::UnixPair(pair) => pair.prepare(slot, next, store)?,
            };
            renewed |= prepared != Prepared::Kept;
            if prepared == Prepared::QueueLost {
                refused.push(listener.name().to_owned());
            }
        }
        if let Some(sockets) = &mut self.interface {
            sockets.prepare(slot, next, store)?;
        }
        if renewed {
            // An alarm of the old sockets would report that they were closed.
            self.replacements += 1;
            self.sync_store(&stored, store)?;
        }
        Ok(refused)
    }

    /// Number of connections in the queues of a slot, over all listeners. A UDP listener counts 1 if a datagram waits.
    ///
    /// # Errors
    /// If the system query fails.
    pub fn backlog(&self, slot: Slot) -> io::Result<u64> {
        self.listeners.iter().try_fold(0, |sum, listener| {
            Ok(sum
                + match listener {
                    Listener::Group(group) => group.backlog(slot)?,
                    Listener::UnixPair(pair) => pair.backlog(slot)?,
                })
        })
    }

    /// Handshakes in progress at all listeners, for both slots: the kernel does not show which slot. Slower than
    /// [`Traffic::backlog`], because it reads the connections of the whole machine.
    ///
    /// # Errors
    /// If the system query fails.
    pub fn handshakes(&self) -> io::Result<u64> {
        self.listeners.iter().try_fold(0, |sum, listener| match listener {
            Listener::Group(group) => Ok(sum + group.handshakes()?.len() as u64),
            Listener::UnixPair(_) => Ok(sum),
        })
    }

    /// True if the slot gets no new connections, has none in its queues, and none can arrive any more; then its
    /// instance may be stopped. False for a slot that still gets connections. Call it again until it returns true;
    /// handshakes end within about a minute.
    ///
    /// # Errors
    /// If the system query fails.
    pub fn is_drained(&mut self, slot: Slot) -> io::Result<bool> {
        let mut drained = true;
        for listener in &mut self.listeners {
            drained &= match listener {
                Listener::Group(group) => group.is_drained(slot)?,
                Listener::UnixPair(pair) => pair.is_drained(slot)?,
            };
        }
        Ok(drained)
    }

    /// Each listener's name and its bound address: a configured port 0 is replaced by the real port.
    pub fn addresses(&self) -> Vec<Listen> {
        let listen = |listener: &Listener| Listen { name: listener.name().to_owned(), address: listener.bound() };
        self.listeners.iter().map(listen).collect()
    }

    /// The path where the supervisor connects to the Interface of a slot's instance.
    pub fn interface_path(&self, slot: Slot) -> Option<&Path> {
        self.interface.as_ref().map(|sockets| sockets.path(slot))
    }

    /// How the supervisor connects to a listener in a slot, whether the slot has traffic or not.
    pub fn endpoint(&self, name: &str, slot: Slot) -> Option<Endpoint> {
        let listener = self.listeners.iter().find(|listener| listener.name() == name)?;
        Some(match listener {
            Listener::Group(group) => Endpoint::Tcp { address: reachable(group.address), field: service_field(slot) },
            Listener::UnixPair(pair) => Endpoint::Unix(pair.endpoint(slot)),
        })
    }

    /// True if sockets of this alarm were replaced: it would report that they were closed.
    pub fn alarm_is_stale(&self, alarm: &Alarm) -> bool {
        alarm.replacements() != self.replacements
    }

    /// Makes an alarm for tampering. Make a new one after sockets were replaced: see [`Traffic::alarm_is_stale`].
    ///
    /// # Errors
    /// If the system refuses to watch a socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn alarm(&self) -> io::Result<Alarm> {
        let mut alarm = Alarm::new(self.replacements)?;
        for listener in &self.listeners {
            match listener {
                Listener::Group(group) => {
                    alarm.watch_guard(group.name(), group.guard()?)?;
                    // A UDP socket may report errors of its peers, which are no tampering.
                    for slot in Slot::ALL.into_iter().filter(|_| group.is_stream()) {
                        alarm.watch_member(group.name(), slot, group.slot(slot))?;
                        if let Some(tap) = group.tap_of(slot) {
                            alarm.watch_member(group.name(), slot, tap)?;
                        }
                    }
                }
                Listener::UnixPair(pair) => {
                    for slot in Slot::ALL {
                        alarm.watch_member(pair.name(), slot, pair.slot(slot))?;
                    }
                }
            }
        }
        Ok(alarm)
    }

    /// Restores all listeners after tampering. Queues of live sockets are kept. Connections in a guard's queue are
    /// lost, because no instance has that queue.
    ///
    /// # Errors
    /// As [`Traffic::adopt`].
    pub fn repair(&mut self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        self.replacements += 1;
        let stored: HashSet<String> =
            self.labels().map_err(|source| OpenError::Store(source.into()))?.into_iter().collect();
        for listener in &mut self.listeners {
            match listener {
                Listener::Group(group) => group.repair(store)?,
                Listener::UnixPair(pair) => pair.repair()?,
            }
        }
        self.sync_store(&stored, store)
    }

    /// Removes the files of Unix sockets, so that no client can connect to them. Other listeners close when their last
    /// copy is closed, in this process, in the store and in the instances.
    pub fn unlink(&self) {
        for listener in &self.listeners {
            if let Listener::UnixPair(pair) = listener {
                pair.unlink();
            }
        }
        if let Some(sockets) = &self.interface {
            sockets.unlink();
        }
    }
}

/// The listeners that are groups.
fn groups(listeners: &mut [Listener]) -> impl Iterator<Item = &mut Group> {
    listeners.iter_mut().filter_map(|listener| match listener {
        Listener::Group(group) => Some(&mut **group),
        Listener::UnixPair(_) => None,
    })
}

/// How to connect to one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By TCP with this DSCP, which chooses the slot.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The differentiated-services field.
        field: u8,
    },
    /// By the path of the slot's own socket.
    Unix(PathBuf),
}

/// An address to connect to: the loopback address if the listener is bound to all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

impl Listener {
    fn open(
        listen: &Listen,
        setup: Setup<'_>,
        routing: Routing,
        ours: &mut Vec<(Label, OwnedFd)>,
        store: &mut dyn FdStore,
        adoption: &mut Adoption,
    ) -> Result<Self, OpenError> {
        let address = match &listen.address {
            ListenAddress::Unix(path) => {
                return UnixPair::open(&listen.name, path, routing, ours, adoption).map(Self::UnixPair);
            }
            ListenAddress::Tcp(address) | ListenAddress::Udp(address) => *address,
        };
        let spec = GroupSpec {
            name: listen.name.clone(),
            listen: listen.address.clone(),
            address,
            v6_only: address.is_ipv6() && setup.listens.iter().any(|other| has_v4_of(&other.address, &listen.address)),
        };
        let kept = StoredMembers::take(&spec, ours);
        let group = if kept.is_empty() {
            Group::open(&spec, routing)?
        } else {
            Group::adopt(&spec, kept, routing, store, adoption)?
        };
        Ok(Self::Group(Box::new(group)))
    }

    /// Removes the files of sockets that did not exist before.
    fn unlink_new(&self) {
        if let Self::UnixPair(pair) = self
            && pair.is_new()
        {
            pair.unlink();
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Group(group) => group.name(),
            Self::UnixPair(pair) => pair.name(),
        }
    }

    fn bound(&self) -> ListenAddress {
        match self {
            Self::Group(group) => group.bound(),
            Self::UnixPair(pair) => pair.bound(),
        }
    }

    fn slot(&self, slot: Slot) -> &OwnedFd {
        match self {
            Self::Group(group) => group.slot(slot),
            Self::UnixPair(pair) => pair.slot(slot),
        }
    }
}

/// Refuses names and addresses that conflict.
fn check(setup: Setup<'_>) -> Result<(), OpenError> {
    for (n, listen) in setup.listens.iter().enumerate() {
        let name = &listen.name;
        // The characters that `LISTEN_FDNAMES` allows, without `/`, which separates the parts of a label.
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '/');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(legal) {
            return Err(OpenError::BadName { name: name.clone() });
        }
        let before = &setup.listens[..n];
        if name == INTERFACE || before.iter().any(|other| other.name == *name) {
            return Err(OpenError::NameTaken { name: name.clone() });
        }
        if let Some(other) = before.iter().find(|other| overlap(&other.address, &listen.address)) {
            let (first, second) = (other.name.clone(), name.clone());
            return Err(OpenError::SameAddress { first, second, address: listen.address.clone() });
        }
    }
    Ok(())
}

/// True if both would get the same connections. The system allows a specific address beside the wildcard address, but
/// then it depends on small details which listener gets a connection.
fn overlap(one: &ListenAddress, two: &ListenAddress) -> bool {
    let (one, two) = match (one, two) {
        (ListenAddress::Unix(one), ListenAddress::Unix(two)) => return one == two,
        (ListenAddress::Tcp(one), ListenAddress::Tcp(two)) | (ListenAddress::Udp(one), ListenAddress::Udp(two)) => {
            (one, two)
        }
        _ => return false,
    };
    let same_ip = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
    one.port() != 0 && one.port() == two.port() && one.is_ipv4() == two.is_ipv4() && same_ip
}

/// True if `one` is an IPv4 address with the same port and protocol as `other`.
fn has_v4_of(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) | (ListenAddress::Udp(one), ListenAddress::Udp(other)) => {
            one.is_ipv4() && one.port() != 0 && one.port() == other.port()
        }
        _ => false,
    }
}
