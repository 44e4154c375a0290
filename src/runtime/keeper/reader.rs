//! What instances print, read where nobody else of rei is left who does: so much that they can go on.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::runtime::logs::{MEMORY_SUFFIX, Memory, PIPE_PREFIX, StandIn, Unread, Watch, relieve};

/// The pause between looks at the pipes.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between looks after a pipe was emptied: the instance prints a lot, and nobody reads.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// How long it is looked so closely after the last time.
const CLOSE: Duration = Duration::from_secs(1);

/// Who else could read, as far as the keeper knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// A supervisor is connected: it replaces a logger that hangs within a second or two. It may hang itself.
    Supervisor,
    /// A logger alone, which may hang.
    Logger,
    /// Nobody.
    Nobody,
}

impl Others {
    /// Looks between which nobody reads a pipe that fills, until the keeper does.
    fn looks(self) -> u32 {
        match self {
            Self::Supervisor => 5,
            Self::Logger => 3,
            Self::Nobody => 0,
        }
    }
}

/// What earlier looks have found.
pub(super) struct Reader {
    watches: BTreeMap<String, Watch>,
    next: Instant,
    /// Until when it is looked closely.
    close_until: Instant,
}

impl Reader {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { watches: BTreeMap::new(), next: now, close_until: now }
    }

    /// How long until the next look.
    pub(super) fn pause(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks at the pipes among these descriptors and their names, and empties those that fill and that nobody reads.
    pub(super) fn look(&mut self, entries: &[(&str, BorrowedFd<'_>)], others: Others) {
        let mut watches = std::mem::take(&mut self.watches);
        for (name, pipe) in entries.iter().filter(|(name, _)| name.starts_with(PIPE_PREFIX)) {
            let memory = format!("{name}{MEMORY_SUFFIX}");
            let memory = entries.iter().find(|(known, _)| *known == memory);
            // A memory itself, or a pipe of a rei that knew of none: nothing could be counted.
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
