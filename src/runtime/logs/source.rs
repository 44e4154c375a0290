//! The log of one instance in the logger: reads its pipe, and stores what it reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::counts::Counter;
use super::lines::{FLOOD_END_BYTES, Lines, note};
use super::memory::Recorder;
use super::writer::{Account, Piece, Writer};

/// The log of one instance.
pub(super) struct Source {
    pub(super) id: String,
    /// `None` after the end of the pipe.
    pub(super) pipe: Option<File>,
    pub(super) path: Arc<Path>,
    pub(super) bytes_max: u64,
    pub(super) lines: Lines,
    pub(super) memory: Recorder,
    /// Counts the requests in the output, if the supervisor asked for it.
    pub(super) counter: Option<Counter>,
    pub(super) account: Arc<Account>,
    /// Bytes that were dropped before, dropped by fallback readers, or dropped because the writer's queue was full.
    pub(super) dropped: u64,
    /// The part of `dropped` that is not noted in the file yet.
    pub(super) unreported: u64,
    /// The end of the output for which the writer's queue was full. It goes to the file once there is space, because
    /// the last lines often explain a flood.
    pub(super) late: Vec<u8>,
    /// When something was last read.
    pub(super) read_at: Instant,
}

/// The result of reading a pipe once.
pub(super) enum ReadResult {
    Nothing,
    Lines,
    Flood,
}

impl Source {
    /// Reads one chunk.
    pub(super) fn read(&mut self, chunk: &mut [u8], writer: &Writer) -> ReadResult {
        let Some(pipe) = &mut self.pipe else { return ReadResult::Nothing };
        match pipe.read(chunk) {
            Ok(n) if n > 0 => self.take(&chunk[..n], writer),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                ReadResult::Nothing
            }
            Ok(_) | Err(_) => {
                self.end(writer);
                ReadResult::Nothing
            }
        }
    }

    fn take(&mut self, bytes: &[u8], writer: &Writer) -> ReadResult {
        self.read_at = Instant::now();
        let mut kept = self.take_missed();
        self.memory.head().read_bytes += bytes.len() as u64;
        kept.extend(self.lines.take(bytes, self.read_at));
        if let Some(counter) = &mut self.counter {
            counter.take(bytes, self.lines.is_behind());
        }
        self.keep(&kept, writer);
        if self.lines.is_behind() { ReadResult::Flood } else { ReadResult::Lines }
    }

    /// The note about bytes that fallback readers dropped while the logger did not read.
    pub(super) fn take_missed(&mut self) -> Vec<u8> {
        let bytes = self.memory.merge_dropped();
        self.dropped += bytes;
        if let Some(counter) = self.counter.as_mut().filter(|_| bytes > 0) {
            counter.miss();
        }
        self.lines.note_missing(bytes, "the logger did not read them")
    }

    pub(super) fn keep(&mut self, lines: &[u8], writer: &Writer) {
        if !lines.is_empty() && !self.write(lines, writer) {
            self.late.extend_from_slice(lines);
            let too_much = self.late.len().saturating_sub(FLOOD_END_BYTES);
            self.late.drain(..too_much);
            self.dropped += too_much as u64;
            self.unreported += too_much as u64;
        }
        self.count();
        self.memory.put(lines);
    }

    /// True if a note about missing bytes is not in the file yet.
    pub(super) fn is_behind(&self) -> bool {
        self.lines.is_behind() || self.is_late()
    }

    fn is_late(&self) -> bool {
        self.unreported > 0 || !self.late.is_empty()
    }

    /// Writes the note about missing bytes, and the end of a flood.
    pub(super) fn catch_up(&mut self, writer: &Writer) {
        self.read_at = Instant::now();
        let mut kept = self.take_missed();
        kept.extend(self.lines.catch_up());
        self.keep(&kept, writer);
        if self.is_late() && self.write(&[], writer) {
            self.publish();
        }
    }

    /// Finishes the log: no more output will come.
    pub(super) fn end(&mut self, writer: &Writer) {
        self.pipe = None;
        self.catch_up(writer);
        self.memory.finish();
    }

    /// Gives lines to the writer. Returns false if its queue is full.
    fn write(&mut self, lines: &[u8], writer: &Writer) -> bool {
        // If something before it is missing, begin with a whole line, if there is one.
        let whole = self.late.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let cut = if self.unreported == 0 || whole == self.late.len() { 0 } else { whole };
        let missing = self.unreported + cut as u64;
        let mut bytes = Vec::new();
        if missing > 0 {
            bytes.extend_from_slice(note(missing, "the disk was too slow").as_bytes());
        }
        bytes.extend_from_slice(&self.late[cut..]);
        bytes.extend_from_slice(lines);
        let (path, account) = (self.path.clone(), self.account.clone());
        let of_instance = (self.late.len() - cut + lines.len()) as u64;
        let given = writer.give(Piece { path, bytes_max: self.bytes_max, bytes, of_instance, account });
        if given {
            self.memory.head().given_bytes += of_instance;
            self.dropped += cut as u64;
            self.unreported = 0;
            self.late.clear();
        }
        given
    }

    pub(super) fn count(&mut self) {
        let refused = self.account.refused.load(Ordering::Acquire);
        let dropped = self.dropped + self.late.len() as u64 + self.lines.dropped() + refused;
        let head = self.memory.head();
        head.dropped_bytes = dropped;
        if refused > 0 {
            head.errno = self.account.errno.load(Ordering::Acquire);
        }
    }

    pub(super) fn publish(&mut self) {
        self.count();
        self.memory.publish();
    }
}
