//! Drains the output of instances if no other process of rei reads it, just enough that they do not block.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::runtime::logs::{FallbackReader, MEMORY_SUFFIX, Memory, PIPE_PREFIX, PipeWatch, Unread, drain_excess};

/// The pause between checks of the pipes.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// The pause between checks after a pipe was drained: the instance prints a lot, and no other process reads.
const SHORT_PAUSE: Duration = Duration::from_millis(50);
/// How long after the last drain the short pause is used.
const SHORT_PAUSE_FOR: Duration = Duration::from_secs(1);

/// Which other processes could read, as far as the keeper knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherReaders {
    /// A supervisor is connected. It replaces a hanging logger within a second or two, but it may hang itself.
    Supervisor,
    /// There is only a logger, which may hang.
    Logger,
    /// There is no other reader.
    Nobody,
}

impl OtherReaders {
    /// Number of checks in a row without progress before the keeper drains a full pipe.
    fn checks_before_drain(self) -> u32 {
        match self {
            Self::Supervisor => 5,
            Self::Logger => 3,
            Self::Nobody => 0,
        }
    }
}

/// The state of earlier checks.
pub(super) struct Reader {
    watches: BTreeMap<String, PipeWatch>,
    next: Instant,
    /// The short pause is used until this time.
    short_until: Instant,
}

impl Reader {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { watches: BTreeMap::new(), next: now, short_until: now }
    }

    /// The time until the next check.
    pub(super) fn pause(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Checks the pipes among these descriptors, and drains those that fill up and that no other process reads.
    pub(super) fn check(&mut self, entries: &[(&str, BorrowedFd<'_>)], others: OtherReaders) {
        let mut watches = std::mem::take(&mut self.watches);
        for (name, pipe) in entries.iter().filter(|(name, _)| name.starts_with(PIPE_PREFIX)) {
            let memory = format!("{name}{MEMORY_SUFFIX}");
            let memory = entries.iter().find(|(known, _)| *known == memory);
            // The name is a memory itself, or a pipe of an older rei without a memory: then nothing could be counted.
            let Some(Ok(memory)) = memory.map(|(_, memory)| memory.try_clone_to_owned()) else { continue };
            let memory = Memory::of(memory);
            let mut watch = watches.remove(*name).unwrap_or_default();
            let found = watch.check(*pipe, &memory, FallbackReader::Keeper);
            self.watches.insert((*name).to_owned(), watch);
            if matches!(found, Unread::Fills(checks) if checks >= others.checks_before_drain())
                && drain_excess(*pipe, &memory, FallbackReader::Keeper).is_ok_and(|dropped| dropped > 0)
            {
                self.short_until = Instant::now() + SHORT_PAUSE_FOR;
            }
        }
        let now = Instant::now();
        self.next = now + if now < self.short_until { SHORT_PAUSE } else { CHECK_PAUSE };
    }
}
