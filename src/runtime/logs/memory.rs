//! The newest output of an instance and the counters of its log, in a memory file that logger, supervisor and keeper
//! share. It belongs to the instance's pipe, and exists as long as one of these processes has it.
//!
//! | bytes | content | writer |
//! |---|---|---|
//! | 0 to 63 | the [`Head`] | the logger |
//! | 64 to 71 | number of bytes that the supervisor read as a fallback, and dropped | the supervisor |
//! | 72 to 79 | number of bytes that the keeper read as a fallback, and dropped | the keeper |
//! | 80 to 87 | number of bytes of the instance that the disk has accepted or refused | the logger's writer thread |
//! | from 128 | a ring of [`MEMORY_BYTES`] | the logger |
//!
//! Each part has one writer. `sequence` is odd while the logger writes, so that a reader can detect an inconsistent
//! read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::shared::Shared;

/// Size of the newest output that is kept in memory, in bytes.
pub const MEMORY_BYTES: usize = 64 << 10;

const HEAD_BYTES: usize = 64;

/// Offset of the number of bytes that the disk has accepted or refused.
const COMPLETED_AT: u64 = 80;

/// Offset of the ring, in bytes.
const RING_AT: usize = 128;

/// Maximum attempts to read a consistent state. The reader does not wait for a logger that is stopped in the middle of
/// a write.
const READ_TRIES: u32 = 64;

/// The counters of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Number of bytes that the instance printed.
    pub read_bytes: u64,
    /// How many of them are not in the files: they were too fast for the log or the disk, the disk refused them, or the
    /// logger did not read them.
    pub dropped_bytes: u64,
    /// The last error of the disk, if it has refused a write.
    pub write_error: Option<String>,
}

/// A process that reads a pipe in place of the logger, and drops what it reads. Each has its own counter, so that no
/// two processes write the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackReader {
    /// The supervisor, until another logger is there.
    Supervisor,
    /// The keeper, while there is no supervisor, or one that hangs.
    Keeper,
}

impl FallbackReader {
    const ALL: [Self; 2] = [Self::Supervisor, Self::Keeper];

    /// The offset of its counter.
    fn at(self) -> u64 {
        let nth = match self {
            Self::Supervisor => 0,
            Self::Keeper => 1,
        };
        (HEAD_BYTES + 8 * nth) as u64
    }
}

/// The head of the memory file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    sequence: u64,
    /// Number of bytes that were ever written to the ring.
    written: u64,
    pub(super) read_bytes: u64,
    pub(super) dropped_bytes: u64,
    /// The errno of the last error of the disk, or 0.
    pub(super) errno: u64,
    /// 1 if all writers have closed the pipe and everything in it was read.
    finished: u64,
    /// Number of bytes that fallback readers dropped and that are already included in `read_bytes` and `dropped_bytes`.
    merged: u64,
    /// Number of bytes that were given to the writer thread.
    pub(super) given_bytes: u64,
}

