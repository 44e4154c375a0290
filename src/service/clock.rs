//! The one clock of the supervisor.

use std::time::Instant;

use crate::time::{Timestamp, millis};

/// Wall time that never goes back: read once, then carried on by the monotonic clock.
///
/// A step of the machine's clock must not fire or postpone deadlines. After a restart the wall clock is read again, and
/// never taken as earlier than the journal's last record.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    read_at: Instant,
}

impl Clock {
    /// A clock that is at least at `not_before`.
    pub fn starting(not_before: Timestamp) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp::from_unix_ms(millis(since_epoch));
        Self { wall: wall.max(not_before), read_at: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.wall.plus_ms(millis(self.read_at.elapsed()))
    }

    /// When `at` comes, for a sleeping task.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.read_at + std::time::Duration::from_millis(at.ms_since(self.wall))
    }
}
