//! What the logger counted of an access log, in memory that it shares with the supervisor.
//!
//! The logger publishes a sample. Until the supervisor has taken it, the logger does not replace it, and adds what comes
//! to the next one. So each request is counted once, however long there is no supervisor: the next one takes what came
//! meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::live::Sample;
use crate::live::log::{Rules, Tally};

/// Size of the memory, in bytes. A sample has at most 65 routes with 176 buckets of latency, and 64 messages: 300 KiB
/// as JSON. Only pages that were written use memory.
const COUNTS_BYTES: u64 = 1 << 20;
/// Offset of the number of samples that were published; only the logger writes it.
const PUBLISHED_AT: u64 = 0;
/// Offset of the number of samples that were taken; only the supervisor writes it.
const TAKEN_AT: u64 = 8;
/// Offset of the length of the sample.
const LENGTH_AT: u64 = 16;
/// Offset of the sample.
const SAMPLE_AT: u64 = 64;
/// The pause between two samples of the logger.
pub(super) const PUBLISH_PAUSE: Duration = Duration::from_millis(250);

/// The memory with the last sample.
#[derive(Debug)]
pub struct Counts(Shared);

impl Counts {
    /// Makes an empty one.
    ///
    /// # Errors
    /// If there are no free descriptors or no memory.
    pub fn new() -> io::Result<Self> {
        Shared::new(c"rei-counts", COUNTS_BYTES).map(Self)
    }

    /// The memory that came from another process.
    pub(super) fn of(fd: OwnedFd) -> Self {
        Self(Shared::of(fd))
    }

    /// Takes the sample that the logger published since the last call; `None` if there is none. Only the supervisor may
    /// call this.
    pub fn take(&self) -> Option<Sample> {
        let published = self.0.word(PUBLISHED_AT);
        if published == self.0.word(TAKEN_AT) {
            return None;
        }
        let length = self.0.word(LENGTH_AT).min(COUNTS_BYTES - SAMPLE_AT);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.0.read(SAMPLE_AT, &mut bytes);
        self.0.set_word(TAKEN_AT, published);
        serde_json::from_slice(&bytes).ok()
    }

    fn is_taken(&self) -> bool {
        self.0.word(PUBLISHED_AT) == self.0.word(TAKEN_AT)
    }

    /// Publishes a sample, after the last one was taken.
    fn publish(&self, sample: &Sample) {
        let bytes = serde_json::to_vec(sample).unwrap_or_default();
        if bytes.len() as u64 <= COUNTS_BYTES - SAMPLE_AT {
            self.0.write(SAMPLE_AT, &bytes);
            self.0.set_word(LENGTH_AT, bytes.len() as u64);
            self.0.set_word(PUBLISHED_AT, self.0.word(PUBLISHED_AT).wrapping_add(1));
        }
    }
}

impl AsFd for Counts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The logger's side: counts the lines of one instance.
pub(super) struct Counter {
    tally: Tally,
    counts: Counts,
    /// The last sample, until it is taken.
    published: Sample,
    published_at: Instant,
}

impl Counter {
    /// A counter with the rules of a request; `None` if they cannot be read.
    pub(super) fn new(rules: &str, counts: Counts) -> Option<Self> {
        let rules: Rules = serde_json::from_str(rules).ok()?;
        let tally = Tally::new(rules).ok()?;
        Some(Self { tally, counts, published: Sample::default(), published_at: Instant::now() })
    }

    /// Continues another counter of the same instance: what no supervisor has taken stays.
    pub(super) fn continue_from(&mut self, mut other: Self) {
        let mut left = other.tally.finish();
        if !other.counts.is_taken() {
            left.merge(&other.published);
        }
        self.tally.add(&left);
    }

    /// Counts output. If it is a flood, its lines are not read.
    pub(super) fn take(&mut self, output: &[u8], is_flood: bool) {
        if is_flood { self.tally.skip(output) } else { self.tally.take(output) }
    }

    /// Some output was not read: the present line is not whole.
    pub(super) fn miss(&mut self) {
        self.tally.skip(&[]);
    }

    /// Whether something was counted that is not published.
    pub(super) fn waits(&self) -> bool {
        !self.tally.is_empty()
    }

    /// Publishes what was counted, if the last sample was taken and the pause is over.
    pub(super) fn publish(&mut self) {
        if self.waits() && self.published_at.elapsed() >= PUBLISH_PAUSE {
            self.published_at = Instant::now();
            if self.counts.is_taken() {
                self.published = self.tally.finish();
                self.counts.publish(&self.published);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Logger, Memory, pipe, serve};
    use super::*;
    use crate::live::{Class, Route};
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;
    use std::thread::JoinHandle;

    const RULES: &str = r#"{"format":"logfmt","unit":null}"#;

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

    fn line(path: &str, status: u16) -> String {
        format!("method=GET path={path} status={status} duration=5ms\n")
    }

    #[test]
    fn each_request_is_counted_once_by_whatever_supervisor_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let (logger, thread) = logger(dir.path());
        let ((read, write), path) = (pipe().unwrap(), dir.path().join("a.log"));
        let mut write = File::from(write);
        let first = logger.counting(RULES).read("1", &read, Memory::new().unwrap(), &path, 1 << 20);
        let mut all = Sample::default();
        for round in 0..3 {
            for status in [200, 500] {
                write.write_all(line("/a", status).as_bytes()).unwrap();
            }
            let wanted = 2 * (round + 1);
            until("the requests", || {
                first.take_counts().iter().for_each(|sample| all.merge(sample));
                all.total().total() == wanted
            });
        }
        drop(first);
        // Without a supervisor more comes than fits into one sample of the logger.
        for _ in 0..1_000 {
            write.write_all(line("/b", 200).as_bytes()).unwrap();
        }
        let again = logger.counting(RULES).read("1", &read, Memory::new().unwrap(), &path, 1 << 20);
        write.write_all(line("/b", 500).as_bytes()).unwrap();
        until("the requests of that time", || {
            again.take_counts().iter().for_each(|sample| all.merge(sample));
            all.total().total() >= 6 + 1_001
        });
        let b = all.get(&Route::of_request("GET", "/b")).unwrap();
        assert_eq!((b.of(Class::Success), b.of(Class::ServerError), b.latencies.total()), (1_000, 1, 1_001));
        assert_eq!((all.total().total(), all.unread), (1_007, 0));
        drop((write, read, logger));
        thread.join().unwrap();
        assert_eq!(again.take_counts(), None);
    }
}
