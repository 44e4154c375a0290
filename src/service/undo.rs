//! Undoes a start that fails, so that it leaves nothing behind.

use std::sync::{Arc, Mutex};

use super::fdstore::{SharedStore, StoredFds};
use super::sync::lock;
use crate::process;
use crate::runtime::keeper::INSTANCE_PREFIX;
use crate::runtime::table::{Entry, InstanceTable};
use crate::runtime::traffic::Traffic;

/// The things that a start has made so far. If it is dropped before [`Undo::disarm`], it closes the listeners and ends
/// the keeper. But if an instance of an earlier supervisor lives and the store had descriptors, the keeper and the
/// listeners stay.
pub struct Undo {
    store: Option<SharedStore>,
    traffic: Option<Arc<Mutex<Traffic>>>,
    /// Whether an instance of an earlier supervisor lives.
    lives: bool,
}

impl Undo {
    /// For a start with this store, in which `stored` was found.
    pub fn new(store: &SharedStore, stored: &StoredFds, table: &InstanceTable) -> Self {
        // The table may have been removed: a process that the store knows counts as one that lives.
        let is_known = stored.iter().any(|(name, _)| name.starts_with(INSTANCE_PREFIX));
        let lives = is_known || table.entries().iter().any(lives);
        Self { store: (!lives || stored.is_empty()).then(|| store.clone()), traffic: None, lives }
    }

    /// Adds the listeners that the start has opened.
    pub fn listens(&mut self, traffic: &Arc<Mutex<Traffic>>) {
        self.traffic = Some(traffic.clone());
    }

    /// The start has succeeded: nothing is undone.
    pub fn disarm(mut self) {
        self.store = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(store) = &self.store else { return };
        if let Some(traffic) = self.traffic.as_ref().filter(|_| !self.lives) {
            lock(traffic).unlink();
        }
        // The reason of the failed start is reported elsewhere. An error of the store is ignored, because an operator
        // could not use it.
        let _ = lock(store).finish();
    }
}

/// Whether the process of an instance lives.
pub fn lives(entry: &Entry) -> bool {
    let Some(stat) = entry.pid.and_then(process::stat) else { return false };
    !stat.is_zombie() && entry.start_ticks.is_none_or(|start| start == stat.start_ticks)
}
