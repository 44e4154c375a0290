//! The one clock of the supervisor.

use std::time::Instant;

use crate::time::{Timestamp, millis};

/// Wall time that never goes back: it is read once, and then the monotonic clock advances it.
///
/// If the machine's clock is set, no deadline may fire early or late. After a restart the wall clock is read again. If
/// it is earlier than the journal's last record, the time of that record is used.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    read_at: Instant,
}

impl Clock {
    /// A clock that starts at `not_before` or later.
    pub fn starting(not_before: Timestamp) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp::from_unix_ms(millis(since_epoch));
        Self { wall: wall.max(not_before), read_at: Instant::now() }
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        self.wall.plus_ms(millis(self.read_at.elapsed()))
    }

    /// The instant of `at`, for a task that sleeps until then.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.read_at + std::time::Duration::from_millis(at.ms_since(self.wall))
    }
}
