//! The logger's process: one loop that reads, one thread that writes files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::{Mode, umask};

use super::handover;
use super::lines::{FLOOD_END_BYTES, Lines, note};
use super::memory::{Memory, Recorder};
use super::writer::{Account, Piece, Writer};
use crate::runtime::keeper::wire::{self, Packet};

/// Read a pipe: the text is the instance, its file and the bound of it in bytes, a line each; the descriptors are the
/// pipe and the memory.
pub(super) const READ: u8 = b'R';
/// Let go of the instance that the text names: read what is in its pipe, and no more.
pub(super) const FORGET: u8 = b'F';

/// What is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that are still read when a log is let go: four pipes full.
const LAST_CHUNKS_MAX: usize = 64;

/// The pause after a round in which a flood was dropped: the flood may not cost a processor.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// How long a pipe must be quiet before a flood is taken to be over, and what is missing is told.
const QUIET: Duration = Duration::from_millis(200);

/// Logs at once: every instance that the instance table can hold, four times.
const LOGS_MAX: usize = 64;

/// How long the last bytes may take to the disk when the logger ends.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Runs the logger on the connection that is its standard input, for files below `directory`. It ends when nobody has the
/// other end and every pipe is read to its end.
///
/// It ignores the signals that end what is around it: it must outlive its supervisor, and the last words of an instance
/// come after that was told to end. It is not dumpable, so that nobody of its user reads what it has read.
///
/// Must be called while the process has one thread.
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
    // SAFETY: called first of all in a process whose own code has opened nothing yet; what is closed belongs to nobody here.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    umask(Mode::from_bits_truncate(0o077));
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: to ignore a signal runs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    handover::listen()?;
    // For `ps`, and for a supervisor that looks for a lost logger.
    let _ = prctl::set_name(handover::NAME);
    Ok(())
}

/// Does the logger's work until nobody needs it any more.
///
/// # Errors
/// When there are no descriptors or threads for it.
pub fn serve(connection: OwnedFd, directory: &Path) -> io::Result<()> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let mut server = Server {
        connection: Some(connection),
        directory: directory.to_owned(),
        logs: Vec::new(),
        writer: Writer::start(wake.clone())?,
        wake,
        chunk: vec![0; CHUNK_BYTES],
    };
    let is_needed = |server: &Server| server.connection.is_some() || server.logs.iter().any(|log| log.pipe.is_some());
    while is_needed(&server) && !handover::is_asked() {
        server.round()?;
    }
    // Asked to make way, it has lines that were read and not written.
    let writer = &server.writer;
    server.logs.iter_mut().for_each(|log| log.catch_up(writer));
    server.writer.finish(FLUSH_MAX);
    Ok(())
}

struct Server {
    connection: Option<OwnedFd>,
    directory: PathBuf,
    logs: Vec<Source>,
    writer: Writer,
    wake: Arc<EventFd>,
    chunk: Vec<u8>,
}

/// One instance's log.
struct Source {
    id: String,
    /// `None` when it is read to its end.
    pipe: Option<File>,
    path: Arc<Path>,
    bytes_max: u64,
    lines: Lines,
    memory: Recorder,
    account: Arc<Account>,
    /// Bytes that were dropped before or by others, and because too much waited for the disk.
    dropped: u64,
    /// Those of them that the file does not tell of yet.
    untold: u64,
    /// What came last of that which the disk was too slow for: the file gets it once there is room, as the last lines say
    /// why there were so many.
    late: Vec<u8>,
    /// When something was read last.
    read_at: Instant,
}

/// What a look at a pipe brought.
enum Found {
    Nothing,
    Lines,
    Flood,
}

impl Server {
    /// Waits until something can be done, and does it.
    fn round(&mut self) -> io::Result<()> {
        let (asked, readable, refused) = self.wait()?;
        let mut flood = false;
        for index in readable {
            flood |= matches!(self.logs[index].read(&mut self.chunk, &self.writer), Found::Flood);
        }
        for log in self.logs.iter_mut().filter(|log| log.is_behind() && log.read_at.elapsed() >= QUIET) {
            log.catch_up(&self.writer);
        }
        if refused {
            // It may have been read by nobody else.
            let _ = self.wake.read();
            self.logs.iter_mut().for_each(Source::tell);
        }
        if asked {
            self.obey();
        }
        if flood {
            std::thread::sleep(FLOOD_PAUSE);
        }
        Ok(())
    }

