//! Watches the tap, decides how much goes through it, and replaces it if it is lost or hangs.
//!
//! The kernel's program chooses the tap only while it is known to work. Everything else about a tap that does not work can
//! wait: users' connections go to the instances without it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::capture::Captures;
use super::fdstore::{SharedStore, StoredFds};
use super::input::{Input, Inputs, TapNews};
use super::sync::{AbortOnDrop, lock};
use super::tap_share::{Share, wanted};
use super::tools::Tools;
use crate::config::Tap;
use crate::golden::Captured;
use crate::live::Sample;
use crate::report::chain;
use crate::runtime::traffic::{Slot, Taps, Traffic};
use crate::tap::{Gauges, Orders, Report, TapLink, find};

/// The name of the connection to the tap in the descriptor store. The number in it is the version of the protocol. A
/// supervisor with another version starts a tap of its own.
pub const NAME: &str = "tap/2";
/// The prefix of such names of all versions.
const PREFIX: &str = "tap/";
/// The pause before the next tap is started, if the last one could not be started or ended within this time.
const RETRY: Duration = Duration::from_secs(5);
/// If the tap sends no beat for this number of looks (one each second), rei takes it as hung. It sends one each second.
const LOOKS_MAX: u32 = 3;
/// If connections wait for a tap that is full for this number of looks, another tap takes them.
const FULL_LOOKS_MAX: u32 = 2;
/// The largest body of an exchange after it was decoded, in bytes. A replay takes no larger answer.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Copied exchanges that wait for the supervisor's loop.
const EXCHANGES_MAX: usize = 4;

/// What a tap has seen of the instance in a slot.
pub enum Seen {
    /// What its users got.
    Sample(Slot, Sample),
    /// A whole exchange; `None` if a body of it cannot be decoded.
    Exchange(Slot, Option<Box<Captured>>),
}

/// The watch on the tap of a service.
pub struct TapWatch {
    exe: PathBuf,
    link: Option<Link>,
    /// The number of the present tap.
    number: u64,
    /// Whether a tap is being started.
    is_starting: bool,
    /// When the present tap was found or started.
    since: Instant,
    shares: [Share; 2],
    /// When the shares were last adapted.
    adapted: Instant,
    /// The count of replaced sockets when the tap got its sockets.
    replacements: u64,
    /// The orders that the tap has.
    orders: Orders,
}

/// A living tap.
struct Link {
    tap: TapLink,
    _reader: AbortOnDrop<()>,
    /// What it said last; `None` before its first beat: it is not known to work yet.
    gauges: Option<Gauges>,
    looks_without_beat: u32,
    full_looks: u32,
}

/// The tap that an earlier supervisor has left, if it lives.
pub fn left(stored: &mut StoredFds, store: &SharedStore) -> Option<TapLink> {
    for (name, _) in stored.iter().filter(|(name, _)| name.starts_with(PREFIX) && name != NAME) {
        // Its tap was asked to leave when the listeners were taken over.
        if let Err(error) = lock(store).remove(name) {
            tracing::warn!(error = %chain(&error), name, "the descriptor store did not remove the connection of an old tap");
        }
    }
    let at = stored.iter().position(|(name, _)| name == NAME)?;
    Some(TapLink::of(stored.swap_remove(at).1)).filter(|tap| !tap.is_gone())
}

impl TapWatch {
    /// Watches nothing yet.
    pub fn new(exe: PathBuf, tap: &Tap) -> Self {
        let (now, shares) = (Instant::now(), [Share::starting(tap.share); 2]);
        let (link, orders) = (None, Orders::default());
        Self { exe, link, number: 0, is_starting: false, since: now, shares, adapted: now, replacements: 0, orders }
    }

    /// Begins with the tap that an earlier supervisor has left, or starts one, if a listener is tapped or connections of
    /// an earlier supervisor wait for one.
    pub fn begin(
        &mut self,
        left: Option<TapLink>,
        traffic: &Mutex<Traffic>,
        store: &SharedStore,
        tools: &Arc<Tools>,
        inputs: &Inputs,
    ) {
        match left {
            Some(tap) => self.take(tap, traffic, store, inputs),
            None => self.start_if_needed(Duration::ZERO, traffic, tools, inputs),
        }
    }

    /// The connection to the present tap.
    pub fn link(&self) -> Option<&TapLink> {
        self.link.as_ref().map(|link| &link.tap)
    }

    /// What the present tap said last.
    pub fn gauges(&self) -> Option<Gauges> {
        self.link.as_ref().and_then(|link| link.gauges)
    }

    /// The present share of the connections of a slot that go through the tap.
    pub fn share(&self, slot: Slot) -> f64 {
        self.shares[usize::from(slot == Slot::B)].present()
    }

    /// Ends the tap, because the service ends.
    pub fn end(&self) {
        if let Some(link) = &self.link {
            link.tap.end();
        }
    }

