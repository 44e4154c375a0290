//! The journal as the service uses it: records, snapshots, and the retries while the journal cannot be written.

use std::time::{Duration, Instant};

use crate::history::entry::Entry;
use crate::journal::{self, Journal, Reserve};
use crate::lifecycle::Lifecycle;
use crate::report::chain;
use crate::state::paths::Paths;
use crate::time::Timestamp;

/// The pause before the next try to record an event, after a try failed.
const RETRY: Duration = Duration::from_secs(1);

/// The number of records between two snapshots of the state. A restart replays at most this many.
const SNAPSHOT_EVERY: u64 = 256;

/// The journal's sealed head is synced after this number of looks without a record, so a burst of records is synced
/// once. If records come without any pause, the kernel writes the head back within half a minute.
const SYNC_LOOKS: u32 = 1;

/// The state while the journal cannot be written.
struct Stalled {
    /// The reason, with the next step.
    why: String,
    again_at: Instant,
}

/// The journal, and its condition.
pub struct Ledger {
    journal: Journal<Entry>,
    stalled: Option<Stalled>,
    since_snapshot: u64,
    /// Looks since the last record; [`Self::look`] counts them.
    looks_since_record: u32,
    /// Whether the journal lacked space at the last look.
    lacks_space: bool,
}

impl Ledger {
    /// Wraps an open journal.
    pub const fn new(journal: Journal<Entry>) -> Self {
        Self { journal, stalled: None, since_snapshot: 0, looks_since_record: 0, lacks_space: false }
    }

    /// Writes a record to disk and returns its number.
    ///
    /// # Errors
    /// When the record cannot be written. The journal is then unchanged.
    pub fn append(&mut self, at: Timestamp, entry: &Entry) -> Result<u64, journal::Error> {
        let seq = self.journal.append(at, entry)?.seq;
        self.looks_since_record = 0;
        self.since_snapshot += 1;
        Ok(seq)
    }

    /// The number of the last record.
    pub fn last_seq(&self) -> u64 {
        self.journal.last_seq()
    }

    /// Whether the number of records since the last snapshot makes another one due.
    pub const fn wants_snapshot(&self) -> bool {
        self.since_snapshot >= SNAPSHOT_EVERY
    }

    /// Stores the state, so that the next start replays only the records after it.
    pub fn snapshot(&mut self, state: &Lifecycle) {
        self.since_snapshot = 0;
        if let Err(error) = self.journal.snapshot(state) {
            tracing::warn!(error = %chain(&error), "cannot write a snapshot; a restart takes longer");
        }
    }

    /// An event could not be recorded. The next try is one second later.
    pub fn stall(&mut self, why: String) {
        if self.stalled.as_ref().is_none_or(|stalled| stalled.why != why) {
            tracing::error!("Active continues to serve, and nothing is decided: {why}");
        }
        self.stalled = Some(Stalled { why, again_at: Instant::now() + RETRY });
    }

    /// An event was recorded.
    pub fn resume(&mut self) {
        if self.stalled.take().is_some() {
            tracing::info!("the journal can be written again; rei now decides about the events that waited");
        }
    }

    /// Why the journal cannot be written; `None` while it can.
    pub fn stalled(&self) -> Option<&str> {
        self.stalled.as_ref().map(|stalled| &*stalled.why)
    }

    /// The time of the next try to record an event that could not be recorded.
    pub fn again_at(&self) -> Option<Instant> {
        self.stalled.as_ref().map(|stalled| stalled.again_at)
    }

    /// Whether the pause before the next try is still running.
    pub fn is_waiting(&self) -> bool {
        self.again_at().is_some_and(|at| Instant::now() < at)
    }

    /// The number of looks since the last record.
    pub const fn looks_since_record(&self) -> u32 {
        self.looks_since_record
    }

    /// Called once a second. It syncs the sealed head after a burst of records, and logs a lack of space.
    pub fn look(&mut self, paths: &Paths) {
        self.looks_since_record = self.looks_since_record.saturating_add(1);
        if self.looks_since_record == SYNC_LOOKS {
            self.sync_head();
        }
        if self.looks_since_record == SYNC_LOOKS || self.lacks_space {
            self.look_at_space(paths);
        }
    }

    /// Writes the journal's sealed head to disk. The loop does not wait, because only a power failure makes this write
    /// necessary.
    fn sync_head(&mut self) {
        if let Some(why) = self.journal.head_failure() {
            tracing::warn!(why, "the journal's head is behind: lost records would not be noticed");
        }
        if let Some(head) = self.journal.head_to_sync() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = head.sync_data() {
                    tracing::warn!(%error, "cannot sync the journal's sealed head");
                }
            });
        }
    }

    /// Logs once, when the lack begins, that the journal lacks space. A rollback needs that space for its records.
    fn look_at_space(&mut self, paths: &Paths) {
        let mut lacks = Vec::new();
        if let Reserve::Shrinking { bytes, reason } = self.journal.reserve() {
            lacks.push(format!(
                "no space can be reserved for its next records, {bytes} bytes are left of the reserve: {reason}"
            ));
        }
        if let Some(reason) = self.journal.rotation_failure() {
            lacks.push(format!("no new file can be started, and the full file grows: {reason}"));
        }
        let lacked = std::mem::replace(&mut self.lacks_space, !lacks.is_empty());
        match (lacked, lacks.is_empty()) {
            (false, false) => tracing::warn!(
                directory = %paths.journal().display(),
                "the journal lacks space, and without it nothing can be decided; free space there: {}",
                lacks.join("; ")
            ),
            (true, true) => tracing::info!("the journal has enough space again"),
            (false, true) | (true, false) => {}
        }
    }
}
