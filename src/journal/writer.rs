//! The writer of a journal. There is only one at a time.

use std::fs::{File, OpenOptions};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;
use super::head::{Head, HeadContent, HeadStatus};
use super::line::{self, FORMAT_MAJOR, FORMAT_MINOR, Header, Record};
use super::lock::Lock;
use super::reserve::{Reserve, Space};
use super::segment::{self, Position, Segment, TornLine, ValidLine, Walk};
use super::snapshot::{self, Snapshot};
use crate::time::Timestamp;

/// The owner of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The runtime's name.
    pub runtime: String,
    /// The current time, for the header of a new segment.
    pub created: Timestamp,
}

/// Size limits of a journal's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// When a segment reaches this size in bytes, a new one is created.
    pub segment_bytes: u64,
    /// Disk space that is reserved behind the last record, in bytes.
    pub reserve_bytes: u64,
}

impl Default for Limits {
    /// Segments of 16 MiB have space for some ten thousand evolutions. A reserve of 2 MiB has space for two of the
    /// largest records, or hundreds of usual ones, on a full disk.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, reserve_bytes: 2 << 20 }
    }
}

/// The content of a journal when it was opened.
#[derive(Debug)]
pub struct Opened<B, S = Value> {
    /// The newest valid snapshot: the number of the last record that it includes, and the state.
    pub snapshot: Option<(u64, S)>,
    /// The records after it, oldest first, up to the first that this rei cannot read.
    pub records: Vec<Record<B>>,
    /// The error of that record, which is not damaged but was written by a later rei.
    pub later: Option<Error>,
    /// An incomplete last line after a crash, which was removed.
    pub torn_line: Option<TornLine>,
    /// Messages about skipped snapshots.
    pub warnings: Vec<String>,
}

/// A journal that is open for writing.
#[derive(Debug)]
pub struct Journal<B> {
    directory: PathBuf,
    runtime: String,
    limits: Limits,
    path: PathBuf,
    file: File,
    /// The first record of the open segment.
    segment: u64,
    length: u64,
    position: Position,
    space: Space,
    poisoned: bool,
    rotation_failure: Option<String>,
    /// True if the open segment has records of another format, so that the next record starts a new segment.
    other_format: bool,
    head: Option<Head>,
    _lock: Lock,
    _body: PhantomData<fn(&B)>,
}

impl<B: Serialize + DeserializeOwned> Journal<B> {
    /// Opens the journal in `directory`, or creates one, and reads the records after the newest snapshot.
    ///
    /// # Errors
    /// If another process writes it, if it is damaged, if it is from a newer rei or belongs to another runtime, or if a
    /// system call fails.
    pub fn open<S: DeserializeOwned>(directory: &Path, meta: &Meta) -> Result<(Self, Opened<B, S>), Error> {
        Self::open_with(directory, meta, Limits::default())
    }

    /// Like [`Journal::open`], with other size limits.
    ///
    /// # Errors
    /// As for [`Journal::open`].
    pub fn open_with<S: DeserializeOwned>(
        directory: &Path,
        meta: &Meta,
        limits: Limits,
    ) -> Result<(Self, Opened<B, S>), Error> {
        make(directory)?;
        let lock = Lock::take(directory)?;
        let segments = segment::list(directory)?;
        let (snapshot, warnings) = snapshot::newest::<S>(directory, &meta.runtime);
        let mut read = Read::new();
        let (end, torn_line) = match segments.last() {
            None if snapshot.is_some() => {
                let what = "there is a snapshot, but no record".to_owned();
                return Err(Error::Incomplete { directory: directory.to_owned(), what });
            }
            None => (begin(directory, meta, &Position::start())?, None),
            Some(_) => {
                let start = Start { directory, meta, segments: &segments };
                start.read(snapshot.as_ref(), &mut read)?
            }
        };
        let open = OpenOptions::new().write(true).open(&end.path);
        let file = open.map_err(Error::io("open", &end.path))?;
        if torn_line.is_some() {
            let done = file.set_len(end.length).and_then(|()| file.sync_data());
            done.map_err(Error::io("remove the incomplete last line of", &end.path))?;
        }
        let mut space = Space::new(limits.reserve_bytes);
        space.renew(&file, end.length);
        let journal = Self {
            directory: directory.to_owned(),
            runtime: meta.runtime.clone(),
            limits,
            path: end.path,
            file,
            segment: end.segment,
            length: end.length,
            position: end.position,
            space,
            poisoned: false,
            rotation_failure: None,
            other_format: end.other_format,
            head: None,
            _lock: lock,
            _body: PhantomData,
        };
        let snapshot = snapshot.map(|snapshot| (snapshot.seq, snapshot.state));
        let Read { records, later } = read;
        Ok((journal, Opened { snapshot, records, later, torn_line, warnings }))
    }

