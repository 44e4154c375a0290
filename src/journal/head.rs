//! The sealed head: the last position of the journal, stored in a second place.
//!
//! The hash chain shows every change of a record, but not that the last records are missing: a journal that was cut at
//! the end of a line, or restored from a backup, is a valid chain. So the number and the hash of the last record are
//! also stored in a file outside of the journal's directory. A backup of that directory does not include this file.
//!
//! The head is written after the record is on disk, into the page cache, where it survives the death of the writer. It
//! is synced in the background, so after a power failure it may be older than the journal. It is never newer. So a head
//! older than the end of the journal is normal, and a journal that ends before its head has lost records.
//!
//! Two copies are written alternately, each with a checksum, so that one is valid whenever the power fails. Their space
//! is allocated when the file is created, so a full disk does not prevent an update.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::line::{self, Hash};
use super::snapshot;

/// Size of one copy, in bytes: less than a sector, so that after a power failure it is the old or the new one.
const COPY_BYTES: usize = 512;
/// Distance between the copies, in bytes, so that they are never in the same block of a disk.
const COPY_STRIDE: u64 = 4096;
/// Number of copies.
const COPIES: u64 = 2;
/// The value of [`Sealed::head`].
const MAGIC: &str = "rei-head";

/// One stored copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    /// `rei-head`.
    head: String,
    /// `major.minor`.
    format: String,
    /// The number of the write: the copy with the higher one is newer.
    turn: u64,
    /// The number of the last record; 0 if there was none.
    seq: u64,
    /// SHA-256 of its line, in hex. Because of the chain it identifies the whole journal up to there.
    hash: Hash,
}

/// The last record according to a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastRecord {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// The result of reading a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadContent {
    /// There is no head.
    Nothing,
    /// Both copies are damaged.
    Damaged,
    /// The last record.
    Record(LastRecord),
}

/// The result of comparing a journal with its sealed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStatus {
    /// The journal contains the record that the head names, and maybe more.
    Whole,
    /// There is no head: an older rei wrote the journal, it is new, or the head was removed.
    NoHead,
    /// Both copies of the head are damaged.
    DamagedHead,
    /// The journal ends before the record that the head names.
    Short {
        /// The number of the journal's last record; 0 if there is none.
        records: u64,
        /// The number of the record that the head names.
        sealed: u64,
    },
    /// The journal has another record than the head names.
    Other {
        /// The number of the record.
        seq: u64,
    },
}

/// The path of the head for the journal in `directory`: in the `private` directory beside it, which only the supervisor
/// may enter.
pub fn head_beside(directory: &Path) -> PathBuf {
    directory.with_file_name("private").join("journal.head")
}

/// Reads the head at `path`.
pub(super) fn read(path: &Path) -> Result<HeadContent, Error> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HeadContent::Nothing),
        opened => Ok(newest(&opened.map_err(Error::io("open", path))?).0),
    }
}

/// The newest valid copy, and the number of the next write.
fn newest(file: &File) -> (HeadContent, u64) {
    let mut written = false;
    let mut copies = Vec::new();
    for copy in 0..COPIES {
        let mut bytes = [0; COPY_BYTES];
        // If one copy cannot be read, the other one is used.
        let _ = file.read_exact_at(&mut bytes, copy * COPY_STRIDE);
        written |= bytes.iter().any(|byte| *byte != 0);
        let text = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let sealed = Some(text).filter(|text| line::is_sealed(text));
        copies.extend(sealed.and_then(|text| serde_json::from_slice::<Sealed>(text).ok()));
    }
    copies.retain(|copy| copy.head == MAGIC);
    match copies.into_iter().max_by_key(|copy| copy.turn) {
        Some(copy) => (HeadContent::Record(LastRecord { seq: copy.seq, hash: copy.hash }), copy.turn + 1),
        None if written => (HeadContent::Damaged, 0),
        None => (HeadContent::Nothing, 0),
    }
}

/// A head that is open for writing.
#[derive(Debug)]
pub(super) struct Head {
    path: PathBuf,
    file: File,
    turn: u64,
    /// True if it was written after the last sync.
    dirty: bool,
    /// Why the last write failed.
    failure: Option<String>,
}

impl Head {
    /// Opens the head at `path` and reads it. If it does not exist, creates it with all its space.
    pub(super) fn open(path: &Path) -> Result<(Self, HeadContent), Error> {
        if !path.exists() {
            make(path)?;
        }
        let file = File::options().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        let (found, turn) = newest(&file);
        Ok((Self { path: path.to_owned(), file, turn, dirty: false, failure: None }, found))
    }

    /// Writes the last record of the journal, which is already on disk. Does not sync. If it fails, [`Head::failure`]
    /// returns the reason; the record is on disk in any case.
    pub(super) fn write(&mut self, seq: u64, hash: &Hash) {
        let copy = Sealed { head: MAGIC.to_owned(), format: line::format(), turn: self.turn, seq, hash: hash.clone() };
        let written = line::seal(&copy).map_err(|error| error.to_string()).and_then(|mut bytes| {
            bytes.resize(COPY_BYTES, 0);
            let at = self.turn % COPIES * COPY_STRIDE;
            self.file.write_all_at(&bytes, at).map_err(|error| error.to_string())
        });
        match written {
            Ok(()) => (self.turn, self.dirty, self.failure) = (self.turn + 1, true, None),
            Err(why) => self.failure = Some(format!("cannot write {}: {why}", self.path.display())),
        }
    }

    /// Why the head is older than the journal.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// A handle to sync in the background, if there is something to sync.
    pub(super) fn take_unsynced(&mut self) -> Option<File> {
        let file = std::mem::take(&mut self.dirty).then(|| self.file.try_clone().ok());
        file.flatten()
    }
}

/// Creates the file atomically, with every byte written, so that no later write needs disk space.
fn make(path: &Path) -> Result<(), Error> {
    let holder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(holder).map_err(Error::io("make", holder))?;
    let temporary = path.with_extension("new");
    let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    let space = [0; (COPY_STRIDE * COPIES) as usize];
    file.write_all_at(&space, 0).and_then(|()| file.sync_all()).map_err(Error::io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io("rename", &temporary))?;
    snapshot::sync(holder)
}