    /// Whether the supervisor asks something, which logs can be read, and whether the disk has refused something.
    fn wait(&self) -> io::Result<(bool, Vec<usize>, bool)> {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.wake.as_fd())];
        fds.extend(self.connection.iter().map(|connection| watch(connection.as_fd())));
        let open: Vec<usize> = (0..self.logs.len()).filter(|index| self.logs[*index].pipe.is_some()).collect();
        fds.extend(self.logs.iter().filter_map(|log| log.pipe.as_ref()).map(|pipe| watch(pipe.as_fd())));
        let behind = self.logs.iter().any(Source::is_behind);
        let timeout = if behind { PollTimeout::try_from(QUIET).unwrap_or(PollTimeout::MAX) } else { PollTimeout::NONE };
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

    /// Does what the supervisor asks. Nothing is answered: what is done is seen in the memory.
    fn obey(&mut self) {
        let Some(connection) = &self.connection else { return };
        match wire::receive(connection, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(packet)) if packet.kind == READ => self.begin(packet),
            Ok(Some(packet)) if packet.kind == FORGET => self.forget(&packet.text),
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Nobody has the other end any more.
            Ok(None) | Err(_) => self.connection = None,
        }
    }

    fn begin(&mut self, packet: Packet) {
        let mut words = packet.text.lines();
        let (Some(id), Some(name), Some(bytes_max)) = (words.next(), words.next(), words.next()) else { return };
        let Ok(bytes_max) = bytes_max.parse::<u64>() else { return };
        let Ok([pipe, memory]) = <[OwnedFd; 2]>::try_from(packet.fds) else { return };
        // A file below this directory, whoever asks.
        let path: Arc<Path> = PathBuf::from(name).into();
        let inside = path.starts_with(&self.directory) && !path.components().any(|part| part == Component::ParentDir);
        if !inside {
            return;
        }
        let memory = Memory::of(memory);
        if let Some(known) = self.logs.iter_mut().find(|log| log.id == id) {
            // The next supervisor asks for what is read already: it gets what the first one would have.
            (known.path, known.bytes_max) = (path, bytes_max);
            let missed = known.missed();
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
            // One that has ended, and that nobody let go.
            let Some(ended) = self.logs.iter().position(|log| log.pipe.is_none()) else { return };
            self.logs.remove(ended);
        }
        if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err() {
            return;
        }
        let Ok(account) = memory.share().map(Account::of) else { return };
        let mut memory = Recorder::of(memory);
        let lost = memory.join_lost();
        let dropped = memory.head().dropped_bytes + lost;
        let mut source = Source {
            id: id.to_owned(),
            pipe: Some(File::from(pipe)),
            path,
            bytes_max,
            lines: Lines::new(),
            memory,
            account: Arc::new(account),
            dropped,
            untold: 0,
            late: Vec::new(),
            read_at: Instant::now(),
        };
        let told = source.lines.miss(lost, "the logger was killed before they were written");
        source.keep(&told, &self.writer);
        self.logs.push(source);
    }

    fn forget(&mut self, id: &str) {
        let Some(at) = self.logs.iter().position(|log| log.id == id) else { return };
        let mut log = self.logs.remove(at);
        for _ in 0..LAST_CHUNKS_MAX {
            if matches!(log.read(&mut self.chunk, &self.writer), Found::Nothing) {
                break;
            }
        }
        log.end(&self.writer);
    }
}

