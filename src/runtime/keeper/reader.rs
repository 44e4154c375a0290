//! Drains the output of instances if no other process of rei reads it, just enough that they do not block.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::runtime::logs::{MEMORY_SUFFIX, Memory, PIPE_PREFIX, StandIn, Unread, Watch, relieve};

/// The pause between checks of the pipes.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between checks after a pipe was drained: the instance prints a lot, and no other process reads.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// How long after the last drain the short pause is used.
const CLOSE: Duration = Duration::from_secs(1);

/// Which other processes could read, as far as the keeper knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// A supervisor is connected. It replaces a hanging logger within a second or two, but it may hang itself.
    Supervisor,
    /// There is only a logger, which may hang.
    Logger,
    /// There is no other reader.
    Nobody,
}

impl Others {
    /// Number of checks in a row without progress before the keeper drains a full pipe.
    fn looks(self) -> u32 {
        match self {
            Self::Supervisor => 5,
            Self::Logger => 3,
            Self::Nobody => 0,
        }
    }
}

/// The state of earlier checks.
pub(super) struct Reader {
    watches: BTreeMap<String, Watch>,
    next: Instant,
    /// The short pause is used until this time.
    close_until: Instant,
}

impl Reader {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { watches: BTreeMap::new(), next: now, close_until: now }
    }

    /// The time until the next check.
    pub(super) fn pause(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Checks the pipes among these descriptors, and drains those that fill up and that no other process reads.
    pub(super) fn look(&mut self, entries: &[(&str, BorrowedFd<'_>)], others: Others) {
        let mut watches = std::mem::take(&mut self.watches);
        for (name, pipe) in entries.iter().filter(|(name, _)| name.starts_with(PIPE_PREFIX)) {
            let memory = format!("{name}{MEMORY_SUFFIX}");
            let memory = entries.iter().find(|(known, _)| *known == memory);
            // The name is a memory itself, or a pipe of an older rei without a memory: then nothing could be counted.
            let Some(Ok(memory)) = memory.map(|(_, memory)| memory.try_clone_to_owned()) else { continue };
            let memory = Memory::of(memory);
            let mut watch = watches.remove(*name).unwrap_or_default();
            let found = watch.look(*pipe, &memory, StandIn::Keeper);
            self.watches.insert((*name).to_owned(), watch);
            if matches!(found, Unread::Fills(looks) if looks >= others.looks())
                && relieve(*pipe, &memory, StandIn::Keeper).is_ok_and(|dropped| dropped > 0)
            {
                self.close_until = Instant::now() + CLOSE;
            }
        }
        let now = Instant::now();
        self.next = now + if now < self.close_until { CLOSE_LOOK } else { LOOK };
    }
}
