//! The process of the logger: one loop that reads, and one thread that writes files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::{Mode, umask};

use super::counts::{Counter, Counts, PUBLISH_PAUSE};
use super::handover;
use super::lines::Lines;
use super::memory::{Memory, Recorder};
use super::source::{ReadResult, Source};
use super::writer::{Account, Writer};
use crate::runtime::keeper::wire::{self, Packet};

/// Request to read a pipe. The text has the instance id, the path of its file and the size limit in bytes, a line each.
/// The descriptors are the pipe and the memory.
pub(super) const READ: u8 = b'R';
/// Request to count the requests in the output of an instance. The text has the instance id, and the rules as JSON on
/// the next line. The descriptor is the memory for the counts. It comes before [`READ`]; an older logger ignores it.
pub(super) const COUNT: u8 = b'C';
/// Request to release the instance in the text: read what is in its pipe, and no more.
pub(super) const FORGET: u8 = b'F';

/// Bytes per read.
const CHUNK_BYTES: usize = 64 << 10;

/// Maximum number of chunks that are read when a log is released: four full pipes.
const LAST_CHUNKS_MAX: usize = 64;

/// The pause after a round in which a flood was dropped, so that the flood does not use a whole CPU.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// How long a pipe must be quiet until a flood is considered over, and the missing bytes are noted.
const QUIET: Duration = Duration::from_millis(200);

/// Maximum number of logs: four times the size of the instance table.
const LOGS_MAX: usize = 64;

