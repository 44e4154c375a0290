//! The listening sockets at the start. They come from the store, or, if supervisor and keeper were both killed, from
//! the instances.

use super::error::StartError;
use super::fdstore::{SharedStore, StoredFds};
use super::instances::ids::slot_of;
use super::instances::logpipe;
use super::logger;
use super::sync::lock;
use super::tap_watch;
use super::undo::lives;
use crate::config::Config;
use crate::lifecycle::{self, Slot};
use crate::runtime::logs;
use crate::runtime::table::{Entry, InstanceTable};
use crate::runtime::traffic::{Holder, OpenError, Refused, Routing, Setup, Traffic, recover_from_instances};
use crate::state::paths::Paths;
use crate::tap::{self, TapProcess};

/// Opens the listeners, or takes them over. Also returns whether descriptors were recovered from instances; the store
/// must then be given them.
///
/// # Errors
/// When another process uses an address, or an instance has it and rei may not copy its descriptors.
pub fn listen(
    config: &Config,
    paths: &Paths,
    routing: Option<lifecycle::Routing>,
    table: &InstanceTable,
    stored: &mut StoredFds,
    store: &SharedStore,
) -> Result<(Traffic, bool), StartError> {
    let private = paths.private();
    let setup = Setup {
        listens: &config.runtime.listen,
        interface: config.health.interface.as_ref().map(|_| private.as_path()),
    };
    let before = stored.len();
    if !stored.iter().any(|(name, _)| name == logger::NAME) {
        // An old logger still reads the pipes of the instances, and without the connection no new supervisor can
        // control it.
        logs::stop_loggers(&paths.logs());
    }
    let taps = match stored.iter().any(|(name, _)| name == tap_watch::NAME) {
        true => Vec::new(),
        // Without its connection nothing leads to a tap. It releases its listeners, and relays what it has to the end.
        false => tap::find(paths.state()),
    };
    let refused = recover_missing(setup, table, &taps, stored);
    taps.iter().for_each(TapProcess::release);
    let recovered = stored.len() > before;
    let routing = routing.map_or(Routing::All(Slot::A.into()), Into::into);
    let adopted = Traffic::adopt(setup, routing, stored, &mut **lock(store));
    let (traffic, adoption) = adopted.map_err(|error| cannot_listen(error, &refused))?;
    for lost in &adoption.lost {
        tracing::warn!(lost, "a listening socket was lost with the supervisor and is opened anew");
    }
    if adoption.moved {
        tracing::error!("a process tampered with a listener while no supervisor ran; the listener is repaired");
    }
    Ok((traffic, recovered))
}

/// Adds to `stored` the missing descriptors of living instances: their listening sockets, and the pipes for their output.
/// Their messages to the service manager arrive at a socket that is bound again under its old name. Returns the
/// instances whose descriptors rei may not copy.
fn recover_missing(
    setup: Setup<'_>,
    table: &InstanceTable,
    taps: &[TapProcess],
    stored: &mut StoredFds,
) -> Vec<Refused> {
    let entries: Vec<Entry> = table.entries().into_iter().filter(lives).collect();
    let holder = |entry: &Entry| {
        Some(Holder { pid: entry.pid?, start_ticks: entry.start_ticks, slot: Some(slot_of(&entry.id).into()) })
    };
    let holders: Vec<Holder> = entries.iter().filter_map(holder).collect();
    let before = stored.len();
    let refused = recover_from_instances(setup, &holders, stored);
    // A tap of rei's own user may refuse. Then its sockets are opened anew after it has released them.
    let of_tap = |tap: &TapProcess| Holder { pid: tap.pid, start_ticks: None, slot: None };
    let _ = recover_from_instances(setup, &taps.iter().map(of_tap).collect::<Vec<_>>(), stored);
    if stored.len() > before {
        tracing::warn!("supervisor and keeper ended, so the listening sockets are recovered from the instances");
    }
    for entry in entries {
        let name = logpipe::name(&entry.id);
        let has_one = stored.iter().any(|(known, _)| *known == name || known == logpipe::NEXT);
        if let Some(pipe) = entry.pid.filter(|_| !has_one).and_then(logs::reopen) {
            stored.push((name, pipe));
        }
    }
    refused
}

/// Why listeners cannot be opened, with the instance that holds them if it is known.
fn cannot_listen(source: OpenError, refused: &[Refused]) -> StartError {
    match refused.first() {
        Some(refused) if matches!(source, OpenError::InUse { .. } | OpenError::Strangers { .. }) => {
            StartError::Held { pid: refused.holder.pid, why: refused.why.to_string(), source }
        }
        _ => StartError::Listen(source),
    }
}