    /// Appends a record. When this returns, the record is on disk. Blocks for about 0.2 ms.
    ///
    /// # Errors
    /// If the record is too large (then nothing is written), or if it cannot be written to disk. After a failed write
    /// the journal still ends with the previous record. After a failed sync the state of the disk is unknown, so every
    /// later call fails.
    pub fn append<'b>(&mut self, at: Timestamp, body: &'b B) -> Result<Record<&'b B>, Error> {
        if self.poisoned {
            return Err(Error::Poisoned { directory: self.directory.clone() });
        }
        if self.other_format || self.length >= self.limits.segment_bytes {
            self.rotate(at);
        }
        let record = Record { seq: self.position.seq, at, prev: self.position.prev.clone(), body };
        let line = line::seal(&record)?;
        // Written at our own offset, so that the next write overwrites the rest of a failed one.
        self.file.write_all_at(&line, self.length).map_err(Error::io("write", &self.path))?;
        if let Err(error) = self.file.sync_data() {
            self.poisoned = true;
            return Err(Error::io("sync", &self.path)(error));
        }
        self.length += line.len() as u64;
        self.position.prev = line::hash(&line[..line.len() - 1]);
        self.position.seq += 1;
        self.space.renew(&self.file, self.length);
        self.seal();
        Ok(record)
    }

    /// Compares the journal with its sealed head at `path`, and updates that head from now on: with each record, or by
    /// [`Journal::seal`]. Until then the old head stays.
    ///
    /// # Errors
    /// If the head cannot be created or read, or if the journal's line of that record cannot be read.
    pub fn attach_head(&mut self, path: &Path) -> Result<HeadStatus, Error> {
        let (head, found) = Head::open(path)?;
        self.head = Some(head);
        let sealed = match found {
            HeadContent::Nothing => return Ok(HeadStatus::NoHead),
            HeadContent::Damaged => return Ok(HeadStatus::DamagedHead),
            HeadContent::Record(sealed) => sealed,
        };
        let last = self.last_seq();
        if sealed.seq > last {
            return Ok(HeadStatus::Short { records: last, sealed: sealed.seq });
        }
        let same = match sealed.seq {
            0 => true,
            // After a header, `prev` is the hash of the header and not of the last record.
            seq if seq == last && seq >= self.segment => sealed.hash == self.position.prev,
            seq => segment::hash_of(&self.directory, seq)? == Some(sealed.hash),
        };
        Ok(if same { HeadStatus::Whole } else { HeadStatus::Other { seq: sealed.seq } })
    }

    /// Writes the sealed head, if there is one: from now on the journal counts as complete as it is.
    pub fn seal(&mut self) {
        let (seq, segment) = (self.last_seq(), self.segment);
        if let Some(head) = &mut self.head
            // After a header, the head already names the last record, so it stays.
            && (seq >= segment || seq == 0)
        {
            head.write(seq, &self.position.prev);
        }
    }

    /// Why the sealed head is older than the journal. It is written again with the next record.
    pub fn head_failure(&self) -> Option<&str> {
        self.head.as_ref().and_then(Head::failure)
    }

    /// The file of the sealed head, if it must be synced; sync it in a background thread.
    pub fn head_to_sync(&mut self) -> Option<File> {
        self.head.as_mut().and_then(Head::take_unsynced)
    }

    /// Stores the state after the last record, so that the next start reads only the records after it. Blocks.
    ///
    /// # Errors
    /// If it cannot be stored; the journal itself is unaffected.
    pub fn snapshot(&mut self, state: &impl Serialize) -> Result<(), Error> {
        let snapshot = Snapshot {
            format: line::format(),
            runtime: self.runtime.clone(),
            seq: self.last_seq(),
            hash: self.position.prev.clone(),
            segment: self.segment,
            offset: self.length,
            state,
        };
        snapshot::write(&self.directory, &snapshot)
    }

    /// The number of the last record; 0 if there is none.
    pub fn last_seq(&self) -> u64 {
        self.position.seq - 1
    }

    /// Whether disk space for the next records is reserved. A failed reservation is tried again.
    pub fn reserve(&mut self) -> Reserve {
        self.space.renew(&self.file, self.length);
        self.space.status(self.length)
    }

    /// Why there is no new segment although the current one is full; the current one continues to grow.
    pub fn rotation_failure(&self) -> Option<&str> {
        self.rotation_failure.as_deref()
    }

    /// Starts the next segment. On a full disk the current one, with its reserve, is used further.
    fn rotate(&mut self, at: Timestamp) {
        let meta = Meta { runtime: self.runtime.clone(), created: at };
        let next = begin(&self.directory, &meta, &self.position).and_then(|end| {
            let file = OpenOptions::new().write(true).open(&end.path).map_err(Error::io("open", &end.path))?;
            Ok((end, file))
        });
        match next {
            Ok((end, file)) => {
                // Releases the reserved space of the old segment. A failure only wastes space.
                let _ = self.file.set_len(self.length);
                (self.path, self.segment, self.length, self.position) =
                    (end.path, end.segment, end.length, end.position);
                self.file = file;
                self.space = Space::new(self.limits.reserve_bytes);
                self.space.renew(&self.file, self.length);
                self.rotation_failure = None;
                self.other_format = false;
            }
            Err(error) => self.rotation_failure = Some(error.to_string()),
        }
    }
}

