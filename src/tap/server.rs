//! The process of the tap: one thread that accepts, relays, counts and copies what is ordered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{MsgFlags, SockFlag, SockType, accept4, getpeername, getsockopt, send, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal as on_signal};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::capture::Captures;
use super::dial;
use super::exchange;
use super::handover;
use super::observer::{Observer, count_unreached};
use super::relay::{CHUNK_BYTES, relay, reset_at_close};
use super::wire::{ALL_NAMED, CAPTURE, END, Gauges, HOLD, LISTEN, REPORT_BYTES_MAX, Report};
use crate::live::Sample;
use crate::poll::is_ready;
use crate::runtime::keeper::wire::{self, Packet};
use crate::runtime::traffic::{Slot, marked_socket};

/// The pause between two reports.
const REPORT_PAUSE: Duration = Duration::from_millis(250);
/// Reports between two beats without news: one second.
const BEAT_REPORTS: u32 = 4;
/// The most connections that are relayed at once. Each takes two descriptors and a few kibibytes.
const CONNECTIONS_MAX: u64 = 16_384;
/// Descriptors that are no connections: listeners, the supervisor's connection, the event loop.
const OTHER_FDS: u64 = 320;
/// If connections wait in the queue of a slot for this number of such looks, no instance serves the slot.
const WAITS_MAX: u32 = 6;
/// The pause before the next try to accept, if there is no place for another connection.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// The pause between two looks at the slots by a tap without a supervisor.
const ALONE_PAUSE: Duration = Duration::from_secs(5);
/// Connections that are accepted before relays get their turn.
const ACCEPTS_MAX: usize = 32;

/// Runs the tap with its standard input as the connection to the supervisor. It exits when the supervisor ends the
/// service, or after its last relay if another tap takes over.
///
/// It ignores termination signals: it must outlive its supervisor. It is not dumpable, so that no process of its user can
/// read what users send.
///
/// Call it only while the process has one thread.
pub fn tap_main() -> ExitCode {
    let begun = detach().and_then(|()| io::stdin().as_fd().try_clone_to_owned());
    match begun.and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        // It has no place to write to. The supervisor sees its end.
        Err(_) => ExitCode::FAILURE,
    }
}

fn detach() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // SAFETY: this runs before any code of this process has opened a descriptor, so no owner of a closed descriptor
    // exists here.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // With fewer descriptors it relays fewer connections.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    // The process name is used by `ps`, and by a supervisor that looks for a lost tap.
    let _ = prctl::set_name(handover::NAME);
    Ok(())
}

/// Runs the tap on this thread until it is not needed any more.
///
/// # Errors
/// If there are no free descriptors.
pub fn serve(connection: OwnedFd) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, Tap::new().run(connection))
}

/// What all connections share.
struct Tap {
    samples: [RefCell<Sample>; 2],
    captures: Captures,
    gauges: Cell<Gauges>,
    connections_max: u64,
    /// The addresses of the tap's own connections to instances, with their slots. A client with such an address is the
    /// tap itself: if the sockets of the slot are gone and no supervisor is there, the kernel leads the tap's connections
    /// back to it.
    own: RefCell<HashMap<SocketAddr, Slot>>,
    /// Slots whose sockets are gone.
    lost: Cell<[bool; 2]>,
    /// Connections without a client, by which a tap without a supervisor looks if the slots are there.
    probes: RefCell<Vec<(Slot, OwnedFd, SocketAddr)>>,
    buffer: RefCell<Vec<u8>>,
    listeners: RefCell<Vec<Listening>>,
    /// Sockets of slots that are only held, and those that were named since the last [`ALL_NAMED`].
    held: RefCell<Vec<(Slot, OwnedFd)>>,
    named: RefCell<Vec<(Slot, OwnedFd)>>,
    /// For each slot, the looks for which connections have waited in its queue.
    waits: Cell<[u32; 2]>,
    /// A relay has ended, or a listener was released.
    changed: Notify,
}

