//! The listening sockets at the start: out of the store, or, if supervisor and keeper were both killed, out of the instances.

use super::error::StartError;
use super::fdstore::{SharedStore, StoredFds};
use super::instances::ids::slot_of;
use super::instances::logpipe;
use super::logger;
use super::sync::lock;
use super::undo::lives;
use crate::config::Config;
use crate::lifecycle::{self, Slot};
use crate::runtime::logs;
use crate::runtime::table::{Entry, InstanceTable};
use crate::runtime::traffic::{Holder, OpenError, Refused, Routing, Setup, Traffic, recover_from_instances};
use crate::state::paths::Paths;

/// Opens the listeners, or takes them over. Says whether something came out of instances, which the store must be given.
///
/// # Errors
/// When somebody else has an address, or an instance that may not be asked.
pub fn listen(
    config: &Config,
    paths: &Paths,
    routing: Option<lifecycle::Routing>,
    table: &InstanceTable,
    kept: &mut StoredFds,
    store: &SharedStore,
) -> Result<(Traffic, bool), StartError> {
    let private = paths.private();
    let setup = Setup {
        listens: &config.runtime.listen,
        interface: config.health.interface.as_ref().map(|_| private.as_path()),
    };
    let before = kept.len();
    if !kept.iter().any(|(name, _)| name == logger::NAME) {
        // It reads the pipes of the instances, and no new supervisor could speak to it.
        logs::stop_loggers(&paths.logs());
    }
    let refused = regain(setup, table, kept);
    let regained = kept.len() > before;
    let routing = routing.map_or(Routing::All(Slot::A.into()), Into::into);
    let adopted = Traffic::adopt(setup, routing, kept, &mut **lock(store));
    let (traffic, adoption) = adopted.map_err(|error| cannot_listen(error, &refused))?;
    for lost in &adoption.lost {
        tracing::warn!(lost, "a listening socket was lost with the supervisor and is opened anew");
    }
    if adoption.moved {
        tracing::error!("a listener was tampered with while no supervisor ran; it is in order again");
    }
    Ok((traffic, regained))
}

/// Adds to `kept` what it lacks of the instances that live: their listening sockets, and the pipes that they print to. What they
/// say to the service manager comes to a socket that is bound anew under its old name. Gives those that may not be asked.
fn regain(setup: Setup<'_>, table: &InstanceTable, kept: &mut StoredFds) -> Vec<Refused> {
    let entries: Vec<Entry> = table.entries().into_iter().filter(lives).collect();
    let holder = |entry: &Entry| {
        Some(Holder { pid: entry.pid?, start_ticks: entry.start_ticks, slot: slot_of(&entry.id).into() })
    };
    let holders: Vec<Holder> = entries.iter().filter_map(holder).collect();
    let before = kept.len();
    let refused = recover_from_instances(setup, &holders, kept);
    if kept.len() > before {
        tracing::warn!("the listening sockets were lost with supervisor and keeper; the instances have them still");
    }
    for entry in entries {
        let name = logpipe::name(&entry.id);
        let has_one = kept.iter().any(|(known, _)| *known == name || known == logpipe::NEXT);
        if let Some(pipe) = entry.pid.filter(|_| !has_one).and_then(logs::reopen) {
            kept.push((name, pipe));
        }
    }
    refused
}

/// Why listeners cannot be opened, with who has them where that is known.
fn cannot_listen(source: OpenError, refused: &[Refused]) -> StartError {
    match refused.first() {
        Some(refused) if matches!(source, OpenError::InUse { .. } | OpenError::Strangers { .. }) => {
            StartError::Held { pid: refused.holder.pid, why: refused.why.to_string(), source }
        }
        _ => StartError::Listen(source),
    }
}
