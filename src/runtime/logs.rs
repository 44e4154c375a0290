//! What an instance prints: one pipe for both streams, read by one thread into two files that take turns.
//!
//! The reading end can be kept elsewhere (a keeper), so that the instance never sees a broken pipe when the supervisor
//! restarts. The thread reads always, so the instance is never held up for longer than a pause of a millisecond. What
//! it prints faster than [`RATE_BYTES_PER_S`] is dropped and counted; lines longer than [`LINE_BYTES_MAX`] are split;
//! bytes are kept as they come, UTF-8 or not.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

/// What a pipe holds while the supervisor restarts, in bytes: the most that an unprivileged process may ask for.
pub const PIPE_BYTES: i32 = 1 << 20;

/// What is written to disk in a second, in bytes; more is a flood.
pub const RATE_BYTES_PER_S: u64 = 8 << 20;

/// What may come at once after a quiet time, in bytes: a large stack dump is no flood.
pub const BURST_BYTES: u64 = 8 << 20;

/// The longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// The end of the log that is kept in memory, in bytes.
pub const MEMORY_BYTES: usize = 64 << 10;

/// What is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// The pause after a chunk of a flood: the flood may not cost a processor.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// The reader's stack, in bytes.
const STACK_BYTES: usize = 128 << 10;

/// Chunks that are still read when the log is being finished: four pipes full.
const LAST_CHUNKS_MAX: usize = 64;

/// Why a log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The pipe or its reader cannot be set up.
    #[error("cannot read what the instance prints")]
    Reader(#[source] io::Error),
}

/// What became of the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes that the instance printed.
    pub read_bytes: u64,
    /// Bytes of those that were dropped: too fast, or the disk refused them.
    pub dropped_bytes: u64,
    /// What the disk said the last time, when it refused.
    pub write_error: Option<String>,
}

/// A pipe for a log, both ends close-on-exec: the reader's end, and the one for standard output and error. The latter can be read
/// too, so that whoever has it never finds the pipe broken: should nobody read for a while, the next reader goes on.
///
/// # Errors
/// When descriptors have run out.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Without /proc it is as pipes are.
    let both =
        open(format!("/proc/self/fd/{}", write.as_raw_fd()).as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let write = both.unwrap_or(write);
    // Refused where the user's pipes hold too much already; the default size does too.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((read, write))
}

/// The reader's end of the pipe that a process prints to, where nobody kept it. `None` where it prints elsewhere, or may not be
/// asked.
pub fn reopen(pid: u32) -> Option<OwnedFd> {
    [1, 2].iter().find_map(|number| {
        let path = format!("/proc/{pid}/fd/{number}");
        if !fs::metadata(&path).ok()?.file_type().is_fifo() {
            return None;
        }
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).ok()
    })
}