impl Source {
    /// Reads one chunk.
    fn read(&mut self, chunk: &mut [u8], writer: &Writer) -> Found {
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
    fn missed(&mut self) -> Vec<u8> {
        let bytes = self.memory.join_dropped();
        self.dropped += bytes;
        self.lines.miss(bytes, "the logger did not read them")
    }

    fn keep(&mut self, lines: &[u8], writer: &Writer) {
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
    fn is_behind(&self) -> bool {
        self.lines.is_behind() || self.is_late()
    }

    fn is_late(&self) -> bool {
        self.untold > 0 || !self.late.is_empty()
    }

    /// Tells what is missing, and keeps the end of a flood.
    fn catch_up(&mut self, writer: &Writer) {
        self.read_at = Instant::now();
        let mut kept = self.missed();
        kept.extend(self.lines.catch_up());
        self.keep(&kept, writer);
        if self.is_late() {
            self.write(&[], writer);
        }
    }

    /// There is no more to come.
    fn end(&mut self, writer: &Writer) {
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

    fn count(&mut self) {
        let refused = self.account.refused.load(Ordering::Acquire);
        let dropped = self.dropped + self.late.len() as u64 + self.lines.dropped() + refused;
        let head = self.memory.head();
        head.dropped_bytes = dropped;
        if refused > 0 {
            head.errno = self.account.errno.load(Ordering::Acquire);
        }
    }

    fn tell(&mut self) {
        self.count();
        self.memory.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Log, Logger, PIPE_BYTES, StandIn, pipe};
    use super::*;
    use std::io::Write;
    use std::thread::JoinHandle;

    /// A logger in a thread, and a supervisor's side of it.
    fn logger(dir: &Path) -> (Logger, JoinHandle<()>) {
        let (ours, theirs) = Logger::connection().unwrap();
        let dir = dir.to_owned();
        (Logger::of(ours), std::thread::spawn(move || serve(theirs, &dir).unwrap()))
    }

    fn until(what: &str, mut fact: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fact() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
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
    fn the_next_supervisor_gets_what_the_first_one_would_have() {
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
        // And another one, after the end.
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
        // As when its process was killed: it reads no more.
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

    /// The first logger hangs; what does not fit the pipe is read in its place. The next one says how much.
    #[test]
    fn what_was_dropped_while_no_logger_read_is_told_where_it_is_missing() {
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
            dropped += log.relieve(&read, StandIn::Supervisor).unwrap();
            if n % 2 == 0 {
                dropped += log.relieve(&read, StandIn::Keeper).unwrap();
            }
            write.write_all(&line).unwrap();
            written += 100;
        }
        assert!(dropped > 3 * PIPE_BYTES as u64);
        assert_eq!(log.stats().dropped_bytes, dropped, "told before there is a logger");
        let (second, thread) = logger(dir.path());
        second.read_again(&log, &read);
        drop(write);
        until("the end", || log.is_finished());
        drop(second);
        thread.join().unwrap();
        let text = String::from_utf8(std::fs::read(dir.path().join("a.log")).unwrap()).unwrap();
        let told = format!("before\n\n[rei: {dropped} bytes dropped here: the logger did not read them]\n");
        assert!(text.starts_with(&told), "{}", &text[..200]);
        assert_eq!(text.len() as u64 - (told.len() as u64 - 7) + dropped, written, "all is there or counted");
        assert_eq!((log.stats().read_bytes, log.stats().dropped_bytes), (written, dropped));
    }

    /// The first logger ends while the disk hangs: nobody reads the named pipe in the file's place.
    #[test]
    fn what_a_logger_had_read_and_not_written_is_told_by_the_next_one() {
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
        assert_eq!(log.stats().dropped_bytes, 0, "nobody knows it yet");
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
        let told = "\n[rei: 17 bytes dropped here: the logger was killed before they were written]\nsecond\nthird\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), told);
        assert_eq!((log.stats().read_bytes, log.stats().dropped_bytes), (30, 17));
    }

    #[test]
    fn a_logger_that_knows_nothing_goes_on_from_the_file() {
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
    fn an_open_pipe_does_not_hold_up_the_end() {
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

    /// The disk hangs: nobody reads the named pipe that is in the file's place, and to open it waits for ever.
    #[test]
    fn a_disk_that_hangs_is_not_waited_for() {
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
        until("the last words", || log.recent().ends_with(b"\nthe end\n"));
        let stats = log.stats();
        assert_eq!(stats.read_bytes, lines as u64 * 10_000 + 8);
        assert!(stats.dropped_bytes >= 3 * PIPE_BYTES as u64, "{stats:?}");
        // It works again.
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