/// The place of the next record.
struct End {
    path: PathBuf,
    segment: u64,
    length: u64,
    position: Position,
    /// True if the segment has records of another format.
    other_format: bool,
}

/// The records that were read.
struct Read<B> {
    records: Vec<Record<B>>,
    later: Option<Error>,
}

impl<B: DeserializeOwned> Read<B> {
    const fn new() -> Self {
        Self { records: Vec::new(), later: None }
    }

    /// Takes the next line. Records after one that cannot be read are useless.
    fn take(&mut self, valid: &ValidLine<'_>) -> Result<(), Error> {
        if self.later.is_some() {
            return Ok(());
        }
        match valid.record() {
            Ok(record) => self.records.push(record),
            Err(error @ Error::Later { .. }) => self.later = Some(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Creates the directory with its parents, and syncs their names; otherwise a power failure could remove the journal.
fn make(directory: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    for holder in missing.iter().filter_map(|path| path.parent()) {
        let holder = if holder.as_os_str().is_empty() { Path::new(".") } else { holder };
        snapshot::sync(holder)?;
    }
    Ok(())
}

/// Creates a new segment that continues at `position`, atomically.
fn begin(directory: &Path, meta: &Meta, position: &Position) -> Result<End, Error> {
    let header = Header {
        journal: line::MAGIC.to_owned(),
        format: line::format(),
        runtime: meta.runtime.clone(),
        created: meta.created,
        first: position.seq,
        prev: position.prev.clone(),
    };
    let line = line::seal(&header)?;
    let (path, temporary) = (directory.join(segment::file_name(position.seq)), directory.join("new"));
    let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    let written = file.write_all_at(&line, 0).and_then(|()| file.sync_data());
    written.map_err(Error::io("write", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(Error::io("rename", &temporary))?;
    snapshot::sync(directory)?;
    let position = Position { seq: position.seq, prev: line::hash(&line[..line.len() - 1]) };
    Ok(End { path, segment: header.first, length: line.len() as u64, position, other_format: false })
}

/// Reads an existing journal when it is opened for writing.
struct Start<'s> {
    directory: &'s Path,
    meta: &'s Meta,
    segments: &'s [Segment],
}

impl Start<'_> {
    fn read<B: DeserializeOwned, S>(
        &self,
        snapshot: Option<&Snapshot<S>>,
        read: &mut Read<B>,
    ) -> Result<(End, Option<TornLine>), Error> {
        let (mut index, mut walk) = match snapshot {
            None => (0, self.begin(0, Position::start())?),
            Some(snapshot) => self.resume(snapshot)?,
        };
        loop {
            while let Some(valid) = walk.next()? {
                read.take(&valid)?;
            }
            index += 1;
            if index == self.segments.len() {
                break;
            }
            walk = self.begin(index, walk.position)?;
        }
        let Segment { first, path } = &self.segments[index - 1];
        // An empty segment keeps its name, so a new one cannot follow it.
        let other_format = walk.format != (FORMAT_MAJOR, FORMAT_MINOR) && walk.position.seq > *first;
        let (path, segment, length) = (path.clone(), *first, walk.offset());
        let end = End { path, segment, length, position: walk.position, other_format };
        Ok((end, walk.torn_line))
    }

    fn begin(&self, index: usize, position: Position) -> Result<Walk, Error> {
        let (walk, header) = Walk::begin(&self.segments[index], self.is_last(index), position)?;
        self.check_meta(header)?;
        Ok(walk)
    }

    fn is_last(&self, index: usize) -> bool {
        index + 1 == self.segments.len()
    }

    fn check_meta(&self, header: Header) -> Result<(), Error> {
        if header.runtime != self.meta.runtime {
            let (found, wanted) = (header.runtime, self.meta.runtime.clone());
            return Err(Error::Foreign { directory: self.directory.to_owned(), found, wanted });
        }
        Ok(())
    }

    /// The walk that starts after the last record in the snapshot.
    fn resume<S>(&self, snapshot: &Snapshot<S>) -> Result<(usize, Walk), Error> {
        let incomplete = |what: String| Error::Incomplete { directory: self.directory.to_owned(), what };
        let index = self.segments.iter().position(|segment| segment.first == snapshot.segment);
        let index = index
            .ok_or_else(|| incomplete(format!("the segment {} is missing", segment::file_name(snapshot.segment))))?;
        let segment = &self.segments[index];
        let length = std::fs::metadata(&segment.path).map_err(Error::io("read", &segment.path))?.len();
        if length < snapshot.offset {
            let what =
                format!("{} ends before record {}, which a snapshot includes", segment.path.display(), snapshot.seq);
            return Err(incomplete(what));
        }
        let position = Position { seq: snapshot.seq + 1, prev: snapshot.hash.clone() };
        let (walk, header) = Walk::resume(segment, self.is_last(index), position, snapshot.offset)?;
        self.check_meta(header)?;
        Ok((index, walk))
    }
}
