//! What the instance of each slot said of itself last: why it is not ready, and how long it asks to be waited for.

use std::time::{Duration, Instant};

use crate::lifecycle::Slot;

/// What the instances said. It is kept until a deadline is due, so an instance that asks for more time twice a second costs a
/// record only when a deadline would have passed.
#[derive(Debug, Default)]
pub struct Reports {
    not_ready: [Option<String>; 2],
    extended: [Option<(String, Instant)>; 2],
}

impl Reports {
    /// A new instance starts in a slot.
    pub fn forget(&mut self, slot: Slot) {
        self.not_ready[slot.index()] = None;
    }

    /// The last probe of an instance that starts failed, for this reason.
    pub fn is_not_ready(&mut self, slot: Slot, why: String) {
        self.not_ready[slot.index()] = Some(why);
    }

    /// Why the instance of a slot was not ready at its last probe.
    pub fn not_ready(&self, slot: Slot) -> Option<&str> {
        self.not_ready[slot.index()].as_deref()
    }

    /// The instance with this id asks for so much more time from now on.
    pub fn extends(&mut self, slot: Slot, id: &str, by: Duration) {
        self.extended[slot.index()] = Some((id.to_owned(), Instant::now() + by));
    }

    /// The time that is left of what the instance of a slot has asked for; nothing if another instance has asked. It is asked
    /// for once: if the lifecycle does not wait longer then, its deadline is due at once.
    pub fn take_extension(&mut self, slot: Slot, id: Option<&str>) -> Option<Duration> {
        let (asked, until) = self.extended[slot.index()].take()?;
        let left = until.saturating_duration_since(Instant::now());
        (id == Some(&*asked) && !left.is_zero()).then_some(left)
    }
}
