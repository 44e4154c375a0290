//! The last report of the instance in each slot: why it is not ready, how much more time it asks for, and what was found
//! of the requests that it serves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::lifecycle::Slot;
use crate::live::Source;

/// The last reports of the instances. A request for more time is kept until a deadline is due. So an instance that asks
/// twice a second causes a journal record only if a deadline would have passed.
#[derive(Debug, Default)]
pub struct Reports {
    not_ready: [Option<String>; 2],
    extended: [Option<(String, Instant)>; 2],
    found: [BTreeMap<Source, String>; 2],
}

impl Reports {
    /// Removes the reason of the instance before: a new instance starts in the slot.
    pub fn forget(&mut self, slot: Slot) {
        self.not_ready[slot.index()] = None;
        self.found[slot.index()].clear();
    }

    /// Notes why the last probe of a starting instance failed.
    pub fn is_not_ready(&mut self, slot: Slot, why: String) {
        self.not_ready[slot.index()] = Some(why);
    }

    /// Why the instance of a slot was not ready at its last probe.
    pub fn not_ready(&self, slot: Slot) -> Option<&str> {
        self.not_ready[slot.index()].as_deref()
    }

    /// Notes what a source found of users' requests, and what not.
    pub fn has_found(&mut self, slot: Slot, source: Source, found: String) {
        self.found[slot.index()].insert(source, found);
    }

    /// What each source found of users' requests, and what not.
    pub fn found(&self, slot: Slot) -> &BTreeMap<Source, String> {
        &self.found[slot.index()]
    }

    /// Notes that the instance with this id asks for this much more time from now on.
    pub fn extends(&mut self, slot: Slot, id: &str, by: Duration) {
        self.extended[slot.index()] = Some((id.to_owned(), Instant::now() + by));
    }

    /// Takes the rest of the time that the instance in a slot asked for; `None` if another instance asked. The request
    /// is removed: if the lifecycle does not wait longer for it, the deadline is due at once.
    pub fn take_extension(&mut self, slot: Slot, id: Option<&str>) -> Option<Duration> {
        let (asked, until) = self.extended[slot.index()].take()?;
        let left = until.saturating_duration_since(Instant::now());
        (id == Some(&*asked) && !left.is_zero()).then_some(left)
    }
}
