//! All listeners of a runtime.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Alarm;
use super::error::{OpenError, RouteError};
use super::exchange::{Exchange, INTERFACE, Private};
use super::group::{Group, Wanted};
use super::label::Label;
use super::program::service_field;
use super::rejoin::{Adoption, Kept};
use super::renew::Prepared;
use super::slot::{Heir, Routing, Slot};
use crate::config::types::{Listen, ListenAddress};
use crate::runtime::keeper::FdStore;

/// Bound of a listener's name, in bytes: a store's names have 255, of which ours need some for themselves.
const NAME_BYTES_MAX: usize = 200;

/// What is to be listened on.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The listeners, in the order in which instances inherit them. One at an IP version 6 address is not for version 4 clients
    /// where another listener has the same port at a version 4 address.
    pub listens: &'a [Listen],
    /// The directory of the Interface's private sockets, which the supervisor alone may enter; `None` where the runtime does not
    /// serve the Interface.
    pub interface: Option<&'a Path>,
}

/// All listeners of a runtime, with the slot that gets new connections. To drop it closes this process's copies only.
pub struct Traffic {
    listeners: Vec<Listener>,
    interface: Option<Private>,
    routing: Routing,
    /// Counts how often sockets that an alarm watches were replaced.
    watched: u64,
}

enum Listener {
    Group(Box<Group>),
    Exchange(Exchange),
}

/// What a switch did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Routed {
    /// How long all listeners took together.
    pub took: Duration,
    /// Listeners that cannot share (unix sockets), where a share was asked for: there the slot of the share gets *nothing*,
    /// and the other slot everything.
    pub unshared: Vec<String>,
}

impl Traffic {
    /// Opens all listeners, or none, for a supervisor that found nothing to take over. `routing` holds from the first connection.
    ///
    /// # Errors
    /// When an address is used by anybody, may not be used, or is impossible; when the store refuses the sockets.
    pub fn open(setup: Setup<'_>, routing: Routing, store: &mut dyn FdStore) -> Result<Self, OpenError> {
        Self::adopt(setup, routing, &mut Vec::new(), store).map(|(traffic, _)| traffic)
    }

