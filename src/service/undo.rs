//! Undoes a start that fails, so that it leaves nothing behind.

use std::sync::{Arc, Mutex};

use super::fdstore::{SharedStore, StoredFds};
use super::sync::lock;
use crate::process;
use crate::runtime::keeper::INSTANCE_PREFIX;
use crate::runtime::table::{Entry, InstanceTable};
use crate::runtime::traffic::Traffic;
use crate::tap::TapLink;

/// The things that a start has made so far. If it is dropped before [`Undo::disarm`], it removes what only this start has
/// made:
///
/// | an earlier instance lives | the store had descriptors | removed |
/// |---|---|---|
/// | no | either | the files of the Unix sockets, the tap, and the store: the keeper process exits |
/// | yes | no | the store alone, because this start has made it; the instance still uses the sockets |
/// | yes | yes | nothing |
pub struct Undo {
    /// The store to remove. `None` if there is nothing to undo.
    store: Option<SharedStore>,
    /// The listeners, once the start has opened them.
    traffic: Option<Arc<Mutex<Traffic>>>,
    /// The tap that an earlier supervisor has left.
    tap: Option<TapLink>,
    /// Whether an instance of an earlier supervisor lives.
    has_live_instance: bool,
}

impl Undo {
    /// For a start that uses `store`. `stored` are the descriptors that were found in it.
    pub fn new(store: &SharedStore, stored: &StoredFds, table: &InstanceTable) -> Self {
        // A process of the same user may have removed the table. So an instance that the store knows counts as alive.
        let is_stored = stored.iter().any(|(name, _)| name.starts_with(INSTANCE_PREFIX));
        let has_live_instance = is_stored || table.entries().iter().any(lives);
        let store = (!has_live_instance || stored.is_empty()).then(|| store.clone());
        Self { store, traffic: None, tap: None, has_live_instance }
    }

    /// Adds the listeners that the start has opened.
    pub fn add_listeners(&mut self, traffic: &Arc<Mutex<Traffic>>) {
        self.traffic = Some(traffic.clone());
    }

    /// Adds the tap that an earlier supervisor has left.
    pub fn add_tap(&mut self, tap: Option<&TapLink>) {
        self.tap = tap.cloned();
    }

    /// The start has succeeded: nothing is undone.
    pub fn disarm(mut self) {
        self.store = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(store) = &self.store else { return };
        if let Some(traffic) = self.traffic.as_ref().filter(|_| !self.has_live_instance) {
            lock(traffic).unlink();
        }
        if let Some(tap) = self.tap.as_ref().filter(|_| !self.has_live_instance) {
            tap.end();
        }
        // The reason of the failed start is reported elsewhere. An error of the store is ignored, because that error would
        // not help an operator.
        let _ = lock(store).finish();
    }
}

/// Whether the process of an instance lives.
pub fn lives(entry: &Entry) -> bool {
    let Some(stat) = entry.pid.and_then(process::stat) else { return false };
    !stat.is_zombie() && entry.start_ticks.is_none_or(|start| start == stat.start_ticks)
}
