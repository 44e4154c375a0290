//! The sealed head: how far the journal went, kept in a second place.
//!
//! The chain shows every change of a record, but not that the last records are gone: a journal that was cut at the end of a
//! line, or restored from a backup, is a whole chain. So the number and the hash of the last record are kept in a file
//! outside of the journal's directory, which a backup of that directory does not bring along.
//!
//! The head is written after the record is on disk, into the page cache, where it survives the death of the writer. It is
//! synced beside the work, so after a power cut it may be older than the journal. It is never newer. So a head behind the
//! journal's end is normal, and a journal that ends before its head has lost records.
//!
//! Two copies are written in turn, each with a sum, so that one is sound whenever the power goes. Their space is written
//! when the file is made: a full disk does not keep the head back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::line::{self, Hash};
use super::snapshot;

/// Bytes of one copy: less than a sector, so that a power cut leaves the old or the new one.
const COPY_BYTES: usize = 512;
/// From one copy to the other, in bytes: never in the same block of a disk.
const COPY_STRIDE: u64 = 4096;
/// Copies.
const COPIES: u64 = 2;
/// The word in [`Sealed::head`].
const MAGIC: &str = "rei-head";

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    /// `rei-head`.
    head: String,
    /// `major.minor`.
    format: String,
    /// Counts the writes: the copy with the higher one is newer.
    turn: u64,
    /// The last record; 0 when there was none.
    seq: u64,
    /// SHA-256 of its line, in hex. The chain makes it a name of the whole journal up to there.
    hash: Hash,
}

/// The last record that a head has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no head.
    Nothing,
    /// Neither copy is sound.
    Damaged,
    /// This.
    Seen(Seen),
}

/// How a journal stands to its sealed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The journal has the record that the head has seen last, and maybe more.
    Whole,
    /// There is no head: an older rei wrote the journal, there is none yet, or the head was removed.
    NoHead,
    /// Neither copy of the head is sound.
    DamagedHead,
    /// The journal ends before the record that the head has seen.
    Short {
        /// The journal's last record; 0 for none.
        records: u64,
        /// The record that the head has seen.
        sealed: u64,
    },
    /// The journal has another record in the place of the one that the head has seen.
    Other {
        /// Its number.
        seq: u64,
    },
}

/// The head of the journal in `directory`: in the directory beside it that only the supervisor may enter.
pub fn head_beside(directory: &Path) -> PathBuf {
    directory.with_file_name("private").join("journal.head")
}

/// Reads the head at `path`.
pub(super) fn read(path: &Path) -> Result<Found, Error> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Found::Nothing),
        opened => Ok(newest(&opened.map_err(Error::io("open", path))?).0),
    }
}

/// The newest sound copy, and the turn that comes next.
fn newest(file: &File) -> (Found, u64) {
    let mut written = false;
    let mut copies = Vec::new();
    for copy in 0..COPIES {
        let mut bytes = [0; COPY_BYTES];
        // A copy that cannot be read is as good as none: the other one tells.
        let _ = file.read_exact_at(&mut bytes, copy * COPY_STRIDE);
        written |= bytes.iter().any(|byte| *byte != 0);
        let text = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let sealed = Some(text).filter(|text| line::is_sealed(text));
        copies.extend(sealed.and_then(|text| serde_json::from_slice::<Sealed>(text).ok()));
    }
    copies.retain(|copy| copy.head == MAGIC);
    match copies.into_iter().max_by_key(|copy| copy.turn) {
        Some(copy) => (Found::Seen(Seen { seq: copy.seq, hash: copy.hash }), copy.turn + 1),
        None if written => (Found::Damaged, 0),
        None => (Found::Nothing, 0),
    }
}

/// A head that is written.
#[derive(Debug)]
pub(super) struct Head {
    path: PathBuf,
    file: File,
    turn: u64,
    /// Whether it was written since it was synced.
    dirty: bool,
    /// Why it could not be written last.
    failure: Option<String>,
}

impl Head {
    /// Opens the head at `path`, which is made with all its space if it is not there, and says what it has seen.
    pub(super) fn open(path: &Path) -> Result<(Self, Found), Error> {
        if !path.exists() {
            make(path)?;
        }
        let file = File::options().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        let (found, turn) = newest(&file);
        Ok((Self { path: path.to_owned(), file, turn, dirty: false, failure: None }, found))
    }

    /// Writes what is on disk of the journal now. It takes no sync, and a failure is told by [`Head::failure`]: the record
    /// is on disk whatever becomes of the head.
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

    /// Why the head is behind.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// A handle to be synced beside the work, if there is something to sync.
    pub(super) fn take_unsynced(&mut self) -> Option<File> {
        let file = std::mem::take(&mut self.dirty).then(|| self.file.try_clone().ok());
        file.flatten()
    }
}

/// Makes the file whole or not at all, with every byte written: no later write needs space.
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