    /// Gives the connection to a store.
    pub fn store(&self, store: &SharedStore) {
        let Some(link) = &self.link else { return };
        let stored = link.tap.copy().map_err(Into::into).and_then(|copy| lock(store).store(NAME, copy.as_fd()));
        if let Err(error) = stored {
            tracing::warn!(error = %chain(&error), "the next supervisor will not find the tap");
        }
    }

    /// Handles news. Returns what the tap has seen.
    pub fn on_news(
        &mut self,
        news: TapNews,
        traffic: &Mutex<Traffic>,
        store: &SharedStore,
        tools: &Arc<Tools>,
        inputs: &Inputs,
    ) -> Option<Seen> {
        match news {
            TapNews::Started(Ok(tap)) => {
                self.is_starting = false;
                self.take(tap, traffic, store, inputs);
            }
            TapNews::Started(Err(error)) => {
                tracing::error!(%error, "cannot start the tap: users' requests are not seen by it");
                self.start_if_needed(RETRY, traffic, tools, inputs);
            }
            TapNews::Report(number, report) if number == self.number => return self.on_report(*report, traffic, tools),
            TapNews::Ended(number) if number == self.number => {
                tracing::error!("the tap has ended, with the connections that it relayed; another one is started");
                self.renew(traffic, tools, inputs);
            }
            TapNews::Captured { tap, slot, exchange, .. } if tap == self.number => {
                return Some(Seen::Exchange(slot, exchange));
            }
            TapNews::Report(..) | TapNews::Captured { .. } | TapNews::Ended(_) => {}
        }
        None
    }

    fn on_report(&mut self, report: Report, traffic: &Mutex<Traffic>, tools: &Tools) -> Option<Seen> {
        match report {
            Report::Sample { slot, sample } => {
                let requests = sample.total().total().saturating_add(sample.connections.ended);
                self.shares[usize::from(slot == Slot::B)].saw(requests);
                Some(Seen::Sample(slot, sample))
            }
            Report::Captured { slot, captured } => Some(Seen::Exchange(slot, Some(Box::new(captured)))),
            Report::Beat(gauges) => {
                let link = self.link.as_mut()?;
                link.looks_without_beat = 0;
                let before = link.gauges.replace(gauges);
                if before.is_none_or(|before| before.is_full != gauges.is_full) {
                    self.route(traffic, &tools.config.traffic.tap);
                }
                None
            }
        }
    }

    /// Called once a second: adapts the shares, replaces a tap that hangs or is full, and repeats what it copies.
    pub fn look(
        &mut self,
        in_trial: bool,
        captures: &Captures,
        traffic: &Mutex<Traffic>,
        tools: &Arc<Tools>,
        inputs: &Inputs,
    ) {
        let tap = &tools.config.traffic.tap;
        let (elapsed, before) = (self.adapted.elapsed(), self.shares.map(Share::present));
        self.adapted = Instant::now();
        let orders = captures.orders();
        let per_second = [&orders.a, &orders.b].map(|order| order.as_ref().map_or(0, |order| order.per_second));
        Share::adapt_both(&mut self.shares, elapsed, tap.share, per_second.map(|copied| wanted(in_trial, copied)));
        self.order(orders);
        if let Some(tap) = self.link().cloned().filter(|_| lock(traffic).replacements() != self.replacements) {
            self.give_sockets(&tap, traffic);
        }
        let Some(link) = &mut self.link else {
            self.start_if_needed(Duration::ZERO, traffic, tools, inputs);
            return;
        };
        link.looks_without_beat += 1;
        let waits = || lock(traffic).tap_backlog().is_ok_and(|waiting| waiting > 0);
        let is_stuck = link.gauges.is_some_and(|gauges| gauges.is_full) && waits();
        link.full_looks = if is_stuck { link.full_looks + 1 } else { 0 };
        if link.looks_without_beat > LOOKS_MAX {
            tracing::error!("the tap does not work any more and is replaced");
            self.renew(traffic, tools, inputs);
        } else if link.full_looks > FULL_LOOKS_MAX {
            tracing::warn!("the tap has no place for more connections: another one takes those that wait");
            self.renew(traffic, tools, inputs);
        } else if self.shares.map(Share::present) != before {
            self.route(traffic, tap);
        }
    }

    /// Says what the tap copies. It forgets orders that are not repeated.
    pub fn order(&mut self, orders: Orders) {
        if (orders == Orders::default() && orders == self.orders) || self.link.is_none() {
            return;
        }
        // On failure the next look repeats it.
        if self.link().is_some_and(|tap| tap.order(&orders).is_ok()) {
            self.orders = orders;
        }
    }

    /// Uses the configuration that was read again.
    pub fn configure(&mut self, traffic: &Mutex<Traffic>, tools: &Arc<Tools>, inputs: &Inputs) {
        self.shares = [Share::starting(tools.config.traffic.tap.share); 2];
        self.route(traffic, &tools.config.traffic.tap);
        self.start_if_needed(Duration::ZERO, traffic, tools, inputs);
    }

