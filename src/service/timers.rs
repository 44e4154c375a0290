//! The timers that the lifecycle has set by its effects.

use std::collections::BTreeMap;

use crate::lifecycle::Timer;
use crate::time::Timestamp;

/// The timers of a service. There is at most one of each name.
#[derive(Debug, Default)]
pub struct Timers(BTreeMap<Timer, Timestamp>);

impl Timers {
    /// Restores the timers that an earlier supervisor has set.
    pub fn restored(set: impl IntoIterator<Item = (Timer, Timestamp)>) -> Self {
        Self(set.into_iter().collect())
    }

    /// Sets a timer. A timer with the same name is replaced.
    pub fn set(&mut self, timer: Timer, at: Timestamp) {
        self.0.insert(timer, at);
    }

    /// Unsets a timer. If it is not set, nothing happens.
    pub fn clear(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// The timer that is due first, and its time.
    pub fn first(&self) -> Option<(Timer, Timestamp)> {
        self.0.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_timer_is_due_until_it_is_cleared_or_set_again() {
        let at = Timestamp::from_unix_ms;
        let mut timers = Timers::restored([(Timer::Phase, at(5)), (Timer::Window, at(3))]);
        assert_eq!(timers.first(), Some((Timer::Window, at(3))));
        timers.set(Timer::Window, at(9));
        assert_eq!(timers.first(), Some((Timer::Phase, at(5))));
        timers.clear(Timer::Phase);
        timers.clear(Timer::Phase);
        assert_eq!(timers.first(), Some((Timer::Window, at(9))));
        timers.clear(Timer::Window);
        assert_eq!(timers.first(), None);
    }
}
