//! A pipe that nobody reads: seen, and emptied so far that the instance can go on printing.
//!
//! Whether a reader is there is told by facts alone: bytes wait, and between looks the memory's counts do not change. What
//! is dropped is counted in the memory, so that it is told whoever reads next. The newest bytes stay in the pipe.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::memory::{Memory, StandIn};
use super::pipe::fill;

/// A pipe is filling when this part of what it can hold waits: a quarter. A pipe in which nothing more fits can have as
/// little as half of its bytes, as two writes that do not fit in one page have a page each.
const FILLING_PART: u64 = 4;

/// The part of what it can hold that stays when it is emptied: an eighth. The next reader finds the newest lines there.
const LEFT_PART: u64 = 8;

/// What is read at once, in bytes.
const CHUNK_BYTES: u64 = 64 << 10;

/// What a look at a pipe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Nothing waits.
    Nothing,
    /// Something waits. Between so many looks nobody has read.
    Waits(u32),
    /// So much waits that the instance may have to wait as well. Between so many looks nobody has read.
    Fills(u32),
}

/// What earlier looks at a pipe found.
#[derive(Debug, Default)]
pub struct Watch {
    progress: u64,
    /// Looks without progress. The first one that finds something is not among them.
    looks: u32,
    waits: bool,
}

impl Watch {
    /// Looks whether anybody reads for whom `by` would stand in.
    pub fn look(&mut self, pipe: BorrowedFd<'_>, memory: &Memory, by: StandIn) -> Unread {
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

/// Empties a pipe that is filling, so far that the instance can go on. Never waits. Gives the bytes that were dropped, which
/// `memory` counts.
///
/// # Errors
/// When it is no pipe.
pub fn relieve(pipe: BorrowedFd<'_>, memory: &Memory, by: StandIn) -> io::Result<u64> {
    let (waiting, capacity) = fill(pipe)?;
    if !is_filling(waiting, capacity) {
        return Ok(0);
    }
    // As the logger has it. Another reader may be faster, and then nothing is left to wait for.
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut file = File::from(pipe.try_clone_to_owned()?);
    let too_much = |waiting: u64| waiting.saturating_sub(capacity / LEFT_PART).min(CHUNK_BYTES) as usize;
    let mut chunk = vec![0; too_much(waiting)];
    // No more than was there at first, and asked again for each chunk: who reads again gets the newest lines.
    let (mut dropped, most) = (0, waiting);
    while dropped < most {
        let room = too_much(fill(pipe)?.0).min(chunk.len());
        match file.read(&mut chunk[..room]) {
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

    /// A pipe in which no more fits, written in pieces of this size; gives what it has.
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
    fn a_pipe_that_takes_no_more_is_seen_and_relieved_whatever_is_written() {
        let memory = Memory::new().unwrap();
        for piece in [1, 100, 1365, 2049, 4095, 4096, 4097, 70_000] {
            let (read, mut write, bytes) = full(piece);
            assert!(bytes >= PIPE_BYTES as u64 / 2, "{piece}: {bytes}");
            assert_eq!(Watch::default().look(read.as_fd(), &memory, StandIn::Keeper), Unread::Fills(0), "{piece}");
            let before = memory.stats().dropped_bytes;
            let dropped = relieve(read.as_fd(), &memory, StandIn::Keeper).unwrap();
            assert_eq!((bytes - dropped, memory.stats().dropped_bytes), (PIPE_BYTES as u64 / 8, before + dropped));
            assert_eq!(write.write(&vec![b'y'; piece]).unwrap(), piece, "it goes on");
            assert_eq!(relieve(read.as_fd(), &memory, StandIn::Keeper).unwrap(), 0, "no more than is needed");
        }
    }

    #[test]
    fn only_looks_between_which_nobody_read_are_counted() {
        let (read, mut write) = pipe().map(|(read, write)| (read, File::from(write))).unwrap();
        let (memory, mut watch) = (Memory::new().unwrap(), Watch::default());
        let mut look = || watch.look(read.as_fd(), &memory, StandIn::Supervisor);
        assert_eq!((look(), look()), (Unread::Nothing, Unread::Nothing));
        write.write_all(b"words").unwrap();
        assert_eq!((look(), look(), look()), (Unread::Waits(0), Unread::Waits(1), Unread::Waits(2)));
        // The keeper stands in as well, for both.
        memory.count_dropped(StandIn::Keeper, 3);
        assert_eq!(look(), Unread::Waits(3));
        let mut recorder = super::super::memory::Recorder::of(memory.share().unwrap());
        recorder.head().read_bytes += 1;
        recorder.put(b"w");
        assert_eq!((look(), look()), (Unread::Waits(0), Unread::Waits(1)));
        write.write_all(&vec![b'x'; PIPE_BYTES as usize / 2]).unwrap();
        assert_eq!(look(), Unread::Fills(2));
    }
}