    /// Sends the present shares of new connections to the tap, or none while no tap is known to work.
    fn route(&self, traffic: &Mutex<Traffic>, tap: &Tap) {
        let works = self.gauges().is_some_and(|gauges| !gauges.is_full);
        let shares = Taps { a: self.shares[0].present(), b: self.shares[1].present() };
        let shares = if works { shares } else { Taps::NONE };
        if let Err(error) = lock(traffic).tap(shares, |listen| tap.takes(listen)) {
            tracing::error!(error = chain(&error), "cannot change what goes through the tap");
        }
    }

    /// Watches a tap that was found or started.
    fn take(&mut self, tap: TapLink, traffic: &Mutex<Traffic>, store: &SharedStore, inputs: &Inputs) {
        self.number += 1;
        self.since = Instant::now();
        self.give_sockets(&tap, traffic);
        let reader = AbortOnDrop(tokio::spawn(read(tap.clone(), self.number, inputs.clone())));
        self.link = Some(Link { tap, _reader: reader, gauges: None, looks_without_beat: 0, full_looks: 0 });
        self.store(store);
    }

    fn give_sockets(&mut self, tap: &TapLink, traffic: &Mutex<Traffic>) {
        let traffic = lock(traffic);
        self.replacements = traffic.replacements();
        if let Err(error) = tap.serve(&traffic) {
            tracing::warn!(%error, "cannot give the tap its listeners");
        }
    }

    /// Replaces the present tap. Connections that wait for it are taken by the next one.
    fn renew(&mut self, traffic: &Mutex<Traffic>, tools: &Arc<Tools>, inputs: &Inputs) {
        self.link = None;
        self.number += 1;
        self.route(traffic, &tools.config.traffic.tap);
        let after = if self.since.elapsed() > RETRY { Duration::ZERO } else { RETRY };
        // Some connections may wait for a tap, whatever is configured now.
        self.start(after, tools, inputs);
    }

    fn start_if_needed(&mut self, after: Duration, traffic: &Mutex<Traffic>, tools: &Arc<Tools>, inputs: &Inputs) {
        let traffic = lock(traffic);
        let tap = &tools.config.traffic.tap;
        let is_tapped = traffic.addresses().iter().any(|listen| tap.takes(listen));
        let is_needed = is_tapped || traffic.tap_backlog().is_ok_and(|waiting| waiting > 0);
        drop(traffic);
        if is_needed && self.link.is_none() && !self.is_starting {
            self.start(after, tools, inputs);
        }
    }

    /// Starts a tap. One that still has the listeners releases them first.
    fn start(&mut self, after: Duration, tools: &Arc<Tools>, inputs: &Inputs) {
        self.is_starting = true;
        let (inputs, directory, exe) = (inputs.clone(), tools.paths.state().to_owned(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let begin = move || {
                find(&directory).iter().for_each(crate::tap::TapProcess::release);
                let (tap, pid) = TapLink::start(&exe, &directory)?;
                tracing::debug!(pid, "the tap is started");
                Ok(tap)
            };
            // A panic is already logged. The send fails only when the supervisor stops.
            if let Ok(started) = tokio::task::spawn_blocking(begin).await {
                let _ = inputs.send(Input::Tap(TapNews::Started(started))).await;
            }
        });
    }
}

/// Reads the reports of a tap. If the loop is busy, they wait in the tap, which adds them up. Copied exchanges become plain
/// here, beside the loop.
async fn read(tap: TapLink, number: u64, inputs: Inputs) {
    let watched = tap.copy().and_then(|copy| {
        // SAFETY: the descriptor is open. The new value owns it, and no other code closes it.
        unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }.map_err(Into::into)
    });
    let Ok(watched) = watched else { return };
    let places = Arc::new(Semaphore::new(EXCHANGES_MAX));
    loop {
        let news = match tap.report() {
            Ok(Some(Report::Captured { slot, captured })) => {
                // No code closes the semaphore, so this always succeeds.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                TapNews::Captured { tap: number, slot, exchange: plain(captured).await, place }
            }
            Ok(Some(report)) => TapNews::Report(number, Box::new(report)),
            Ok(None) => match watched.readable().await {
                Ok(mut ready) => {
                    // Bytes that came since the look above make it ready again.
                    if tap.is_quiet() {
                        ready.clear_ready();
                    }
                    continue;
                }
                Err(_) => return,
            },
            Err(_) => TapNews::Ended(number),
        };
        let is_last = matches!(news, TapNews::Ended(_));
        // The send fails only when the supervisor stops.
        if inputs.send(Input::Tap(news)).await.is_err() || is_last {
            return;
        }
    }
}

async fn plain(exchange: Captured) -> Option<Box<Captured>> {
    let plain = if exchange.is_coded() {
        // A panic is already logged.
        tokio::task::spawn_blocking(move || exchange.plain(BODY_BYTES_MAX)).await.ok()?
    } else {
        exchange.plain(BODY_BYTES_MAX)
    };
    plain.map(Box::new).inspect_err(|error| tracing::debug!(error = chain(error), "a copied exchange is dropped")).ok()
}
