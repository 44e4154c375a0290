//! What a confined program takes of the machine all in all, looked at while it runs: no limit of a single process bounds
//! the memory of many, or how many files fill the disk that Active's records and logs are written to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::process;

/// The pause between two looks: what writes 1 GiB/s is seen before it has written what must stay free.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Processes that are looked at; more than the limit of processes lets it have.
const PROCESSES_MAX: usize = 4096;
/// What stays free on each disk that the program can write to, or half of what was free when it began, in bytes.
const DISK_LEFT_BYTES: u64 = 256 << 20;

/// What a program took too much of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Memory.
    Memory {
        /// What its processes had together, in bytes.
        bytes: u64,
        /// What it may have, in bytes.
        bound: u64,
    },
    /// Free space of a disk.
    Disk {
        /// A directory on it.
        dir: PathBuf,
        /// What is left, in bytes.
        left: u64,
        /// What must be left, in bytes.
        bound: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Memory { bytes, bound } => {
                write!(f, "took {} MiB of memory, of which it may have {} MiB,", mib(bytes), mib(bound))
            }
            Self::Disk { dir, left, bound } => {
                let dir = dir.display();
                // Others write there, too: it need not be to blame, and is what can be spared.
                write!(f, "ran while only {} MiB were free at {dir}, where {} MiB must be,", mib(left), mib(bound))
            }
        }
    }
}

/// What must stay free on each disk that a program may write to.
pub(super) struct Disks(Vec<(PathBuf, u64)>);

impl Disks {
    /// For a program that has not begun: what it writes first would count as taken before.
    pub fn before(write: &[PathBuf]) -> Self {
        let bound = |dir: &PathBuf| Some((dir.clone(), DISK_LEFT_BYTES.min(free_bytes(dir)? / 2)));
        Self(write.iter().filter_map(bound).collect())
    }
}

/// The bounds of one program.
pub(super) struct Watch {
    first: u32,
    memory_bytes: u64,
    disks: Disks,
}

impl Watch {
    /// Watches the process `first` and all that descend from it, and the disks that they may write to.
    pub fn begin(first: u32, memory_bytes: u64, disks: Disks) -> Self {
        Self { first, memory_bytes, disks }
    }

    /// Ends when it took too much, and never before.
    pub async fn exceeded(self) -> Excess {
        let watch = Arc::new(self);
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let watch = Arc::clone(&watch);
            // A look reads a file for each process: off the event loop. One that is lost is followed by the next.
            if let Ok(Some(excess)) = tokio::task::spawn_blocking(move || watch.look()).await {
                return excess;
            }
        }
    }

    fn look(&self) -> Option<Excess> {
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

/// The memory of a tree, in bytes. Shared pages are counted for each process first, which is quick, and once where that
/// is over the bound.
fn memory_bytes(first: u32, bound: u64) -> u64 {
    let mut tree = process::below(process::stat(first).into_iter().collect(), PROCESSES_MAX);
    // The guard is a piece of rei, and has no memory of its own.
    tree.retain(|stat| stat.pid != first);
    let page_bytes = process::page_bytes();
    let resident = |stat: &process::Stat| stat.rss_pages.saturating_mul(page_bytes);
    let quick: u64 = tree.iter().map(resident).sum();
    if quick <= bound {
        return quick;
    }
    tree.iter().map(|stat| process::shared_out_bytes(stat.pid).unwrap_or_else(|| resident(stat))).sum()
}

/// What a user who is not root can still write, in bytes; `None` where nobody can say.
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = statvfs(dir).ok()?;
    disk.blocks_available().checked_mul(disk.fragment_size())
}