    /// Takes the listeners over from an earlier supervisor and opens what is missing.
    ///
    /// `kept` is what the store gave back; traffic's sockets are taken out of it, other things stay. `routing` is what was in
    /// force, as the journal has it: no client is routed otherwise, not even for a moment. Queues are kept.
    ///
    /// # Errors
    /// As [`Traffic::open`]; and when sockets of others share an address with ours.
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
            // A name that does not fit its socket is nothing to build on.
            if let Some(label) = Label::parse(&name)
                && super::socket::cookie(&fd).is_ok_and(|cookie| cookie == label.cookie)
            {
                ours.push((label, fd));
            }
            stored.insert(name);
        }
        let mut traffic =
            Self { listeners: Vec::with_capacity(setup.listens.len()), interface: None, routing, watched: 0 };
        match traffic.fill(setup, &mut ours, &stored, store) {
            Ok(adoption) => Ok((traffic, adoption)),
            Err(error) => {
                // All or nothing: no file is left of what was opened just now. What others had is theirs still.
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
        self.interface = setup.interface.map(|dir| Private::open(dir, ours, &mut adoption)).transpose()?;
        adoption.dropped = ours.iter().map(|(label, _)| label.to_string()).collect();
        self.keep(stored, store)?;
        Ok(adoption)
    }

    /// Gives all sockets to a store, for example to a new keeper after the old one was lost.
    ///
    /// # Errors
    /// When the store refuses one.
    pub fn store_all(&self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        self.keep(&HashSet::new(), store)
    }

    /// Brings a store that has `stored` of ours to what we have: first the new, then without the old.
    fn keep(&self, stored: &HashSet<String>, store: &mut dyn FdStore) -> Result<(), OpenError> {
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
                Listener::Exchange(exchange) => exchange.labelled()?,
            });
        }
        all.extend(self.interface.as_ref().map(Private::labelled).transpose()?.into_iter().flatten());
        Ok(all)
    }

    /// The names under which a store keeps the sockets now. With them in the journal, [`super::take_back`] finds the sockets in
    /// running instances when the store is lost. They change by [`Traffic::adopt`], [`Traffic::prepare`] and [`Traffic::repair`] alone.
    ///
    /// # Errors
    /// When the system refuses to tell of a socket, which it does not for an open one.
    pub fn labels(&self) -> io::Result<Vec<String>> {
        Ok(self.labelled()?.into_iter().map(|(label, _)| label.to_string()).collect())
    }

    /// Switches all listeners: one system call for each. All are tried, whatever happens to one.
    ///
    /// # Errors
    /// Names the first listener that stayed as it was.
    pub fn route(&mut self, routing: Routing) -> Result<Routed, RouteError> {
        let begin = Instant::now();
        let (mut failure, mut unshared) = (None, Vec::new());
        for listener in &mut self.listeners {
            let switched = match listener {
                Listener::Group(group) => group.route(routing).map(|()| false),
                Listener::Exchange(exchange) => exchange.route(routing),
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

    /// Where new connections go.
    pub fn routing(&self) -> Routing {
        self.routing
    }

    /// What an instance in this slot inherits, in the order of the configuration, the Interface's socket `rei` last. The
    /// descriptors are closed on exec; the spawner gives the instance copies that are not.
    pub fn slot_fds(&self, slot: Slot) -> Vec<(String, BorrowedFd<'_>)> {
        let listeners = self.listeners.iter().map(|listener| (listener.name().to_owned(), listener.slot(slot).as_fd()));
        let interface = self.interface.iter().map(|private| (INTERFACE.to_owned(), private.slot(slot).as_fd()));
        listeners.chain(interface).collect()
    }

    /// Makes a slot's sockets what they were when they were opened, whatever an instance did to them: new ones if the slot gets no
    /// traffic and nothing waits there, else the same with all their options set back. To be called before an instance starts,
    /// and only when none lives in the slot. Gives the listeners whose queue had to be refused, because another version inherits
    /// what could not be set back.
    ///
    /// # Errors
    /// When a socket cannot be replaced, or the store refuses one.
    pub fn prepare(&mut self, slot: Slot, heir: Heir, store: &mut dyn FdStore) -> Result<Vec<String>, OpenError> {
        let stored: HashSet<String> =
            self.labels().map_err(|source| OpenError::Store(source.into()))?.into_iter().collect();
        let (mut renewed, mut refused) = (false, Vec::new());
        for listener in &mut self.listeners {
            let prepared = match listener {
                Listener::Group(group) => group.prepare(slot, heir, store)?,
                Listener::Exchange(exchange) => exchange.prepare(slot, heir, store)?,
            };
            renewed |= prepared != Prepared::Kept;
            if prepared == Prepared::QueueLost {
                refused.push(listener.name().to_owned());
            }
        }
        if let Some(private) = &mut self.interface {
            private.prepare(slot, heir, store)?;
        }
        if renewed {
            // Whoever watches the old ones is told of their end.
            self.watched += 1;
            self.keep(&stored, store)?;
        }
        Ok(refused)
    }

    /// Connections that wait to be accepted in a slot, over all listeners; a UDP listener counts 1 when a datagram waits.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn backlog(&self, slot: Slot) -> io::Result<u64> {
        self.listeners.iter().try_fold(0, |sum, listener| {
            Ok(sum
                + match listener {
                    Listener::Group(group) => group.backlog(slot)?,
                    Listener::Exchange(exchange) => exchange.backlog(slot)?,
                })
        })
    }

    /// Handshakes that are under way at any listener, with either slot: the kernel does not tell with which. Slower than
    /// [`Traffic::backlog`]: it looks through the machine's connections.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn handshakes(&self) -> io::Result<u64> {
        self.listeners.iter().try_fold(0, |sum, listener| match listener {
            Listener::Group(group) => Ok(sum + group.handshakes()?.len() as u64),
            Listener::Exchange(_) => Ok(sum),
        })
    }

    /// Whether a slot that gets no new connections has none waiting, and can get none any more: its sockets may then lose their
    /// instance. `false` for a slot that still gets some. To be asked again until it is true; handshakes end within a minute or so.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_drained(&mut self, slot: Slot) -> io::Result<bool> {
        let mut drained = true;
        for listener in &mut self.listeners {
            drained &= match listener {
                Listener::Group(group) => group.is_drained(slot)?,
                Listener::Exchange(exchange) => exchange.is_drained(slot)?,
            };
        }
        Ok(drained)
    }

    /// Each listener's name and where it is really bound: a configured port 0 has become a number.
    pub fn addresses(&self) -> Vec<Listen> {
        let listen = |listener: &Listener| Listen { name: listener.name().to_owned(), address: listener.bound() };
        self.listeners.iter().map(listen).collect()
    }

    /// Where the supervisor connects to the Interface of a slot's instance.
    pub fn interface_path(&self, slot: Slot) -> Option<&Path> {
        self.interface.as_ref().map(|private| private.path(slot))
    }

    /// How the supervisor connects to the listener of this name in a slot, whether the slot has traffic or not.
    pub fn way(&self, name: &str, slot: Slot) -> Option<Way> {
        let listener = self.listeners.iter().find(|listener| listener.name() == name)?;
        Some(match listener {
            Listener::Group(group) => Way::Tcp { address: reachable(group.address), field: service_field(slot) },
            Listener::Exchange(exchange) => Way::Unix(exchange.way(slot)),
        })
    }

    /// Whether sockets that an alarm watches were replaced: it would tell of their end.
    pub fn alarm_is_stale(&self, alarm: &Alarm) -> bool {
        alarm.of() != self.watched
    }

    /// What tells of tampering. To be made anew when sockets were replaced: see [`Traffic::alarm_is_stale`].
    ///
    /// # Errors
    /// When the system refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn alarm(&self) -> io::Result<Alarm> {
        let mut alarm = Alarm::new(self.watched)?;
        for listener in &self.listeners {
            match listener {
                Listener::Group(group) => {
                    alarm.watch_guard(group.name(), group.guard()?)?;
                    // A UDP socket may report errors of its peers: that is no tampering.
                    for slot in Slot::ALL.into_iter().filter(|_| group.is_stream()) {
                        alarm.watch_member(group.name(), slot, group.slot(slot))?;
                    }
                }
                Listener::Exchange(exchange) => {
                    for slot in Slot::ALL {
                        alarm.watch_member(exchange.name(), slot, exchange.slot(slot))?;
                    }
                }
            }
        }
        Ok(alarm)
    }

    /// Puts the groups in order after tampering. Live queues are kept; what came to a guard is lost, as no instance has it.
    ///
    /// # Errors
    /// As [`Traffic::adopt`].
    pub fn repair(&mut self, store: &mut dyn FdStore) -> Result<(), OpenError> {
        self.watched += 1;
        let stored: HashSet<String> =
            self.labels().map_err(|source| OpenError::Store(source.into()))?.into_iter().collect();
        for listener in &mut self.listeners {
            match listener {
                Listener::Group(group) => group.repair(store)?,
                Listener::Exchange(exchange) => exchange.repair()?,
            }
        }
        self.keep(&stored, store)
    }

    /// Removes the files of unix sockets: nobody can connect to these any more. Other listeners end when their last copy is
    /// closed: those of this process, of the store and of instances.
    pub fn unlink(&self) {
        for listener in &self.listeners {
            if let Listener::Exchange(exchange) = listener {
                exchange.unlink();
            }
        }
        if let Some(private) = &self.interface {
            private.unlink();
        }
    }
}

