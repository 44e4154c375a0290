//! Snapshots: the state after a record, and the position of that record.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Error;
use super::line::{self, FORMAT_MAJOR, Hash};

/// Number of snapshots that are kept: the newest, and another one in case it is damaged.
const KEPT: usize = 2;
/// Maximum size of a snapshot that is read, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// A stored snapshot. The file has one line of JSON, and a second line with its SHA-256.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot<S> {
    /// `major.minor`.
    pub(super) format: String,
    /// The runtime's name.
    pub(super) runtime: String,
    /// The number of the last record that the state includes.
    pub(super) seq: u64,
    /// The hash of that record's line.
    pub(super) hash: Hash,
    /// The number of the first record in the segment of that record.
    pub(super) segment: u64,
    /// The offset of the next line in that segment.
    pub(super) offset: u64,
    /// The state.
    pub(super) state: S,
}

impl Snapshot<Value> {
    /// Parses the state. Another version of rei may have stored it in another form.
    fn decode_state<S: DeserializeOwned>(self) -> Result<Snapshot<S>, String> {
        let Self { format, runtime, seq, hash, segment, offset, state } = self;
        let state = serde_json::from_value(state)
            .map_err(|error| format!("has a state (format {format}) that this rei cannot read: {error}"))?;
        Ok(Snapshot { format, runtime, seq, hash, segment, offset, state })
    }
}

fn directory(journal: &Path) -> PathBuf {
    journal.join("snapshots")
}

/// The snapshots of a journal, newest first.
fn list(journal: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(directory(journal)).into_iter().flatten().flatten();
    let numbered = |entry: std::fs::DirEntry| {
        let seq = entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()?;
        Some((seq, entry.path()))
    };
    let mut snapshots: Vec<(u64, PathBuf)> = entries.filter_map(numbered).collect();
    snapshots.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    snapshots
}

/// Writes a snapshot atomically, and removes old ones.
pub(super) fn write<S: Serialize>(journal: &Path, snapshot: &Snapshot<S>) -> Result<(), Error> {
    let directory = directory(journal);
    std::fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
    let (path, temporary) = (directory.join(format!("{:012}.json", snapshot.seq)), directory.join("new"));
    let mut content = serde_json::to_vec(snapshot).map_err(Error::Encode)?;
    content.push(b'\n');
    content.extend_from_slice(line::hash(&content).as_bytes());
    content.push(b'\n');
    let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    let written = file.write_all(&content).and_then(|()| file.sync_data());
    written.map_err(Error::io("write", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(Error::io("rename", &temporary))?;
    sync(&directory)?;
    for (_, old) in list(journal).into_iter().skip(KEPT) {
        // If it fails, the next snapshot tries again.
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

/// The newest valid snapshot, and a message for each one that is skipped.
pub(super) fn newest<S: DeserializeOwned>(journal: &Path, runtime: &str) -> (Option<Snapshot<S>>, Vec<String>) {
    let mut passed = Vec::new();
    for (seq, path) in list(journal) {
        match read(&path) {
            Ok(snapshot) if snapshot.seq == seq && snapshot.runtime == runtime => match snapshot.decode_state() {
                Ok(snapshot) => return (Some(snapshot), passed),
                Err(why) => passed.push(format!("{} {why}", path.display())),
            },
            Ok(_) => passed.push(format!("{} belongs to another record or runtime", path.display())),
            Err(why) => passed.push(format!("{} {why}", path.display())),
        }
    }
    (None, passed)
}

fn read(path: &Path) -> Result<Snapshot<Value>, String> {
    let mut content = Vec::new();
    let file = File::open(path).and_then(|file| file.take(SNAPSHOT_BYTES_MAX).read_to_end(&mut content));
    file.map_err(|error| format!("cannot be read: {error}"))?;
    // The last line is the SHA-256: 64 hex digits and a newline.
    let split = content.len().checked_sub(65).map(|at| content.split_at(at));
    let valid = split.filter(|(body, sum)| sum.strip_suffix(b"\n") == Some(line::hash(body).as_bytes()));
    let (body, _) = valid.ok_or("is damaged")?;
    let snapshot: Snapshot<Value> =
        serde_json::from_slice(body).map_err(|error| format!("is not a snapshot: {error}"))?;
    match line::version(&snapshot.format) {
        Some((FORMAT_MAJOR, _)) => Ok(snapshot),
        _ => Err(format!("has the format {}", snapshot.format)),
    }
}

/// Syncs a directory, so that new names in it survive a power failure.
pub(super) fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(Error::io("sync", directory))
}