/// A listener of the tap.
struct Listening {
    key: (Slot, String),
    cookie: u64,
    /// Whether the supervisor has named it since the last [`ALL_NAMED`].
    is_named: bool,
    target: Target,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where connections of a listener lead.
#[derive(Clone)]
struct Target {
    slot: Slot,
    listener: Rc<str>,
    address: SocketAddr,
    field: u8,
}

impl Tap {
    fn new() -> Rc<Self> {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Rc::new(Self {
            samples: Default::default(),
            captures: Captures::new(),
            gauges: Cell::default(),
            connections_max: CONNECTIONS_MAX.min(soft.saturating_sub(OTHER_FDS) / 2).max(1),
            own: RefCell::default(),
            lost: Cell::default(),
            probes: RefCell::default(),
            buffer: RefCell::new(vec![0; CHUNK_BYTES]),
            listeners: RefCell::default(),
            held: RefCell::default(),
            named: RefCell::default(),
            waits: Cell::default(),
            changed: Notify::new(),
        })
    }

    async fn run(self: Rc<Self>, connection: OwnedFd) -> io::Result<()> {
        // SAFETY: the descriptor is open. The new value owns it, and no other code closes it.
        let connection = unsafe { AsyncFd::register_with_interest(connection, Interest::READABLE) }?;
        let mut handover = on_signal(SignalKind::from_raw(handover::SIGNAL as i32))?;
        let mut ticks = tokio::time::interval(REPORT_PAUSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut quiet, mut told, mut is_alone, mut hands_over) = (BEAT_REPORTS, Gauges::default(), false, false);
        let mut looked = Instant::now();
        loop {
            if is_alone && self.lost.get() == [true; 2] {
                self.listeners.borrow_mut().clear();
                self.held.borrow_mut().clear();
            }
            let is_unused = self.listeners.borrow().is_empty() && self.gauges.get().open == 0;
            if is_unused && (hands_over || is_alone) {
                return Ok(());
            }
            tokio::select! {
                ready = connection.readable(), if !is_alone => {
                    let mut ready = ready?;
                    match wire::receive(connection.get_ref(), MsgFlags::MSG_DONTWAIT) {
                        Ok(Some(packet)) if packet.kind == LISTEN && !hands_over => self.listen(packet),
                        Ok(Some(packet)) if packet.kind == HOLD && !hands_over => {
                            let slot = Slot::ALL.into_iter().find(|slot| packet.text.ends_with(&format!("/{slot}")));
                            self.named.borrow_mut().extend(slot.into_iter().zip(packet.fds));
                        }
                        Ok(Some(packet)) if packet.kind == CAPTURE => {
                            // Orders of another version of rei that cannot be read are none.
                            self.captures.order(serde_json::from_str(&packet.text).unwrap_or_default());
                        }
                        Ok(Some(packet)) if packet.kind == ALL_NAMED => self.release_unnamed(),
                        Ok(Some(packet)) if packet.kind == END => return Ok(()),
                        Ok(Some(_)) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        // Neither a supervisor nor a store is there. The kernel still sends connections here, so the tap
                        // serves them until the next supervisor takes over.
                        Ok(None) | Err(_) => is_alone = true,
                    }
                }
                _ = ticks.tick() => {
                    quiet += 1;
                    let gauges = Gauges { copies: self.captures.counts(), ..self.gauges.get() };
                    if quiet >= BEAT_REPORTS || gauges.is_full != told.is_full {
                        send_report(connection.get_ref(), &Report::Beat(gauges));
                        (quiet, told) = (0, gauges);
                    }
                    if is_alone && looked.elapsed() >= ALONE_PAUSE {
                        looked = Instant::now();
                        self.probe_slots();
                    }
                    self.send_samples(connection.get_ref());
                    self.captures.send(|waiting| exchange::send(connection.get_ref(), waiting));
                }
                _ = handover.recv() => {
                    hands_over = true;
                    self.listeners.borrow_mut().clear();
                    self.named.borrow_mut().clear();
                    self.held.borrow_mut().clear();
                    handover::announce();
                }
                () = self.changed.notified() => {}
            }
        }
    }

