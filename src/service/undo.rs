//! A start that fails leaves nothing behind.

use std::sync::{Arc, Mutex};

use super::fdstore::{SharedStore, StoredFds};
use super::sync::lock;
use crate::process;
use crate::runtime::keeper::INSTANCE_PREFIX;
use crate::runtime::table::{Entry, InstanceTable};
use crate::runtime::traffic::Traffic;

/// What a start has made so far. Dropped before [`Undo::disarm`], it closes the listeners and ends the keeper; but where an
/// instance of an earlier supervisor lives, and the store had something of it, all that stays.
pub struct Undo {
    store: Option<SharedStore>,
    traffic: Option<Arc<Mutex<Traffic>>>,
    /// An instance of an earlier supervisor lives.
    lives: bool,
}

impl Undo {
    /// Of a start that has a store, which had this.
    pub fn new(store: &SharedStore, kept: &StoredFds, table: &InstanceTable) -> Self {
        // The table may have been removed: a process that the store knows counts as one that lives.
        let is_known = kept.iter().any(|(name, _)| name.starts_with(INSTANCE_PREFIX));
        let lives = is_known || table.entries().iter().any(lives);
        Self { store: (!lives || kept.is_empty()).then(|| store.clone()), traffic: None, lives }
    }

    /// It has listeners as well.
    pub fn listens(&mut self, traffic: &Arc<Mutex<Traffic>>) {
        self.traffic = Some(traffic.clone());
    }

    /// The start has succeeded: what there is is looked after.
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
        // Why the start failed is told; a store that does not answer has nothing for anybody.
        let _ = lock(store).finish();
    }
}

/// Whether the process of an instance is there.
pub fn lives(entry: &Entry) -> bool {
    let Some(stat) = entry.pid.and_then(process::stat) else { return false };
    !stat.is_zombie() && entry.start_ticks.is_none_or(|start| start == stat.start_ticks)
}