impl Head {
    fn bytes(self) -> [u8; HEAD_BYTES] {
        let words = [
            self.sequence,
            self.written,
            self.read_bytes,
            self.dropped_bytes,
            self.errno,
            self.finished,
            self.merged,
            self.given_bytes,
        ];
        let mut bytes = [0; HEAD_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn of(bytes: [u8; HEAD_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            sequence: word(0),
            written: word(1),
            read_bytes: word(2),
            dropped_bytes: word(3),
            errno: word(4),
            finished: word(5),
            merged: word(6),
            given_bytes: word(7),
        }
    }
}

/// The memory file of one log.
#[derive(Debug)]
pub struct Memory(Shared);

impl Memory {
    /// Makes an empty one.
    ///
    /// # Errors
    /// If there are no free descriptors or no memory.
    pub fn new() -> io::Result<Self> {
        Shared::new(c"rei-log", (RING_AT + MEMORY_BYTES) as u64).map(Self)
    }

    /// A memory file that came from another process.
    pub fn of(fd: OwnedFd) -> Self {
        Self(Shared::of(fd))
    }

    /// Another handle of the same memory.
    ///
    /// # Errors
    /// If there are no free descriptors.
    pub fn share(&self) -> io::Result<Self> {
        self.0.share().map(Self)
    }

    /// True if no logger has written to it.
    pub(super) fn is_empty(&self) -> bool {
        self.head().written == 0
    }

    /// Counts bytes that this fallback reader dropped. Only that process may call this.
    pub(super) fn count_dropped(&self, by: FallbackReader, bytes: u64) {
        self.0.set_word(by.at(), self.dropped_by(by).saturating_add(bytes));
    }

    fn dropped_by(&self, by: FallbackReader) -> u64 {
        self.0.word(by.at())
    }

    /// Number of bytes of the instance that the disk has accepted or refused.
    pub(super) fn completed(&self) -> u64 {
        self.0.word(COMPLETED_AT)
    }

    /// Stores how many bytes the disk has accepted or refused so far. Only the writer thread may call this.
    pub(super) fn set_completed(&self, bytes: u64) {
        self.0.set_word(COMPLETED_AT, bytes);
    }

    fn dropped_by_all(&self) -> u64 {
        FallbackReader::ALL.into_iter().map(|by| self.dropped_by(by)).fold(0, u64::saturating_add)
    }

    /// A number that changes when a reader with priority over `by` reads the pipe: the logger, and for the keeper also
    /// the supervisor.
    pub(super) fn progress(&self, by: FallbackReader) -> u64 {
        let logger = self.head().read_bytes;
        match by {
            FallbackReader::Supervisor => logger,
            FallbackReader::Keeper => logger.wrapping_add(self.dropped_by(FallbackReader::Supervisor)),
        }
    }

    /// Writes earlier output into the memory, before any other process has it.
    pub(super) fn begin_with(&self, bytes: &[u8]) -> io::Result<()> {
        Recorder::of(self.share()?).put(bytes);
        Ok(())
    }

    fn head(&self) -> Head {
        let mut bytes = [0; HEAD_BYTES];
        self.0.read(0, &mut bytes);
        Head::of(bytes)
    }

    fn ring(&self, written: u64) -> Vec<u8> {
        let capacity = MEMORY_BYTES as u64;
        let mut bytes = vec![0; written.min(capacity) as usize];
        let from = if written > capacity { written % capacity } else { 0 };
        let (old, new) = bytes.split_at_mut(((capacity - from) as usize).min(written as usize));
        self.0.read(RING_AT as u64 + from, old);
        self.0.read(RING_AT as u64, new);
        bytes
    }

    /// The newest output.
    pub(super) fn recent(&self) -> Vec<u8> {
        for _ in 0..READ_TRIES {
            let before = self.head();
            let bytes = self.ring(before.written);
            if before.sequence.is_multiple_of(2) && self.head() == before {
                return bytes;
            }
            std::thread::yield_now();
        }
        // An inconsistent text is better than none.
        self.ring(self.head().written)
    }

    /// The counters so far.
    pub(super) fn stats(&self) -> LogStats {
        let head = self.head();
        let error = i32::try_from(head.errno).ok().filter(|errno| *errno != 0);
        // Bytes that the logger does not know about yet.
        let more = self.dropped_by_all().saturating_sub(head.merged);
        LogStats {
            read_bytes: head.read_bytes + more,
            dropped_bytes: head.dropped_bytes + more,
            write_error: error.map(|errno| io::Error::from_raw_os_error(errno).to_string()),
        }
    }

    /// True if no more output will come.
    pub(super) fn is_finished(&self) -> bool {
        self.head().finished == 1
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The writer's side.
pub(super) struct Recorder {
    memory: Memory,
    head: Head,
}

impl Recorder {
    /// Continues where an earlier writer stopped, if there was one.
    pub(super) fn of(memory: Memory) -> Self {
        let mut head = memory.head();
        head.sequence += head.sequence % 2;
        head.finished = 0;
        Self { memory, head }
    }

    /// Continues in another memory. Call [`Recorder::merge_dropped`] before.
    pub(super) fn move_to(&mut self, memory: Memory) {
        if self.memory.0.is(&memory.0) {
            return;
        }
        let bytes = self.memory.recent();
        self.memory = memory;
        (self.head.written, self.head.merged) = (0, 0);
        self.put(&bytes);
    }

    /// The number of bytes that fallback readers have dropped since the last call. From now on they are included in
    /// `read_bytes`, and the caller adds them to `dropped_bytes`.
    pub(super) fn merge_dropped(&mut self) -> u64 {
        let all = self.memory.dropped_by_all();
        let more = all.saturating_sub(self.head.merged);
        self.head.merged = all;
        self.head.read_bytes += more;
        more
    }

    /// The number of bytes that an earlier logger has read, but that the disk never got, because the logger was killed.
    /// The caller adds them to `dropped_bytes`.
    pub(super) fn merge_lost(&mut self) -> u64 {
        let completed = self.memory.completed();
        let lost = self.head.given_bytes.saturating_sub(completed);
        self.head.given_bytes = completed;
        lost
    }

    /// The head, to be changed. It is published by the next [`Recorder::put`] or [`Recorder::publish`].
    pub(super) fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    /// Appends bytes, and publishes the head.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.head.sequence += 1;
        self.write(0, &self.head.bytes());
        self.head.written += bytes.len().saturating_sub(MEMORY_BYTES) as u64;
        let bytes = &bytes[bytes.len().saturating_sub(MEMORY_BYTES)..];
        let at = (self.head.written % MEMORY_BYTES as u64) as usize;
        let (here, again) = bytes.split_at((MEMORY_BYTES - at).min(bytes.len()));
        self.write(RING_AT + at, here);
        self.write(RING_AT, again);
        self.head.written += bytes.len() as u64;
        self.head.sequence += 1;
        self.write(0, &self.head.bytes());
    }

    /// Publishes the head.
    pub(super) fn publish(&mut self) {
        self.head.sequence += 2;
        self.write(0, &self.head.bytes());
    }

    /// Publishes that no more output will come.
    pub(super) fn finish(&mut self) {
        self.head.finished = 1;
        self.publish();
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        // Without memory the output is still in the files.
        self.memory.0.write(at as u64, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Memory, Recorder) {
        let memory = Memory::new().unwrap();
        let theirs = memory.share().unwrap();
        (memory, Recorder::of(theirs))
    }

    #[test]
    fn the_newest_output_is_kept_for_any_size_of_pieces() {
        let (memory, mut recorder) = both();
        let mut all = Vec::new();
        for (n, length) in
            [1, 100, MEMORY_BYTES - 101, 5, MEMORY_BYTES, 3 * MEMORY_BYTES + 7, 0, 40_000, 40_000].iter().enumerate()
        {
            let piece = vec![n as u8; *length];
            recorder.put(&piece);
            all.extend(piece);
            assert!(memory.recent() == all[all.len().saturating_sub(MEMORY_BYTES)..], "after piece {n}");
        }
        assert!(!memory.is_finished());
        recorder.head().dropped_bytes = 7;
        recorder.finish();
        assert_eq!((memory.is_finished(), memory.stats().dropped_bytes), (true, 7));
    }

    #[test]
    fn a_new_memory_gets_everything_of_the_old_one() {
        let (_, mut recorder) = both();
        recorder.put(&[b'a'; MEMORY_BYTES]);
        recorder.put(b"the end\n");
        recorder.head().read_bytes = 9;
        let memory = Memory::new().unwrap();
        recorder.move_to(memory.share().unwrap());
        recorder.put(b"and more\n");
        assert!(memory.recent().ends_with(b"aathe end\nand more\n"));
        assert_eq!((memory.recent().len(), memory.stats().read_bytes), (MEMORY_BYTES, 9));
    }

    #[test]
    fn bytes_dropped_by_fallback_readers_are_counted_once() {
        let (memory, mut recorder) = both();
        recorder.head().read_bytes = 10;
        recorder.put(b"0123456789");
        let (keeper, supervisor) = (FallbackReader::Keeper, FallbackReader::Supervisor);
        let before = [keeper, supervisor].map(|by| memory.progress(by));
        memory.count_dropped(keeper, 5);
        assert_eq!([keeper, supervisor].map(|by| memory.progress(by)), before, "its own read is no progress");
        memory.count_dropped(supervisor, 2);
        assert_ne!(memory.progress(keeper), before[0]);
        assert_eq!((memory.stats().read_bytes, memory.stats().dropped_bytes), (17, 7), "before a logger knows of it");
        assert_eq!(recorder.merge_dropped(), 7);
        recorder.head().dropped_bytes += 7;
        // A logger that dies before it publishes leaves the count to the next one.
        let mut next = Recorder::of(memory.share().unwrap());
        assert_eq!(next.merge_dropped(), 7);
        next.head().dropped_bytes += 7;
        next.publish();
        assert_eq!((next.merge_dropped(), Recorder::of(memory.share().unwrap()).merge_dropped()), (0, 0));
        assert_eq!((memory.stats().read_bytes, memory.stats().dropped_bytes), (17, 7));
        let other = Memory::new().unwrap();
        next.move_to(other.share().unwrap());
        assert_eq!((other.stats().read_bytes, other.stats().dropped_bytes), (17, 7));
    }

    #[test]
    fn a_reader_does_not_wait_for_a_writer_that_died_in_the_middle() {
        let (memory, mut recorder) = both();
        recorder.put(b"words\n");
        recorder.head.sequence += 1;
        recorder.write(0, &recorder.head.bytes());
        assert_eq!(memory.recent(), b"words\n");
        let mut next = Recorder::of(memory.share().unwrap());
        next.put(b"more\n");
        assert_eq!(memory.recent(), b"words\nmore\n");
    }
}