    fn listen(self: &Rc<Self>, packet: Packet) {
        let mut lines = packet.text.lines();
        let (Some(slot), Some(name), Some(address), Some(field)) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return;
        };
        let Some(slot) = Slot::ALL.into_iter().find(|known| known.to_string() == slot) else { return };
        let (Ok(address), Ok(field)) = (address.parse(), field.parse()) else { return };
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(packet.fds) else { return };
        let is_listener = getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream)
            && getsockopt(&fd, sockopt::AcceptConn) == Ok(true);
        let Some(cookie) = cookie(&fd).filter(|_| is_listener) else { return };
        let key = (slot, name.to_owned());
        let mut listeners = self.listeners.borrow_mut();
        if let Some(known) = listeners.iter_mut().find(|known| known.key == key && known.cookie == cookie) {
            known.is_named = true;
            return;
        }
        // SAFETY: the descriptor is open. The new value owns it, and no other code closes it.
        let Ok(fd) = (unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }) else { return };
        let target = Target { slot, listener: name.into(), address, field };
        let task = spawn_local(Rc::clone(self).accept(fd, target.clone()));
        listeners.push(Listening { key, cookie, is_named: true, target, task });
    }

    fn release_unnamed(&self) {
        *self.held.borrow_mut() = self.named.take();
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listening| listening.is_named);
        listeners.iter_mut().for_each(|listening| listening.is_named = false);
    }

    /// Accepts connections at one listener.
    ///
    /// For each client the connection to the instance is begun first, and only then the client is taken. So at every
    /// instant a client is in the queue of the tap, or its connection is in the queue of the slot or beyond. A process that looks
    /// at both queues in this order misses no client, and does not stop an instance too early. And if there is no
    /// descriptor or no port, the client stays in the queue, where another tap can take it.
    async fn accept(self: Rc<Self>, listener: AsyncFd<OwnedFd>, target: Target) {
        loop {
            let Ok(mut ready) = listener.readable().await else { return };
            for _ in 0..ACCEPTS_MAX {
                if is_ready(listener.as_fd(), PollFlags::POLLIN) == Ok(false) {
                    self.set_full(false);
                    ready.clear_ready();
                    break;
                }
                let has_place = self.gauges.get().open < self.connections_max;
                let Some((socket, own)) = has_place.then(|| connect(&target).ok()).flatten() else {
                    self.set_full(true);
                    tokio::time::sleep(FULL_PAUSE).await;
                    break;
                };
                self.own.borrow_mut().insert(own, target.slot);
                match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                    Ok(fd) => {
                        // SAFETY: `accept4` has just created this descriptor, and no other code owns it.
                        let client = unsafe { OwnedFd::from_raw_fd(fd) };
                        self.set_full(false);
                        self.begin(client, socket, own, &target);
                    }
                    Err(error) => {
                        self.own.borrow_mut().remove(&own);
                        // The others mean that the client has gone, or that another tap has taken it.
                        if matches!(error, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) {
                            self.set_full(true);
                            tokio::time::sleep(FULL_PAUSE).await;
                            break;
                        }
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Begins to relay between a client and the connection to the instance.
    fn begin(self: &Rc<Self>, client: OwnedFd, socket: OwnedFd, own: SocketAddr, target: &Target) {
        self.change(|gauges| gauges.accepted += 1);
        let peer = getpeername(client.as_raw_fd()).ok().and_then(|storage| dial::address(&storage));
        let lost = peer.and_then(|peer| self.own.borrow().get(&peer).copied());
        if let Some(lost) = lost {
            // The client is the tap itself.
            self.lose(lost);
            self.own.borrow_mut().remove(&own);
            [&client, &socket].into_iter().for_each(reset_at_close);
            return;
        }
        self.change(|gauges| gauges.open += 1);
        spawn_local(Rc::clone(self).carry(client, socket, own, target.clone()));
    }

    /// Relays one connection to its end.
    async fn carry(self: Rc<Self>, client: OwnedFd, socket: OwnedFd, own: SocketAddr, target: Target) {
        let _place = Place { tap: &self, own };
        let Target { slot, listener, .. } = target;
        let sample = &self.samples[index(slot)];
        let observer = Observer::new(sample, self.captures.of(slot), listener);
        let (Ok(client), Ok(service)) = (TcpStream::from_std(client.into()), TcpStream::from_std(socket.into())) else {
            return;
        };
        let connected = tokio::select! {
            connected = dial::connected(&service) => connected,
            // The client has reset the connection before the instance's queue had a place.
            _ = client.ready(Interest::ERROR) => return reset_at_close(&service),
        };
        if connected.is_err() {
            reset_at_close(&client);
            self.change(|gauges| gauges.unreached += 1);
            count_unreached(sample);
            return;
        }
        let mut observer = observer;
        let outcome = relay(client, service, &self.buffer, &mut observer).await;
        observer.end(outcome);
    }

    fn lose(&self, slot: Slot) {
        let mut lost = self.lost.get();
        lost[index(slot)] = true;
        self.lost.set(lost);
        self.changed.notify_one();
    }

    /// Without a supervisor, no process says when the service has ended. So the tap connects to each slot now and then. If the
    /// connection fails, comes back, or waits for too long, no instance serves the slot. An instance sees a connection
    /// without a byte. If no slot is served, the tap ends.
    fn probe_slots(&self) {
        let mut waits = self.waits.get();
        for slot in Slot::ALL {
            let held = self.held.borrow();
            let mut queues = held.iter().filter(|(of, _)| *of == slot);
            let is_waiting = queues.any(|(_, fd)| is_ready(fd.as_fd(), PollFlags::POLLIN) == Ok(true));
            waits[index(slot)] = if is_waiting { waits[index(slot)] + 1 } else { 0 };
            if waits[index(slot)] > WAITS_MAX {
                self.lose(slot);
            }
        }
        self.waits.set(waits);
        for (slot, fd, own) in self.probes.take() {
            self.own.borrow_mut().remove(&own);
            if getsockopt(&fd, sockopt::SocketError) != Ok(0) {
                self.lose(slot);
            }
        }
        for target in self.listeners.borrow().iter().map(|listening| &listening.target) {
            match connect(target) {
                Ok((fd, own)) => {
                    self.own.borrow_mut().insert(own, target.slot);
                    self.probes.borrow_mut().push((target.slot, fd, own));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.lose(target.slot),
                // For the lack of a descriptor or a port nothing is known.
                Err(_) => {}
            }
        }
    }

    fn change(&self, act: impl FnOnce(&mut Gauges)) {
        let mut gauges = self.gauges.get();
        act(&mut gauges);
        self.gauges.set(gauges);
    }

    fn set_full(&self, is_full: bool) {
        self.change(|gauges| gauges.is_full = is_full);
    }

    /// Sends what was counted. If the supervisor does not take it, it is kept and added to: a sample has a bound.
    fn send_samples(&self, connection: &OwnedFd) {
        for slot in Slot::ALL {
            let sample = &self.samples[index(slot)];
            if sample.borrow().is_empty() {
                continue;
            }
            let report = Report::Sample { slot, sample: sample.take() };
            if !send_report(connection, &report)
                && let Report::Sample { sample: kept, .. } = report
            {
                *sample.borrow_mut() = kept;
            }
        }
    }
}

/// The place of a relay, given back however it ends.
struct Place<'t> {
    tap: &'t Tap,
    own: SocketAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.tap.own.borrow_mut().remove(&self.own);
        self.tap.change(|gauges| gauges.open = gauges.open.saturating_sub(1));
        self.tap.changed.notify_one();
    }
}

const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

/// Begins a connection to the instance of a slot. Also returns the address that it comes from.
fn connect(target: &Target) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = marked_socket(target.address, target.field)?;
    let own = dial::begin(&socket, target.address)?;
    Ok((socket, own))
}

/// Sends a report without waiting. Returns false if it is to be tried again.
fn send_report(connection: &OwnedFd, report: &Report) -> bool {
    let Ok(text) = serde_json::to_vec(report) else { return true };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // A report beyond the bound would never be sent: it is dropped.
    text.len() > REPORT_BYTES_MAX
        || !matches!(send(connection.as_raw_fd(), &text, flags), Err(error) if error != Errno::EMSGSIZE)
}

fn cookie(fd: &OwnedFd) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|stat| stat.st_ino)
}

/// Makes space for the largest report.
pub(super) fn size_buffers(fd: &OwnedFd) {
    // The kernel's own maximum applies; with less, large reports are dropped.
    let _ = setsockopt(fd, sockopt::SndBuf, &(2 * REPORT_BYTES_MAX));
}
