//! The instance table records the processes that rei has started. It is complete even if the supervisor is killed while
//! it starts one.
//!
//! It is a small file, mapped shared. The supervisor reserves a slot before it makes the process, and the new process
//! writes its own pid into the slot before exec. A write into the page cache survives the death of the writer. So at no
//! instruction can a SIGKILL of the supervisor leave an instance that is not in the table. (A crash of the machine also
//! ends the instances: a table from another boot is cleared.)
//!
//! The supervisor locks the table. A process between clone and exec also holds that lock. So when the next supervisor
//! gets the lock, every process has written its pid or is gone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Number of slots: two traffic slots, a standby, their successors, and some that are being stopped.
pub const SLOTS: usize = 16;

/// Maximum length of an instance id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// How long [`InstanceTable::open`] waits for the lock. A process between clone and exec holds it for about a
/// millisecond, so a lock that is held longer belongs to another supervisor.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The pause between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

const MAGIC: [u8; 8] = *b"reitab01";
const BOOT_ID_BYTES: usize = 36;
const FREE: u32 = 0;
const RESERVED: u32 = 1;

#[repr(C)]
struct Map {
    magic: [u8; 8],
    boot_id: [u8; BOOT_ID_BYTES],
    /// 1 if the last supervisor stopped every instance itself.
    stopped: AtomicU32,
    padding: [u8; 16],
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    state: AtomicU32,
    pid: AtomicU32,
    start_ticks: AtomicU64,
    id_bytes: AtomicU32,
    /// 1 after the instance has sent READY=1.
    reported_ready: AtomicU32,
    id: [AtomicU64; ID_BYTES_MAX / 8],
}

const MAP_BYTES: NonZeroUsize = NonZeroUsize::new(size_of::<Map>()).expect("a map has fields");

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file could not be opened, created or mapped.
    #[error("cannot use the instance table {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Another supervisor has locked it.
    #[error("another supervisor uses the instance table {path}")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an instance table.
    #[error("{path} is not an instance table of this version of rei")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// No slot is free.
    #[error("the instance table is full: {SLOTS} instances")]
    Full,
    /// The id is empty, too long or already used.
    #[error("the instance id {id:?} is empty, longer than {ID_BYTES_MAX} bytes or already in the table")]
    Id {
        /// The id.
        id: String,
    },
}

impl TableError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => Some("stop the other `rei run`, or give this one its own state.directory".into()),
            Self::Foreign { path } => Some(format!(
                "move it away: mv {0} {0}.bad; running instances are found without it and adopted",
                path.display()
            )),
            Self::Io { .. } | Self::Full | Self::Id { .. } => None,
        }
    }
}

/// The table entry of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The instance id.
    pub id: String,
    /// The pid of its main process; `None` if no process was made.
    pub pid: Option<u32>,
    /// The start time of the main process, in clock ticks since boot; `None` if the supervisor died before it read it.
    pub start_ticks: Option<u64>,
    /// True if it has sent READY=1, which an instance sends only once.
    pub reported_ready: bool,
}

/// The table, locked and mapped.
pub struct InstanceTable {
    map: NonNull<Map>,
    lock: File,
    new_boot: bool,
    clean_stop: bool,
    /// True if this supervisor created the file.
    new: bool,
}

// SAFETY: the mapping belongs to the table and is unmapped only on drop, and every field that changes after `open` is
// atomic.
unsafe impl Send for InstanceTable {}
// SAFETY: all access through a shared reference is to atomics, or to fields that never change after `open`.
unsafe impl Sync for InstanceTable {}