/// How long the last bytes may take to be written when the logger exits.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Runs the logger with its standard input as the connection, for files below `directory`. It exits when no process has
/// the other end and every pipe has been read to its end.
///
/// It ignores termination signals: it must outlive its supervisor, and an instance may still write its last output after
/// the request to stop. It is not dumpable, so that no process of its user can read its memory.
///
/// Call it only while the process has one thread.
pub fn logger_main(directory: &Path) -> ExitCode {
    let begun = detach().and_then(|()| io::stdin().as_fd().try_clone_to_owned());
    match begun.and_then(|connection| serve(connection, directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rei logger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn detach() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // SAFETY: this runs before any code of this process has opened a descriptor, so no owner of a closed descriptor
    // exists here.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    umask(Mode::from_bits_truncate(0o077));
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    handover::listen()?;
    // The process name is used by `ps`, and by a supervisor that looks for a lost logger.
    let _ = prctl::set_name(handover::NAME);
    Ok(())
}

/// Runs the loop of the logger until it is not needed any more.
///
/// # Errors
/// If there are no free descriptors or threads.
pub fn serve(connection: OwnedFd, directory: &Path) -> io::Result<()> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let mut server = Server {
        connection: Some(connection),
        directory: directory.to_owned(),
        logs: Vec::new(),
        counters: Vec::new(),
        writer: Writer::start(wake.clone())?,
        wake,
        chunk: vec![0; CHUNK_BYTES],
    };
    let is_needed = |server: &Server| server.connection.is_some() || server.logs.iter().any(|log| log.pipe.is_some());
    while is_needed(&server) && !handover::is_requested() {
        server.round()?;
    }
    // When it was asked to release its pipes, some lines may be read but not written yet.
    let writer = &server.writer;
    server.logs.iter_mut().for_each(|log| log.catch_up(writer));
    server.writer.finish(FLUSH_MAX);
    Ok(())
}

struct Server {
    connection: Option<OwnedFd>,
    directory: PathBuf,
    logs: Vec<Source>,
    /// The counters of instances whose pipe is not there yet.
    counters: Vec<(String, Counter)>,
    writer: Writer,
    wake: Arc<EventFd>,
    chunk: Vec<u8>,
}

impl Server {
    /// Waits for the next event and handles it.
    fn round(&mut self) -> io::Result<()> {
        let (asked, readable, refused) = self.wait()?;
        let mut flood = false;
        for index in readable {
            flood |= matches!(self.logs[index].read(&mut self.chunk, &self.writer), ReadResult::Flood);
        }
        for log in self.logs.iter_mut().filter(|log| log.is_behind() && log.read_at.elapsed() >= QUIET) {
            log.catch_up(&self.writer);
        }
        self.logs.iter_mut().filter_map(|log| log.counter.as_mut()).for_each(Counter::publish);
        if refused {
            // The eventfd may have been read already, so an error is ignored.
            let _ = self.wake.read();
            self.logs.iter_mut().for_each(Source::publish);
        }
        if asked {
            self.handle_request();
        }
        if flood {
            std::thread::sleep(FLOOD_PAUSE);
        }
        Ok(())
    }

    /// Returns whether the supervisor has sent a request, which logs can be read, and whether the disk has refused a
    /// write.
    fn wait(&self) -> io::Result<(bool, Vec<usize>, bool)> {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.wake.as_fd())];
        fds.extend(self.connection.iter().map(|connection| watch(connection.as_fd())));
        let open: Vec<usize> = (0..self.logs.len()).filter(|index| self.logs[*index].pipe.is_some()).collect();
        fds.extend(self.logs.iter().filter_map(|log| log.pipe.as_ref()).map(|pipe| watch(pipe.as_fd())));
        let behind = self.logs.iter().any(Source::is_behind);
        let counts = self.logs.iter().filter_map(|log| log.counter.as_ref()).any(Counter::waits);
        let pause = match (behind, counts) {
            (true, _) => Some(QUIET),
            (false, true) => Some(PUBLISH_PAUSE),
            (false, false) => None,
        };
        let timeout = pause.map_or(PollTimeout::NONE, |pause| pause.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => return Ok((false, Vec::new(), false)),
            result => result?,
        };
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let (refused, fds) = (ready(&fds[0]), &fds[1..]);
        let (connection, pipes) = fds.split_at(usize::from(self.connection.is_some()));
        let readable = open.into_iter().zip(pipes).filter(|(_, fd)| ready(fd)).map(|(index, _)| index).collect();
        Ok((connection.iter().any(ready), readable, refused))
    }

    /// Handles a request of the supervisor. There is no answer: the effect is visible in the memory.
    fn handle_request(&mut self) {
        let Some(connection) = &self.connection else { return };
        match wire::receive(connection, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(packet)) if packet.kind == READ => self.begin(packet),
            Ok(Some(packet)) if packet.kind == COUNT => self.count(packet),
            Ok(Some(packet)) if packet.kind == FORGET => self.forget(&packet.text),
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // No process has the other end any more.
            Ok(None) | Err(_) => self.connection = None,
        }
    }

    fn count(&mut self, packet: Packet) {
        let Some((id, rules)) = packet.text.split_once('\n') else { return };
        let Ok([counts]) = <[OwnedFd; 1]>::try_from(packet.fds) else { return };
        let Some(mut counter) = Counter::new(rules, Counts::of(counts)) else { return };
        if let Some(log) = self.logs.iter_mut().find(|log| log.id == id) {
            if let Some(before) = log.counter.take() {
                counter.continue_from(before);
            }
            log.counter = Some(counter);
        } else {
            self.counters.retain(|(known, _)| known != id);
            if self.counters.len() >= LOGS_MAX {
                self.counters.remove(0);
            }
            self.counters.push((id.to_owned(), counter));
        }
    }

    fn begin(&mut self, packet: Packet) {
        let mut words = packet.text.lines();
        let (Some(id), Some(name), Some(bytes_max)) = (words.next(), words.next(), words.next()) else { return };
        let Ok(bytes_max) = bytes_max.parse::<u64>() else { return };
        let Ok([pipe, memory]) = <[OwnedFd; 2]>::try_from(packet.fds) else { return };
        // Only files below this directory are allowed, for every caller.
        let path: Arc<Path> = PathBuf::from(name).into();
        let inside = path.starts_with(&self.directory) && !path.components().any(|part| part == Component::ParentDir);
        if !inside {
            return;
        }
        let memory = Memory::of(memory);
        if let Some(known) = self.logs.iter_mut().find(|log| log.id == id) {
            // The next supervisor asks for a log that is already being read: it gets the same content as the first one.
            (known.path, known.bytes_max) = (path, bytes_max);
            let missed = known.take_missed();
            known.keep(&missed, &self.writer);
            if let Ok(shared) = memory.share() {
                known.account.move_to(shared);
            }
            known.memory.move_to(memory);
            if known.pipe.is_none() {
                known.memory.finish();
            }
            return;
        }
        if self.logs.len() >= LOGS_MAX {
            // Make space by removing a log that has ended and was not released.
            let Some(ended) = self.logs.iter().position(|log| log.pipe.is_none()) else { return };
            self.logs.remove(ended);
        }
        if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err() {
            return;
        }
        let Ok(account) = memory.share().map(Account::of) else { return };
        let mut memory = Recorder::of(memory);
        let lost = memory.merge_lost();
        let dropped = memory.head().dropped_bytes + lost;
        let counter = self.counters.iter().position(|(known, _)| known == id).map(|at| self.counters.remove(at).1);
        let mut source = Source {
            id: id.to_owned(),
            counter,
            pipe: Some(File::from(pipe)),
            path,
            bytes_max,
            lines: Lines::new(),
            memory,
            account: Arc::new(account),
            dropped,
            unreported: 0,
            late: Vec::new(),
            read_at: Instant::now(),
        };
        let note = source.lines.note_missing(lost, "the logger was killed before they were written");
        source.keep(&note, &self.writer);
        self.logs.push(source);
    }

    fn forget(&mut self, id: &str) {
        let Some(at) = self.logs.iter().position(|log| log.id == id) else { return };
        let mut log = self.logs.remove(at);
        for _ in 0..LAST_CHUNKS_MAX {
            if matches!(log.read(&mut self.chunk, &self.writer), ReadResult::Nothing) {
                break;
            }
        }
        log.end(&self.writer);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FallbackReader, Log, Logger, PIPE_BYTES, pipe};
    use std::io::Read;

    use super::*;
    use std::io::Write;
    use std::thread::JoinHandle;

    /// A logger in a thread, and a client of it.
    fn logger(dir: &Path) -> (Logger, JoinHandle<()>) {
        let (ours, theirs) = Logger::connection().unwrap();
        let dir = dir.to_owned();
        (Logger::of(ours), std::thread::spawn(move || serve(theirs, &dir).unwrap()))
    }

    fn until(what: &str, mut fact: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fact() {
            assert!(Instant::now() < deadline, "timeout while waiting for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn log(logger: &Logger, id: &str, dir: &Path, bytes_max: u64) -> (Log, File, OwnedFd) {
        let (read, write) = pipe().unwrap();
        let memory = Memory::new().unwrap();
        (logger.read(id, &read, memory, &dir.join("a.log"), bytes_max), File::from(write), read)
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (logger, thread) = logger(dir.path());
        for (id, word) in [("1", "first\n"), ("2", "second\n")] {
            let (log, mut write, read) = log(&logger, id, dir.path(), 1 << 20);
            drop(read);
            write.write_all(word.as_bytes()).unwrap();
            until("the words", || log.recent() == word.as_bytes());
            assert!(!log.is_finished());
            drop(write);
            until("the end", || log.is_finished());
            assert_eq!((log.recent(), log.stats().read_bytes), (word.as_bytes().to_vec(), word.len() as u64));
        }
        drop(logger);
        thread.join().unwrap();
        assert_eq!(std::fs::read(dir.path().join("a.log")).unwrap(), b"first\nsecond\n");
    }

    #[test]
    fn the_next_supervisor_gets_the_same_log_as_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (logger, thread) = logger(dir.path());
        let (first, mut write, read) = log(&logger, "1", dir.path(), 1 << 20);
        write.write_all(b"before\n").unwrap();
        until("the words", || first.recent() == b"before\n");
        drop(first);
        write.write_all(b"meanwhile\n").unwrap();
        let next = logger.read("1", &read, Memory::new().unwrap(), &dir.path().join("a.log"), 1 << 20);
        until("all words", || next.recent() == b"before\nmeanwhile\n");
        drop(write);
        until("the end", || next.is_finished());
        // Another supervisor, after the end.
        let last = logger.read("1", &read, Memory::new().unwrap(), &dir.path().join("a.log"), 1 << 20);
        until("the end", || last.is_finished());
        assert_eq!((last.recent(), last.stats().read_bytes), (b"before\nmeanwhile\n".to_vec(), 17));
        drop(logger);
        thread.join().unwrap();
    }

    #[test]
    fn another_logger_goes_on_with_the_same_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (first, thread) = logger(dir.path());
        let (log, mut write, read) = log(&first, "1", dir.path(), 1 << 20);
        write.write_all(b"before\n").unwrap();
        until("the words", || log.recent() == b"before\n");
        // As if its process was killed: it reads no more.
        first.forget("1");
        until("the end of the first one", || log.is_finished());
        drop(first);
        thread.join().unwrap();
        write.write_all(b"between\n").unwrap();
        let (second, thread) = logger(dir.path());
        second.read_again(&log, &read);
        until("all words", || log.recent() == b"before\nbetween\n" && !log.is_finished());
        drop((write, second));
        thread.join().unwrap();
        assert_eq!(std::fs::read(dir.path().join("a.log")).unwrap(), b"before\nbetween\n");
    }

    /// The first logger hangs, and a fallback reader drains what does not fit into the pipe. The next logger writes how
    /// much is missing.
    #[test]
    fn bytes_dropped_while_no_logger_read_are_noted_at_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let (first, thread) = logger(dir.path());
        let (log, mut write, read) = log(&first, "1", dir.path(), 64 << 20);
        write.write_all(b"before\n").unwrap();
        until("the words", || log.recent() == b"before\n");
        first.forget("1");
        until("the end of the first one", || log.is_finished());
        drop(first);
        thread.join().unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let (mut written, mut dropped) = (7, 0);
        for n in 0..5 * PIPE_BYTES / 100 {
            dropped += log.drain_excess(&read, FallbackReader::Supervisor).unwrap();
            if n % 2 == 0 {
                dropped += log.drain_excess(&read, FallbackReader::Keeper).unwrap();
            }
            write.write_all(&line).unwrap();
            written += 100;
        }
        assert!(dropped > 3 * PIPE_BYTES as u64);
        assert_eq!(log.stats().dropped_bytes, dropped, "counted before there is a logger");
        let (second, thread) = logger(dir.path());
        second.read_again(&log, &read);
        drop(write);
        until("the end", || log.is_finished());
        drop(second);
        thread.join().unwrap();
        let text = String::from_utf8(std::fs::read(dir.path().join("a.log")).unwrap()).unwrap();
        let note = format!("before\n\n[rei: {dropped} bytes dropped here: the logger did not read them]\n");
        assert!(text.starts_with(&note), "{}", &text[..200]);
        assert_eq!(text.len() as u64 - (note.len() as u64 - 7) + dropped, written, "all is there or counted");
        assert_eq!((log.stats().read_bytes, log.stats().dropped_bytes), (written, dropped));
    }

    /// The first logger ends while the disk hangs: the file is a named pipe without a reader.
    #[test]
    fn the_next_logger_notes_bytes_that_the_last_one_read_and_did_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let (first, thread) = logger(dir.path());
        let (log, mut write, read) = log(&first, "1", dir.path(), 1 << 20);
        write.write_all(b"nobody will know\n").unwrap();
        until("the words", || log.recent() == b"nobody will know\n");
        first.forget("1");
        until("the end of the first one", || log.is_finished());
        drop(first);
        thread.join().unwrap();
        assert_eq!(log.stats().dropped_bytes, 0, "not known yet");
        std::fs::remove_file(&path).unwrap();
        for words in ["second\n", "third\n"] {
            let (next, thread) = logger(dir.path());
            next.read_again(&log, &read);
            write.write_all(words.as_bytes()).unwrap();
            until("the words", || log.recent().ends_with(words.as_bytes()));
            next.forget("1");
            until("the end", || log.is_finished());
            drop(next);
            thread.join().unwrap();
        }
        let note = "\n[rei: 17 bytes dropped here: the logger was killed before they were written]\nsecond\nthird\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), note);
        assert_eq!((log.stats().read_bytes, log.stats().dropped_bytes), (30, 17));
    }

    #[test]
    fn a_new_logger_continues_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "before\n").unwrap();
        let (logger, thread) = logger(dir.path());
        let (read, write) = pipe().unwrap();
        let log = logger.resume("1", &read, Memory::new().unwrap(), &path, 1 << 20);
        assert_eq!(log.recent(), b"before\n");
        File::from(write).write_all(b"after\n").unwrap();
        until("the end", || log.is_finished());
        assert_eq!(log.recent(), b"before\nafter\n");
        let other = Log::of_another_logger("1", &path, 1 << 20).unwrap();
        drop(logger);
        thread.join().unwrap();
        assert_eq!((other.recent(), other.is_finished()), (b"before\nafter\n".to_vec(), false));
    }

    #[test]
    fn an_open_pipe_does_not_delay_the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let (logger, thread) = logger(dir.path());
        let (log, mut write, read) = log(&logger, "1", dir.path(), 1 << 20);
        drop(read);
        write.write_all(b"a daemon has this pipe still\n").unwrap();
        logger.forget("1");
        until("the end", || log.is_finished());
        assert_eq!(log.stats().read_bytes, 29);
        drop(logger);
        thread.join().unwrap();
        drop(write);
    }

    /// The disk hangs: the file is a named pipe without a reader, so opening it blocks for ever.
    #[test]
    fn the_logger_does_not_wait_for_a_hanging_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let (logger, thread) = logger(dir.path());
        let (log, mut write, read) = log(&logger, "1", dir.path(), 64 << 20);
        let line = vec![b'x'; 9999];
        let lines = 5 * PIPE_BYTES as usize / 10_000;
        for _ in 0..lines {
            write.write_all(&line).unwrap();
            write.write_all(b"\n").unwrap();
        }
        write.write_all(b"the end\n").unwrap();
        until("the last line", || log.recent().ends_with(b"\nthe end\n"));
        let stats = log.stats();
        assert_eq!(stats.read_bytes, lines as u64 * 10_000 + 8);
        assert!(stats.dropped_bytes >= 3 * PIPE_BYTES as u64, "{stats:?}");
        // The disk works again.
        let mut disk = File::open(&path).unwrap();
        let (mut text, mut chunk) = (String::new(), vec![0; 1 << 16]);
        let end =
            |text: &str| text.split_once("bytes dropped here: the disk was too slow]\n").map(|(_, end)| end.to_owned());
        while !end(&text).is_some_and(|end| end.starts_with("xxxx") && end.contains("x\nthe end\nagain\n")) {
            write.write_all(b"again\n").unwrap();
            let n = disk.read(&mut chunk).unwrap();
            text += std::str::from_utf8(&chunk[..n]).unwrap();
        }
        drop((write, read, logger));
        drop(disk);
        thread.join().unwrap();
    }
}
