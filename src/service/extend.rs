//! An instance asks for more time: the word is kept until a deadline is due, and told to the lifecycle then.
//!
//! So a service that asks twice a second costs a record each time that a deadline would have passed, and none before.

use std::time::{Duration, Instant};

use super::policy::GRACE;
use super::shell::Shell;
use crate::lifecycle::{Event, RunState, Slot, Timer};
use crate::time::millis;

impl Shell {
    /// The instance in a slot asks for so much more time from now on.
    pub(super) fn extends(&mut self, slot: Slot, id: &str, by: Duration) {
        // The end of an instance has a bound of its own, which passes first.
        let grace = if self.core.slot(slot).run == RunState::Stopping { GRACE } else { Duration::ZERO };
        self.extended[slot.index()] = Some((id.to_owned(), Instant::now() + by + grace));
    }

    /// A timer is due, unless it is a phase's and an instance has asked for more time.
    pub(super) fn on_due(&mut self, timer: Timer) {
        let (now, before) = (Instant::now(), self.pending.len());
        for slot in Slot::ALL.into_iter().filter(|_| timer == Timer::Phase) {
            // Taken: if the lifecycle does not wait longer for it, the timer is due at once again.
            let Some((id, until)) = self.extended[slot.index()].take() else { continue };
            let left = until.saturating_duration_since(now);
            if self.occupants.id(slot) == Some(&*id) && !left.is_zero() {
                let by_ms = millis(left);
                self.pending.push_back(Event::Extended { slot, by_ms });
            }
        }
        if self.pending.len() == before {
            self.pending.push_back(Event::Due(timer));
        }
    }
}
