//! One instance's log in the logger: what is read of its pipe, and what becomes of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::lines::{FLOOD_END_BYTES, Lines, note};
use super::memory::Recorder;
use super::writer::{Account, Piece, Writer};

/// One instance's log.
pub(super) struct Source {
    pub(super) id: String,
    /// `None` when it is read to its end.
    pub(super) pipe: Option<File>,
    pub(super) path: Arc<Path>,
    pub(super) bytes_max: u64,
    pub(super) lines: Lines,
    pub(super) memory: Recorder,
    pub(super) account: Arc<Account>,
    /// Bytes that were dropped before or by others, and because too much waited for the disk.
    pub(super) dropped: u64,
    /// Those of them that the file does not tell of yet.
    pub(super) untold: u64,
    /// What came last of that which the disk was too slow for: the file gets it once there is room, as the last lines say
    /// why there were so many.
    pub(super) late: Vec<u8>,
    /// When something was read last.
    pub(super) read_at: Instant,
}

/// What a look at a pipe brought.
pub(super) enum Found {
    Nothing,
    Lines,
    Flood,
}

impl Source {
    /// Reads one chunk.
    pub(super) fn read(&mut self, chunk: &mut [u8], writer: &Writer) -> Found {
        let Some(pipe) = &mut self.pipe else { return Found::Nothing };
        match pipe.read(chunk) {
            Ok(n) if n > 0 => self.take(&chunk[..n], writer),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Found::Nothing
            }
            Ok(_) | Err(_) => {
                self.end(writer);
                Found::Nothing
            }
        }
    }

    fn take(&mut self, bytes: &[u8], writer: &Writer) -> Found {
        self.read_at = Instant::now();
        let mut kept = self.missed();
        self.memory.head().read_bytes += bytes.len() as u64;
        kept.extend(self.lines.take(bytes, self.read_at));
        self.keep(&kept, writer);
        if self.lines.is_behind() { Found::Flood } else { Found::Lines }
    }

    /// What is to be said of bytes that others have read, and dropped, while the logger did not read.
    pub(super) fn missed(&mut self) -> Vec<u8> {
        let bytes = self.memory.join_dropped();
        self.dropped += bytes;
        self.lines.miss(bytes, "the logger did not read them")
    }

    pub(super) fn keep(&mut self, lines: &[u8], writer: &Writer) {
        if !lines.is_empty() && !self.write(lines, writer) {
            self.late.extend_from_slice(lines);
            let too_much = self.late.len().saturating_sub(FLOOD_END_BYTES);
            self.late.drain(..too_much);
            self.dropped += too_much as u64;
            self.untold += too_much as u64;
        }
        self.count();
        self.memory.put(lines);
    }

    /// Whether the file does not tell yet what is missing.
    pub(super) fn is_behind(&self) -> bool {
        self.lines.is_behind() || self.is_late()
    }

    fn is_late(&self) -> bool {
        self.untold > 0 || !self.late.is_empty()
    }

    /// Tells what is missing, and keeps the end of a flood.
    pub(super) fn catch_up(&mut self, writer: &Writer) {
        self.read_at = Instant::now();
        let mut kept = self.missed();
        kept.extend(self.lines.catch_up());
        self.keep(&kept, writer);
        if self.is_late() && self.write(&[], writer) {
            self.tell();
        }
    }

    /// There is no more to come.
    pub(super) fn end(&mut self, writer: &Writer) {
        self.pipe = None;
        self.catch_up(writer);
        self.memory.finish();
    }

    /// Gives lines to the writer; `false` when it has too much already.
    fn write(&mut self, lines: &[u8], writer: &Writer) -> bool {
        // From a whole line on, where there is one, if something before it is missing.
        let whole = self.late.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let cut = if self.untold == 0 || whole == self.late.len() { 0 } else { whole };
        let missing = self.untold + cut as u64;
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
            self.untold = 0;
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

    pub(super) fn tell(&mut self) {
        self.count();
        self.memory.tell();
    }
}
