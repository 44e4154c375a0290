//! Limits the total use of memory and disk by a confined program while it runs. Limits per process do not limit the
//! memory of many processes, or the files that fill the disk where Active's records and logs are written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::process;

/// The pause between two checks. A program that writes 1 GiB/s is stopped before it has used the reserved space.
const CHECK_PAUSE: Duration = Duration::from_millis(250);
/// Maximum number of processes examined; the limit of processes is lower.
const PROCESSES_MAX: usize = 4096;
/// Space that must stay free on each disk that the program can write to, in bytes; or half of the free space at its
/// start, if that is less.
const DISK_LEFT_BYTES: u64 = 256 << 20;

/// The limit that a program exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Memory.
    Memory {
        /// The memory of all its processes, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        bound: u64,
    },
    /// Free space on a disk.
    Disk {
        /// A directory on that disk.
        dir: PathBuf,
        /// The free space, in bytes.
        left: u64,
        /// The space that must stay free, in bytes.
        bound: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Memory { bytes, bound } => {
                write!(f, "used {} MiB of memory, more than its limit of {} MiB,", mib(bytes), mib(bound))
            }
            Self::Disk { dir, left, bound } => {
                let dir = dir.display();
                // Other processes write to the disk, too. The program need not be the cause, but it is the one that can
                // be stopped.
                write!(
                    f,
                    "ran while only {} MiB were free at {dir}, less than the minimum of {} MiB,",
                    mib(left),
                    mib(bound)
                )
            }
        }
    }
}

/// The space that must stay free on each disk that a program may write to.
pub(super) struct Disks(Vec<(PathBuf, u64)>);

impl Disks {
    /// Call this before the program starts; otherwise its first writes would count as used space.
    pub fn before(write: &[PathBuf]) -> Self {
        let bound = |dir: &PathBuf| Some((dir.clone(), DISK_LEFT_BYTES.min(free_bytes(dir)? / 2)));
        Self(write.iter().filter_map(bound).collect())
    }
}

/// The limits of one program.
pub(super) struct ResourceWatch {
    first: u32,
    memory_bytes: u64,
    disks: Disks,
}

impl ResourceWatch {
    /// Watches the process `first` with all its descendants, and the disks that they may write to.
    pub fn begin(first: u32, memory_bytes: u64, disks: Disks) -> Self {
        Self { first, memory_bytes, disks }
    }

    /// Returns when a limit is exceeded, and never before.
    pub async fn exceeded(self) -> Excess {
        let watch = Arc::new(self);
        loop {
            tokio::time::sleep(CHECK_PAUSE).await;
            let watch = Arc::clone(&watch);
            // A check reads a file per process, so it runs off the event loop. If a check fails, the next one follows.
            if let Ok(Some(excess)) = tokio::task::spawn_blocking(move || watch.check()).await {
                return excess;
            }
        }
    }

    fn check(&self) -> Option<Excess> {
        let bound = self.memory_bytes;
        let bytes = memory_bytes(self.first, bound);
        if bytes > bound {
            return Some(Excess::Memory { bytes, bound });
        }
        self.disks.0.iter().find_map(|(dir, bound)| {
            let left = free_bytes(dir).filter(|left| left < bound)?;
            Some(Excess::Disk { dir: dir.clone(), left, bound: *bound })
        })
    }
}

/// The memory of a process tree, in bytes. First shared pages are counted in full for each process, which is fast. Only
/// if that exceeds the limit, they are divided among the processes that share them.
fn memory_bytes(first: u32, bound: u64) -> u64 {
    let mut tree = process::with_descendants(process::stat(first).into_iter().collect(), PROCESSES_MAX);
    // The guard is a fork of rei and has no memory of its own.
    tree.retain(|stat| stat.pid != first);
    let page_bytes = process::page_bytes();
    let resident = |stat: &process::Stat| stat.rss_pages.saturating_mul(page_bytes);
    let quick: u64 = tree.iter().map(resident).sum();
    if quick <= bound {
        return quick;
    }
    tree.iter().map(|stat| process::proportional_bytes(stat.pid).unwrap_or_else(|| resident(stat))).sum()
}

/// Free space for users other than root, in bytes; `None` if it cannot be read.
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = statvfs(dir).ok()?;
    disk.blocks_available().checked_mul(disk.fragment_size())
}