/// How to connect to one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// With this differentiated-services field.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The field.
        field: u8,
    },
    /// By the slot's own path.
    Unix(PathBuf),
}

/// An address that can be connected to: that of this machine itself where the listener takes any.
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
                return Exchange::open(&listen.name, path, routing, ours, adoption).map(Self::Exchange);
            }
            ListenAddress::Tcp(address) | ListenAddress::Udp(address) => *address,
        };
        let wanted = Wanted {
            name: listen.name.clone(),
            listen: listen.address.clone(),
            address,
            v6_only: address.is_ipv6() && setup.listens.iter().any(|other| has_v4_of(&other.address, &listen.address)),
        };
        let kept = Kept::take(&wanted, ours);
        let group = if kept.is_empty() {
            Group::open(&wanted, routing)?
        } else {
            Group::adopt(&wanted, kept, routing, store, adoption)?
        };
        Ok(Self::Group(Box::new(group)))
    }

    /// Removes the files of sockets that did not exist before.
    fn unlink_new(&self) {
        if let Self::Exchange(exchange) = self
            && exchange.is_new()
        {
            exchange.unlink();
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Group(group) => group.name(),
            Self::Exchange(exchange) => exchange.name(),
        }
    }

    fn bound(&self) -> ListenAddress {
        match self {
            Self::Group(group) => group.bound(),
            Self::Exchange(exchange) => exchange.bound(),
        }
    }

    fn slot(&self, slot: Slot) -> &OwnedFd {
        match self {
            Self::Group(group) => group.slot(slot),
            Self::Exchange(exchange) => exchange.slot(slot),
        }
    }
}

/// Refuses names and addresses that would get in each other's way.
fn check(setup: Setup<'_>) -> Result<(), OpenError> {
    for (n, listen) in setup.listens.iter().enumerate() {
        let name = &listen.name;
        // What `LISTEN_FDNAMES` allows, and no `/`, which separates the parts of a label.
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

/// Whether both would get the same connections. The system allows an address beside "all addresses", but then who asks for which
/// decides by details that nobody has in mind.
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

/// Whether `one` is of IP version 4 and has the port and kind of `other`.
fn has_v4_of(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) | (ListenAddress::Udp(one), ListenAddress::Udp(other)) => {
            one.is_ipv4() && one.port() != 0 && one.port() == other.port()
        }
        _ => false,
    }
}
