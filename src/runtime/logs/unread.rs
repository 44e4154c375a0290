//! Detects a pipe that no process reads, and drains it so far that the instance does not block.
//!
//! Whether there is a reader follows from facts only: bytes wait in the pipe, and the memory's counters do not change
//! between checks. Dropped bytes are counted in the memory, so the next reader can report them. The newest bytes stay
//! in the pipe.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::memory::{FallbackReader, Memory};
use super::pipe::fill;

/// A pipe is filling up if a quarter of its capacity is used. A pipe that accepts no more bytes may hold as little as
/// half of its capacity, because two writes that do not fit into one page use a page each.
const FILLING_PART: u64 = 4;

/// The part of its capacity that stays in a drained pipe: an eighth. The next reader finds the newest lines there.
const LEFT_PART: u64 = 8;

/// Maximum number of bytes per read.
const CHUNK_BYTES: u64 = 64 << 10;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The pipe is empty.
    Nothing,
    /// Bytes wait in the pipe. The number is that of checks in a row without a read in between.
    Waits(u32),
    /// The pipe is so full that the instance may block. The number is that of checks in a row without a read in
    /// between.
    Fills(u32),
}

/// The state of earlier checks of a pipe.
#[derive(Debug, Default)]
pub struct PipeWatch {
    progress: u64,
    /// Checks in a row without progress. The first check that finds bytes does not count.
    looks: u32,
    waits: bool,
}

impl PipeWatch {
    /// Checks whether any process with priority over the fallback reader `by` reads the pipe.
    pub fn check(&mut self, pipe: BorrowedFd<'_>, memory: &Memory, by: FallbackReader) -> Unread {
        let (waiting, capacity) = fill(pipe).unwrap_or_default();
        let progress = memory.progress(by);
        let waited = std::mem::replace(&mut self.waits, waiting > 0);
        let read = std::mem::replace(&mut self.progress, progress) != progress;
        self.looks = if self.waits && waited && !read { self.looks.saturating_add(1) } else { 0 };
        match self.waits {
            false => Unread::Nothing,
            true if is_filling(waiting, capacity) => Unread::Fills(self.looks),
            true => Unread::Waits(self.looks),
        }
    }
}

fn is_filling(waiting: u64, capacity: u64) -> bool {
    waiting >= capacity / FILLING_PART
}

/// Drains a pipe that is filling up, so far that the instance does not block. Never waits. Returns the number of
/// dropped bytes, which are counted in `memory`.
///
/// # Errors
/// If it is not a pipe.
pub fn drain_excess(pipe: BorrowedFd<'_>, memory: &Memory, by: FallbackReader) -> io::Result<u64> {
    let (waiting, capacity) = fill(pipe)?;
    if !is_filling(waiting, capacity) {
        return Ok(0);
    }
    // The logger sets O_NONBLOCK, too. Another reader may be faster, and then a read must not wait.
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut file = File::from(pipe.try_clone_to_owned()?);
    let too_much = |waiting: u64| waiting.saturating_sub(capacity / LEFT_PART).min(CHUNK_BYTES) as usize;
    let mut chunk = vec![0; too_much(waiting)];
    // Read at most as much as was there at first, and check the fill level before each read, so that a reader that
    // comes back gets the newest lines.
    let (mut dropped, most) = (0, waiting);
    while dropped < most {
        let len = too_much(fill(pipe)?.0).min(chunk.len());
        match file.read(&mut chunk[..len]) {
            Ok(0) => break,
            Ok(n) => {
                memory.count_dropped(by, n as u64);
                dropped += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::super::{PIPE_BYTES, pipe};
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    /// Fills a pipe by writes of this size. Returns its content's size.
    fn full(piece: usize) -> (std::os::fd::OwnedFd, File, u64) {
        let (read, write) = pipe().unwrap();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let (mut write, mut bytes) = (File::from(write), 0);
        while let Ok(n) = write.write(&vec![b'x'; piece]) {
            bytes += n as u64;
        }
        (read, write, bytes)
    }

    #[test]
    fn a_full_pipe_is_detected_and_drained_for_any_size_of_writes() {
        let memory = Memory::new().unwrap();
        for piece in [1, 100, 1365, 2049, 4095, 4096, 4097, 70_000] {
            let (read, mut write, bytes) = full(piece);
            assert!(bytes >= PIPE_BYTES as u64 / 2, "{piece}: {bytes}");
            assert_eq!(
                PipeWatch::default().check(read.as_fd(), &memory, FallbackReader::Keeper),
                Unread::Fills(0),
                "{piece}"
            );
            let before = memory.stats().dropped_bytes;
            let dropped = drain_excess(read.as_fd(), &memory, FallbackReader::Keeper).unwrap();
            assert_eq!((bytes - dropped, memory.stats().dropped_bytes), (PIPE_BYTES as u64 / 8, before + dropped));
            assert_eq!(write.write(&vec![b'y'; piece]).unwrap(), piece, "the instance can write again");
            assert_eq!(
                drain_excess(read.as_fd(), &memory, FallbackReader::Keeper).unwrap(),
                0,
                "it drains no more than needed"
            );
        }
    }

    #[test]
    fn only_checks_without_a_read_in_between_are_counted() {
        let (read, mut write) = pipe().map(|(read, write)| (read, File::from(write))).unwrap();
        let (memory, mut watch) = (Memory::new().unwrap(), PipeWatch::default());
        let mut check = || watch.check(read.as_fd(), &memory, FallbackReader::Supervisor);
        assert_eq!((check(), check()), (Unread::Nothing, Unread::Nothing));
        write.write_all(b"words").unwrap();
        assert_eq!((check(), check(), check()), (Unread::Waits(0), Unread::Waits(1), Unread::Waits(2)));
        // The keeper reads too; for the supervisor this is no progress.
        memory.count_dropped(FallbackReader::Keeper, 3);
        assert_eq!(check(), Unread::Waits(3));
        let mut recorder = super::super::memory::Recorder::of(memory.share().unwrap());
        recorder.head().read_bytes += 1;
        recorder.put(b"w");
        assert_eq!((check(), check()), (Unread::Waits(0), Unread::Waits(1)));
        write.write_all(&vec![b'x'; PIPE_BYTES as usize / 2]).unwrap();
        assert_eq!(check(), Unread::Fills(2));
    }
}