/// A log that is being written.
pub struct Log {
    sink: Arc<Mutex<Sink>>,
    finish: Arc<EventFd>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    /// Reads the pipe into `path` and `path.1`, together at most `bytes_max`. A log that is there is continued: what it
    /// has counts as this instance's words, so each instance has a path of its own.
    ///
    /// # Errors
    /// When the thread cannot be made. A file that cannot be opened (the disk is full) is tried again with each write.
    pub fn start(pipe: OwnedFd, path: &Path, bytes_max: u64) -> Result<Self, LogError> {
        let sink = Sink::open(path, bytes_max);
        let sink = Arc::new(Mutex::new(sink));
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| LogError::Reader(error.into()))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let finish = EventFd::from_value_and_flags(0, flags).map_err(|error| LogError::Reader(error.into()))?;
        let finish = Arc::new(finish);
        let (to, end) = (sink.clone(), finish.clone());
        let reader = std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK_BYTES)
            .spawn(move || read_all(pipe, &to, &end))
            .map_err(LogError::Reader)?;
        Ok(Self { sink, finish, reader: Some(reader) })
    }

    /// The last bytes, from memory: at most [`MEMORY_BYTES`].
    pub fn recent(&self) -> Vec<u8> {
        lock(&self.sink).memory.iter().copied().collect()
    }

    /// The last `bytes`, from the files. They begin with a whole line where there is more before them.
    pub async fn tail(&self, bytes: usize) -> Vec<u8> {
        let sink = self.sink.clone();
        tokio::task::spawn_blocking(move || lock(&sink).tail(bytes)).await.unwrap_or_default()
    }

    /// What became of the bytes so far.
    pub fn stats(&self) -> LogStats {
        lock(&self.sink).stats.clone()
    }

    /// Whether all writers are gone and all they wrote is read.
    pub fn is_finished(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Reads what is in the pipe and ends. For after the last process has ended.
    pub async fn finish(mut self) -> LogStats {
        let _ = self.finish.write(1);
        if let Some(reader) = self.reader.take() {
            let _ = tokio::task::spawn_blocking(move || reader.join()).await;
        }
        self.stats()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.finish.write(1);
    }
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    // A log with a hole is better than none.
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_all(pipe: OwnedFd, sink: &Mutex<Sink>, finish: &EventFd) {
    let mut pipe = File::from(pipe);
    let (mut chunk, mut last_chunks) = (vec![0; CHUNK_BYTES], None);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => {
                let flood = lock(sink).take(&chunk[..n], Instant::now());
                if flood {
                    std::thread::sleep(FLOOD_PAUSE);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && last_chunks.is_none() => {
                let mut fds =
                    [PollFd::new(pipe.as_fd(), PollFlags::POLLIN), PollFd::new(finish.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::NONE).is_err_and(|error| error != nix::Error::EINTR) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
        if last_chunks.is_none() && finish.read().is_ok() {
            last_chunks = Some(LAST_CHUNKS_MAX);
        }
        match &mut last_chunks {
            Some(0) => return,
            Some(left) => *left -= 1,
            None => {}
        }
    }
}

/// Where the bytes go. Knows the clock by its caller only.
struct Sink {
    path: PathBuf,
    /// `None` until it could be opened.
    file: Option<File>,
    file_bytes: u64,
    file_bytes_max: u64,
    memory: VecDeque<u8>,
    column: usize,
    budget: Budget,
    dropped_in_flood: u64,
    stats: LogStats,
}

impl Sink {
    fn open(path: &Path, bytes_max: u64) -> Self {
        let file = open_log(path).ok();
        let found = file.as_ref().and_then(|file| file.metadata().ok());
        let mut sink = Self {
            path: path.to_owned(),
            file_bytes: found.map_or(0, |found| found.len()),
            file,
            file_bytes_max: bytes_max / 2,
            memory: VecDeque::new(),
            column: 0,
            budget: Budget { bytes: BURST_BYTES, at: None },
            dropped_in_flood: 0,
            stats: LogStats::default(),
        };
        sink.memory.extend(sink.tail(MEMORY_BYTES));
        sink
    }

    /// Takes what was read; says whether there was too much of it.
    fn take(&mut self, bytes: &[u8], now: Instant) -> bool {
        self.stats.read_bytes += bytes.len() as u64;
        let room = self.budget.take(bytes.len() as u64, now) as usize;
        if room > 0 && self.dropped_in_flood > 0 {
            let count = std::mem::take(&mut self.dropped_in_flood);
            let note = format!("\n[rei: {count} bytes dropped here: more than {} MiB/s]\n", RATE_BYTES_PER_S >> 20);
            self.column = 0;
            self.keep(note.as_bytes());
        }
        if room > 0 {
            let lines = self.split(&bytes[..room]);
            self.keep(&lines);
        }
        let dropped = (bytes.len() - room) as u64;
        self.dropped_in_flood += dropped;
        self.stats.dropped_bytes += dropped;
        dropped > 0
    }

    /// Ends lines that are too long.
    fn split(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / LINE_BYTES_MAX + 1);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while self.column + rest.len() > LINE_BYTES_MAX && rest != b"\n" {
                let (line, after) = rest.split_at((LINE_BYTES_MAX - self.column).min(rest.len()));
                lines.extend_from_slice(line);
                if after == b"\n" {
                    rest = after;
                    break;
                }
                lines.push(b'\n');
                (self.column, rest) = (0, after);
            }
            lines.extend_from_slice(rest);
            self.column = if rest.ends_with(b"\n") { 0 } else { self.column + rest.len() };
        }
        lines
    }

    fn keep(&mut self, bytes: &[u8]) {
        let excess = (self.memory.len() + bytes.len()).saturating_sub(MEMORY_BYTES);
        self.memory.drain(..excess.min(self.memory.len()));
        self.memory.extend(&bytes[bytes.len().saturating_sub(MEMORY_BYTES)..]);
        let fits = usize::try_from(self.file_bytes_max).unwrap_or(usize::MAX);
        if let Err(error) = self.write(&bytes[bytes.len().saturating_sub(fits)..]) {
            self.stats.dropped_bytes += bytes.len() as u64;
            self.stats.write_error = Some(error.to_string());
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file_bytes > 0 && self.file_bytes + bytes.len() as u64 > self.file_bytes_max {
            fs::rename(&self.path, older(&self.path))?;
            self.file = None;
            self.file_bytes = 0;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open_log(&self.path)?),
        };
        // Counted also when the disk takes only a part of it: the bound holds either way.
        self.file_bytes += bytes.len() as u64;
        file.write_all(bytes)
    }

    fn tail(&self, bytes: usize) -> Vec<u8> {
        tail_of(&self.path, bytes)
    }
}

/// The last `bytes` of a log that was written to `path`. They begin with a whole line if there is more before them.
pub fn tail_of(path: &Path, bytes: usize) -> Vec<u8> {
    // One byte more, to see whether the first line is whole.
    let with_before = bytes.saturating_add(1);
    let mut tail = end_of(path, with_before);
    if tail.len() < with_before {
        let mut before = end_of(&older(path), with_before - tail.len());
        before.append(&mut tail);
        tail = before;
    }
    if tail.len() == with_before {
        let first_line = tail.iter().position(|byte| *byte == b'\n').map_or(1, |end| end + 1);
        tail.drain(..first_line);
    }
    tail
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last bytes of a file; nothing when it cannot be read.
fn end_of(path: &Path, bytes: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(bytes as u64)))?;
        let mut end = Vec::new();
        file.take(bytes as u64).read_to_end(&mut end)?;
        Ok(end)
    };
    read().unwrap_or_default()
}

