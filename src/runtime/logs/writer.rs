//! A thread that writes files, so that reading never waits for the disk. If its queue is full, the caller drops the
//! bytes and counts them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::EventFd;

use super::files::LogFile;
use super::memory::Memory;

/// Size limit of the queue, in bytes: an eighth of a second of output at the maximum rate.
pub(super) const WAITING_BYTES_MAX: usize = 1 << 20;

/// Maximum number of open files: those of two slots, and some others.
const FILES_MAX: usize = 16;

/// Stack size of the thread, in bytes.
const STACK_BYTES: usize = 128 << 10;

/// The counters of one log in the writer.
#[derive(Debug)]
pub(super) struct Account {
    /// Number of bytes that the disk has refused.
    pub(super) refused: AtomicU64,
    /// The errno of the last error, or 0.
    pub(super) errno: AtomicU64,
    /// Number of bytes that the disk has accepted or refused, and the memory where this number is stored: from it the
    /// next logger computes what is missing.
    completed: Mutex<(u64, Memory)>,
}

impl Account {
    /// The counters of the log with this memory.
    pub(super) fn of(memory: Memory) -> Self {
        Self {
            refused: AtomicU64::new(0),
            errno: AtomicU64::new(0),
            completed: Mutex::new((memory.completed(), memory)),
        }
    }

    /// Stores the number in another memory from now on.
    pub(super) fn move_to(&self, memory: Memory) {
        let mut completed = lock(&self.completed);
        memory.set_completed(completed.0);
        completed.1 = memory;
    }

    fn set_completed(&self, bytes: u64) {
        let mut completed = lock(&self.completed);
        completed.0 += bytes;
        completed.1.set_completed(completed.0);
    }
}

/// Bytes to write to a file.
pub(super) struct Piece {
    pub(super) path: Arc<Path>,
    pub(super) bytes_max: u64,
    pub(super) bytes: Vec<u8>,
    /// How many of them the instance printed; the rest are notes.
    pub(super) of_instance: u64,
    pub(super) account: Arc<Account>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Number of bytes in the queue, including those that are being written.
    bytes: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Signals that a write was refused.
    wake: Arc<EventFd>,
}

/// The caller's side of the thread.
pub(super) struct Writer(Arc<Shared>);

impl Writer {
    /// Starts the thread, which lives as long as the process. `wake` is signalled if the disk refuses a write.
    pub(super) fn start(wake: Arc<EventFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), wake });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("files".into()).stack_size(STACK_BYTES);
        thread.spawn(move || of_thread.write_all())?;
        Ok(Self(shared))
    }

    /// Adds a piece to the queue. Returns false if the queue is full.
    pub(super) fn give(&self, piece: Piece) -> bool {
        let mut queue = lock(&self.0.queue);
        if queue.bytes > 0 && queue.bytes + piece.bytes.len() > WAITING_BYTES_MAX {
            return false;
        }
        queue.bytes += piece.bytes.len();
        queue.pieces.push_back(piece);
        self.0.changed.notify_all();
        true
    }

    /// Waits until all is written, or until the timeout.
    pub(super) fn finish(&self, within: Duration) {
        let queue = lock(&self.0.queue);
        // On a timeout nothing more can be done.
        let _ = self.0.changed.wait_timeout_while(queue, within, |queue| queue.bytes > 0);
    }
}

impl Shared {
    fn write_all(&self) {
        let mut files: BTreeMap<Arc<Path>, LogFile> = BTreeMap::new();
        loop {
            let piece = {
                let queue = lock(&self.queue);
                let mut queue = self
                    .changed
                    .wait_while(queue, |queue| queue.pieces.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                queue.pieces.pop_front()
            };
            let Some(piece) = piece else { continue };
            if files.len() >= FILES_MAX && !files.contains_key(&piece.path) {
                files.clear();
            }
            let file = files.entry(piece.path.clone()).or_insert_with(|| LogFile::new(&piece.path));
            if let Err(error) = file.write(&piece.bytes, piece.bytes_max) {
                let errno = error.raw_os_error().and_then(|errno| u64::try_from(errno).ok());
                piece.account.refused.fetch_add(piece.of_instance, Ordering::AcqRel);
                piece.account.errno.store(errno.unwrap_or_default(), Ordering::Release);
                // It is full only if it was signalled already.
                let _ = self.wake.write(1);
            }
            piece.account.set_completed(piece.of_instance);
            lock(&self.queue).bytes -= piece.bytes.len();
            self.changed.notify_all();
        }
    }
}

fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    // A log with a gap is better than none.
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}