impl InstanceTable {
    /// Opens the table at `path`. Creates it if it does not exist, and clears it if it is from another boot. Blocks for
    /// the lock at most [`LOCK_WAIT`], so call it only when the supervisor starts, not in its loop.
    ///
    /// # Errors
    /// If the file cannot be used, is not a table, or is locked by another supervisor.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let failed = |source| TableError::Io { path: path.to_owned(), source };
        let boot_id = std::fs::read("/proc/sys/kernel/random/boot_id").map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        lock(&file, path)?;
        // If the file is too short, its creator died before it was complete, so no slot was ever used.
        let new = file.metadata().map_err(failed)?.len() < MAP_BYTES.get() as u64;
        if new {
            initialise(&file, &boot_id).map_err(failed)?;
        }
        let map = map(&file).map_err(failed)?;
        // SAFETY: the mapping is page-aligned, has the size of a `Map` and lives as long as the table.
        let (magic, of_boot) = unsafe { ((*map.as_ptr()).magic, (*map.as_ptr()).boot_id) };
        let new_boot = boot_id.get(..BOOT_ID_BYTES) != Some(&of_boot[..]);
        let mut table = Self { map, lock: file, new_boot, clean_stop: false, new };
        if magic != MAGIC {
            return Err(TableError::Foreign { path: path.to_owned() });
        }
        table.clean_stop = table.stopped_flag().swap(0, Ordering::AcqRel) == 1;
        if new_boot {
            table.slots().iter().for_each(Slot::free);
            initialise(&table.lock, &boot_id).map_err(failed)?;
        }
        Ok(table)
    }

    /// True if the table did not exist: this is the first start, or the file was removed.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// True if the machine has rebooted since the table was last used. Then no instance can have survived.
    pub fn is_new_boot(&self) -> bool {
        self.new_boot
    }

    /// True if the last supervisor stopped every instance itself. Then missing instances are expected.
    pub fn was_clean_stop(&self) -> bool {
        self.clean_stop
    }

    /// Records that every instance was stopped on purpose.
    pub fn mark_clean_stop(&self) {
        self.stopped_flag().store(1, Ordering::Release);
    }

    fn stopped_flag(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives until drop, and every bit pattern is a valid atomic.
        unsafe { &(*self.map.as_ptr()).stopped }
    }

    /// Reserves a slot for an instance that is about to be started. The new process writes its pid into the returned
    /// cell.
    ///
    /// # Errors
    /// If the id is invalid or already used, or no slot is free.
    pub fn reserve(&self, id: &str) -> Result<PidCell<'_>, TableError> {
        if id.is_empty() || id.len() > ID_BYTES_MAX || self.find(id).is_some() {
            return Err(TableError::Id { id: id.to_owned() });
        }
        let slot = self.slots().iter().find(|slot| slot.state.load(Ordering::Acquire) == FREE);
        let slot = slot.ok_or(TableError::Full)?;
        slot.set_id(id);
        slot.state.store(RESERVED, Ordering::Release);
        Ok(PidCell { pid: &slot.pid, lock: self.lock.as_fd() })
    }

    /// Inserts a running instance that is not in the table, or is there with another process.
    ///
    /// # Errors
    /// If the id is invalid, or no slot is free.
    pub fn insert(&self, id: &str, pid: u32, start_ticks: u64) -> Result<(), TableError> {
        self.clear(id);
        let cell = self.reserve(id)?;
        cell.pid.store(pid, Ordering::Release);
        self.started(id, start_ticks);
        Ok(())
    }

    /// Records the start time of an instance's process.
    pub fn started(&self, id: &str, start_ticks: u64) {
        if let Some(slot) = self.find(id) {
            slot.start_ticks.store(start_ticks, Ordering::Release);
        }
    }

    /// Records that an instance has sent READY=1.
    pub fn reported_ready(&self, id: &str) {
        if let Some(slot) = self.find(id) {
            slot.reported_ready.store(1, Ordering::Release);
        }
    }

    /// Frees the slot of an instance; does nothing if it has none.
    pub fn clear(&self, id: &str) {
        if let Some(slot) = self.find(id) {
            slot.free();
        }
    }

    /// All instances in the table.
    pub fn entries(&self) -> Vec<Entry> {
        self.slots().iter().filter_map(Slot::entry).collect()
    }

    fn slots(&self) -> &[Slot; SLOTS] {
        // SAFETY: the mapping lives until drop; a slot consists of atomics, for which every bit pattern is valid.
        unsafe { &(*self.map.as_ptr()).slots }
    }

    fn find(&self, id: &str) -> Option<&Slot> {
        self.slots().iter().find(|slot| slot.entry().is_some_and(|entry| entry.id == id))
    }
}

impl Drop for InstanceTable {
    fn drop(&mut self) {
        // SAFETY: `open` made the mapping with this size, and a PidCell cannot outlive the table.
        let _ = unsafe { munmap(self.map.cast(), MAP_BYTES.get()) };
    }
}

/// The cell where a new process writes its pid.
#[derive(Clone, Copy)]
pub struct PidCell<'a> {
    pid: &'a AtomicU32,
    lock: BorrowedFd<'a>,
}

impl<'a> PidCell<'a> {
    /// The address of the cell, for the process between clone and exec.
    pub fn as_ptr(self) -> *const AtomicU32 {
        self.pid
    }

    /// The lock that the new process must hold until exec.
    pub fn lock(self) -> BorrowedFd<'a> {
        self.lock
    }
}

impl Slot {
    fn entry(&self) -> Option<Entry> {
        if self.state.load(Ordering::Acquire) != RESERVED {
            return None;
        }
        let words = self.id.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let bytes: Vec<u8> = words.take(self.id_bytes.load(Ordering::Relaxed) as usize).collect();
        let (pid, start_ticks) = (self.pid.load(Ordering::Acquire), self.start_ticks.load(Ordering::Acquire));
        Some(Entry {
            id: String::from_utf8_lossy(&bytes).into_owned(),
            pid: (pid != 0).then_some(pid),
            start_ticks: (start_ticks != 0).then_some(start_ticks),
            reported_ready: self.reported_ready.load(Ordering::Acquire) != 0,
        })
    }