/// Bytes that may be written, filled at [`RATE_BYTES_PER_S`].
struct Budget {
    bytes: u64,
    at: Option<Instant>,
}

impl Budget {
    fn take(&mut self, wanted: u64, now: Instant) -> u64 {
        let us = self.at.map_or(0, |at| now.saturating_duration_since(at).as_micros());
        let earned = u64::try_from(us).unwrap_or(u64::MAX).saturating_mul(RATE_BYTES_PER_S) / 1_000_000;
        if earned > 0 || self.at.is_none() {
            self.at = Some(now);
        }
        self.bytes = self.bytes.saturating_add(earned).min(BURST_BYTES);
        let taken = wanted.min(self.bytes);
        self.bytes -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(dir: &Path, bytes_max: u64) -> Sink {
        Sink::open(&dir.join("log"), bytes_max)
    }

    #[test]
    fn two_files_hold_the_end_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 1000);
        for n in 0..200 {
            sink.take(format!("line {n}\n").as_bytes(), Instant::now());
        }
        let size = |name| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("log") + size("log.1") <= 1000 && size("log.1") > 480);
        let tail = String::from_utf8(sink.tail(100)).unwrap();
        assert!(tail.starts_with("line ") && tail.ends_with("line 198\nline 199\n"), "{tail}");
        assert_eq!(sink.tail(600).len() / 9, 600 / 9, "spans both files");
    }

    #[test]
    fn a_chunk_larger_than_the_file_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 100);
        sink.take(&[b"x".repeat(400), b"end\n".to_vec()].concat(), Instant::now());
        assert_eq!(fs::metadata(dir.path().join("log")).unwrap().len(), 50);
        assert!(fs::read(dir.path().join("log")).unwrap().ends_with(b"end\n"));
    }

    #[test]
    fn long_lines_are_split_and_bytes_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 1 << 20);
        // In pieces that do not fit the bound, and bytes that are no text.
        for piece in [
            vec![0xff; LINE_BYTES_MAX - 1],
            vec![0xfe; 2],
            b"\nshort\n".to_vec(),
            vec![0; LINE_BYTES_MAX],
            b"\n".to_vec(),
        ] {
            sink.take(&piece, Instant::now());
        }
        let expected = [
            vec![0xff; LINE_BYTES_MAX - 1],
            vec![0xfe, b'\n', 0xfe],
            b"\nshort\n".to_vec(),
            vec![0; LINE_BYTES_MAX],
            b"\n".to_vec(),
        ]
        .concat();
        assert_eq!(fs::read(dir.path().join("log")).unwrap(), expected);
        assert_eq!(sink.memory.len(), expected.len());
    }

    #[test]
    fn a_flood_is_dropped_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 64 << 20);
        let (start, chunk) = (Instant::now(), vec![b'x'; 1 << 20]);
        let floods = (0..20).filter(|_| sink.take(&chunk, start)).count();
        assert_eq!((floods, sink.stats.dropped_bytes), (12, 12 << 20), "the burst is 8 MiB");
        assert!(!sink.take(b"after\n", start + Duration::from_secs(1)));
        let tail = String::from_utf8(sink.tail(80)).unwrap();
        assert_eq!(tail, "[rei: 12582912 bytes dropped here: more than 8 MiB/s]\nafter\n");
    }

    #[test]
    fn a_full_disk_is_told_and_memory_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 1 << 20);
        sink.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        sink.take(b"lost\n", Instant::now());
        assert_eq!(sink.stats.dropped_bytes, 5);
        assert!(sink.stats.write_error.as_ref().unwrap().contains("No space"));
        assert_eq!(sink.memory, b"lost\n");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(&dir.path().join("absent/log"), 1 << 20);
        sink.take(b"lost\n", Instant::now());
        assert_eq!((sink.stats.dropped_bytes, sink.stats.write_error.is_some()), (5, true));
        fs::create_dir(dir.path().join("absent")).unwrap();
        sink.take(b"kept\n", Instant::now());
        assert_eq!((fs::read(&sink.path).unwrap(), sink.memory.len()), (b"kept\n".to_vec(), 10));
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end_and_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for word in ["first\n", "second\n"] {
            let (read, write) = pipe().unwrap();
            let log = Log::start(read, &path, 1 << 20).unwrap();
            File::from(write).write_all(word.as_bytes()).unwrap();
            assert_eq!(log.finish().await.read_bytes, word.len() as u64);
        }
        let (read, _write) = pipe().unwrap();
        let log = Log::start(read, &path, 1 << 20).unwrap();
        assert_eq!((log.recent(), log.tail(7).await), (b"first\nsecond\n".to_vec(), b"second\n".to_vec()));
    }

    #[tokio::test]
    async fn an_open_pipe_does_not_hold_up_the_finish() {
        let dir = tempfile::tempdir().unwrap();
        let (read, write) = pipe().unwrap();
        let log = Log::start(read, &dir.path().join("log"), 1 << 20).unwrap();
        let mut write = File::from(write);
        write.write_all(b"a daemon has this pipe still\n").unwrap();
        assert_eq!(log.finish().await.read_bytes, 29);
    }
}