    fn set_id(&self, id: &str) {
        let mut bytes = [0; ID_BYTES_MAX];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        for (word, chunk) in self.id.iter().zip(bytes.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        self.id_bytes.store(id.len() as u32, Ordering::Relaxed);
    }

    fn free(&self) {
        self.state.store(FREE, Ordering::Release);
        self.pid.store(0, Ordering::Release);
        self.start_ticks.store(0, Ordering::Release);
        self.reported_ready.store(0, Ordering::Release);
    }
}

fn lock(file: &File, path: &Path) -> Result<(), TableError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(TableError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(TableError::Io { path: path.to_owned(), source }),
        }
    }
}

/// Writes an empty table. Every byte is written, so that later stores into the mapping need no disk space.
fn initialise(mut file: &File, boot_id: &[u8]) -> io::Result<()> {
    use std::io::Seek;
    let mut bytes = vec![0; MAP_BYTES.get()];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    let n = boot_id.len().min(BOOT_ID_BYTES);
    bytes[MAGIC.len()..MAGIC.len() + n].copy_from_slice(&boot_id[..n]);
    file.rewind()?;
    file.write_all(&bytes)?;
    file.sync_data()
}

fn map(file: &File) -> io::Result<NonNull<Map>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses the address of the new mapping. The lock keeps other writers away, and the file never
    // shrinks.
    let address = unsafe { mmap(None, MAP_BYTES, protection, MapFlags::MAP_SHARED, file, 0)? };
    Ok(address.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, pid: Option<u32>, start_ticks: Option<u64>) -> Entry {
        Entry { id: id.into(), pid, start_ticks, reported_ready: false }
    }

    #[test]
    fn the_next_supervisor_reads_all_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        let table = InstanceTable::open(&path).unwrap();
        let cell = table.reserve("inst_0001").unwrap();
        table.reserve("inst_0002").unwrap();
        // SAFETY: the cell lives as long as the table.
        unsafe { &*cell.as_ptr() }.store(4711, Ordering::Release);
        table.started("inst_0001", 99);
        drop(table);
        let table = InstanceTable::open(&path).unwrap();
        assert_eq!(table.entries(), [entry("inst_0001", Some(4711), Some(99)), entry("inst_0002", None, None)]);
        table.reported_ready("inst_0001");
        drop(table);
        let table = InstanceTable::open(&path).unwrap();
        assert_eq!(table.entries()[0], Entry { reported_ready: true, ..entry("inst_0001", Some(4711), Some(99)) });
        table.clear("inst_0001");
        table.clear("inst_9999");
        assert_eq!(table.entries(), [entry("inst_0002", None, None)]);
        table.insert("inst_0002", 4712, 100).unwrap();
        table.insert("inst_0003", 4713, 101).unwrap();
        let both = [entry("inst_0002", Some(4712), Some(100)), entry("inst_0003", Some(4713), Some(101))];
        assert!(table.entries().iter().all(|it| both.contains(it)) && table.entries().len() == 2);
        assert!(!table.is_new());
    }

    #[test]
    fn a_freed_slot_keeps_no_data_of_its_last_instance() {
        let dir = tempfile::tempdir().unwrap();
        let table = InstanceTable::open(&dir.path().join("instances")).unwrap();
        for n in 0..SLOTS {
            table.reserve(&format!("a-rather-long-instance-name-{n}")).unwrap();
        }
        assert!(matches!(table.reserve("one"), Err(TableError::Full)));
        table.started("a-rather-long-instance-name-3", 5);
        table.reported_ready("a-rather-long-instance-name-3");
        table.clear("a-rather-long-instance-name-3");
        table.reserve("one").unwrap();
        assert!(table.entries().contains(&entry("one", None, None)));
        for id in ["one", "", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert!(matches!(table.reserve(id), Err(TableError::Id { .. })), "{id}");
        }
    }

    #[test]
    fn a_clean_stop_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        InstanceTable::open(&path).unwrap().mark_clean_stop();
        assert!(InstanceTable::open(&path).unwrap().was_clean_stop());
        assert!(!InstanceTable::open(&path).unwrap().was_clean_stop());
    }

    #[test]
    fn a_table_of_another_boot_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        InstanceTable::open(&path).unwrap().reserve("old").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len()] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(InstanceTable::open(&path).unwrap().entries(), []);
    }

    #[test]
    fn an_incomplete_file_is_created_again_and_a_foreign_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        std::fs::write(&path, b"reitab").unwrap();
        assert_eq!(InstanceTable::open(&path).unwrap().entries(), []);
        std::fs::write(&path, vec![b'x'; 9000]).unwrap();
        let error = InstanceTable::open(&path).err().unwrap();
        assert!(matches!(error, TableError::Foreign { .. }) && error.hint().is_some());
    }

    #[test]
    fn a_second_supervisor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances");
        let _first = InstanceTable::open(&path).unwrap();
        assert!(matches!(InstanceTable::open(&path), Err(TableError::Busy { .. })));
    }
}
