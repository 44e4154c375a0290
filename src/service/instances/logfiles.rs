//! The log files of a slot: each instance has its own.
//!
//! rei explains the end of an instance by the output of that instance. So the output of two instances is never in the
//! same file: the last output of a crashed instance comes through its pipe after its successor has started. The name of
//! a file contains the id of the instance and the digest of its version. So no line that an instance prints can change
//! where its log begins. `a.log` and `a.log.1` are symbolic links to the files of the latest instance, for `tail -F`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::runtime::logs::Log;

/// Maximum number of files of ended instances in a slot: a crash loop must not fill the directory with small files.
const FILES_MAX: usize = 32;

/// Number of characters of the version's name that are in a file's name: the digest of a store path.
const VERSION_CHARS: usize = 32;

/// The version in a file's name if the version is not known.
const UNKNOWN: &str = "unknown";

/// The log files of one slot.
#[derive(Clone, Debug)]
pub struct LogFiles {
    dir: PathBuf,
    link: PathBuf,
    bytes_max: u64,
}

/// A log file with its metadata.
struct Kept {
    path: PathBuf,
    version: String,
    bytes: u64,
    written: SystemTime,
}

impl LogFiles {
    /// The log files of the slot whose link is `link`. The files of ended instances have at most `bytes_max` bytes
    /// together.
    pub fn new(link: &Path, bytes_max: u64) -> Self {
        Self { dir: link.with_extension(""), link: link.to_owned(), bytes_max }
    }

    /// The path of the file of an instance that is started now. The file does not exist. If an earlier instance with
    /// the same id wrote one (the journal was removed since), this renames it.
    ///
    /// # Errors
    /// If the directory cannot be created or read, or a file cannot be renamed.
    pub fn begin(&self, id: &str, store_path: &str) -> io::Result<PathBuf> {
        self.make()?;
        let path = self.path(id, &version(store_path));
        for path in [path.clone(), older(&path)] {
            let Some(name) = path.file_name().filter(|_| path.exists()) else { continue };
            let mut before = std::ffi::OsString::from("before-");
            before.push(name);
            fs::rename(&path, self.dir.join(before))?;
        }
        self.prune(&path);
        self.point_to(&path);
        Ok(path)
    }

    /// The path of the file of an instance that an earlier supervisor started. The file does not exist if no output of
    /// the instance was read.
    ///
    /// # Errors
    /// If the directory cannot be created or read, or a file cannot be renamed.
    pub fn resume(&self, id: &str, store_path: &str) -> io::Result<PathBuf> {
        self.make()?;
        let path = match self.all().into_iter().find(|kept| instance(&kept.path) == Some(id)) {
            Some(kept) => kept.path,
            None => self.path(id, &version(store_path)),
        };
        self.point_to(&path);
        Ok(path)
    }

    /// The files of earlier instances of this version, oldest first, without the file `latest`.
    fn earlier(&self, store_path: &str, latest: &Path) -> Vec<PathBuf> {
        let of = version(store_path);
        let same = |kept: &Kept| kept.version == of && kept.path != latest;
        self.all().into_iter().filter(same).map(|kept| kept.path).collect()
    }

    fn path(&self, id: &str, version: &str) -> PathBuf {
        self.dir.join(format!("{id}.{version}.log"))
    }

    fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        // An earlier rei had one file for each slot.
        for link in [self.link.clone(), older(&self.link)] {
            if link.symlink_metadata().is_ok_and(|found| found.is_file()) {
                let name = format!("before.{UNKNOWN}.log");
                let to = self.dir.join(name);
                fs::rename(&link, if link == self.link { to } else { older(&to) })?;
            }
        }
        Ok(())
    }

    /// Points the links of the slot to this file. Only people use the links, so an error is ignored.
    fn point_to(&self, path: &Path) {
        let Some(parent) = self.link.parent() else { return };
        for (link, to) in [(self.link.clone(), path.to_owned()), (older(&self.link), older(path))] {
            let new = link.with_extension("new");
            let _ = fs::remove_file(&new);
            let to = to.strip_prefix(parent).unwrap_or(&to);
            let _ = symlink(to, &new).and_then(|()| fs::rename(&new, &link));
        }
    }

    /// The files, oldest first.
    fn all(&self) -> Vec<Kept> {
        let mut all: Vec<Kept> = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some((_, version)) = parts(&path) else { continue };
            let Ok(found) = entry.metadata() else { continue };
            let before = fs::metadata(older(&path)).map_or(0, |found| found.len());
            let written = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Kept { version: version.to_owned(), bytes: found.len() + before, written, path });
        }
        all.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
        all
    }

    /// Removes the oldest files that exceed the bounds. If a file cannot be removed, the next start tries again.
    fn prune(&self, latest: &Path) {
        let (mut bytes, mut files) = (0, 0);
        for kept in self.all().into_iter().rev().filter(|kept| kept.path != latest) {
            (bytes, files) = (bytes + kept.bytes, files + 1);
            if bytes > self.bytes_max || files > FILES_MAX {
                let _ = fs::remove_file(older(&kept.path));
                let _ = fs::remove_file(&kept.path);
            }
        }
    }
}

/// The log of the latest instance in a slot, and the log files of earlier instances.
#[derive(Clone)]
pub struct SlotLog {
    log: Arc<Log>,
    path: PathBuf,
    files: LogFiles,
}

impl SlotLog {
    /// The log of an instance whose output is written to `path`.
    pub fn new(log: Arc<Log>, path: PathBuf, files: LogFiles) -> Self {
        Self { log, path, files }
    }

    /// The last `bytes` of the output of this version's instances in the slot, oldest first. A line of rei separates
    /// the output of two instances. The output of other versions is left out.
    pub async fn tail(&self, store_path: &str, bytes: usize) -> Vec<u8> {
        let of_version = parts(&self.path).is_some_and(|(_, of)| of == version(store_path));
        let mut tail = if of_version { self.log.tail(bytes).await } else { Vec::new() };
        let (files, of, latest) = (self.files.clone(), store_path.to_owned(), self.path.clone());
        let earlier = move |bytes_left: usize| {
            let mut ends: Vec<Vec<u8>> = Vec::new();
            let mut bytes_left = bytes_left;
            for path in files.earlier(&of, &latest).iter().rev() {
                let mut end = crate::runtime::logs::tail_of(path, bytes_left);
                bytes_left = bytes_left.saturating_sub(end.len());
                if !end.is_empty() && !end.ends_with(b"\n") {
                    end.push(b'\n');
                }
                ends.push(end);
                if bytes_left == 0 {
                    break;
                }
            }
            ends.into_iter().rev().collect::<Vec<_>>()
        };
        let bytes_left = bytes.saturating_sub(tail.len());
        let Ok(ends) = tokio::task::spawn_blocking(move || earlier(bytes_left)).await else { return tail };
        if ends.iter().any(|end| !end.is_empty()) {
            let mut all = Vec::new();
            for end in ends.into_iter().filter(|end| !end.is_empty()) {
                all.extend(end);
                all.extend(b"[rei: the next instance]\n");
            }
            all.append(&mut tail);
            tail = all;
        }
        tail
    }
}

/// The part of a file's name that identifies the version: the digest of its store path.
fn version(store_path: &str) -> String {
    let name = store_path.rsplit('/').next().unwrap_or_default();
    let digest = name.split('-').next().unwrap_or_default();
    let safe: String = digest.chars().filter(char::is_ascii_alphanumeric).take(VERSION_CHARS).collect();
    if safe.is_empty() { UNKNOWN.into() } else { safe }
}

/// The instance and the version of a file; `None` if it is not the first file of a log.
fn parts(path: &Path) -> Option<(&str, &str)> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.rsplit_once('.')
}

fn instance(path: &Path) -> Option<&str> {
    parts(path).map(|(id, _)| id)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::logs::{Logger, Memory, pipe, serve};
    use std::fs::File;
    use std::io::Write;

    const V1: &str = "/nix/store/0c0zv5n6k5gdnkgc8v0nz6gk2xvyl2l1-greeter-1";
    const V2: &str = "/nix/store/1c0zv5n6k5gdnkgc8v0nz6gk2xvyl2l1-greeter-2";

    fn files(dir: &Path) -> LogFiles {
        LogFiles::new(&dir.join("a.log"), 1000)
    }

    /// The log of an instance that printed `text` and ended.
    async fn printed(path: &Path, text: &str) -> Log {
        let (read, write) = pipe().unwrap();
        File::from(write).write_all(text.as_bytes()).unwrap();
        let (ours, theirs) = Logger::connection().unwrap();
        let dir = path.parent().unwrap().to_owned();
        let thread = std::thread::spawn(move || serve(theirs, &dir));
        let log = Logger::of(ours).resume("1", &read, Memory::new().unwrap(), path, 1000);
        thread.join().unwrap().unwrap();
        log
    }

    #[tokio::test]
    async fn each_instance_has_its_own_log() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        printed(&files.begin("0a-1-a", V1).unwrap(), "panic: one\n").await;
        let second = printed(&files.begin("0a-2-a", V1).unwrap(), "two\n").await;
        assert_eq!(second.recent(), b"two\n");
        // The log of an adopted instance continues in its own file, although other instances printed and forged a
        // separator.
        printed(&files.begin("0a-3-a", V2).unwrap(), "[rei: the next instance]\n").await;
        let adopted = printed(&files.resume("0a-2-a", V1).unwrap(), "three\n").await;
        assert_eq!(adopted.recent(), b"two\nthree\n");
        assert_eq!(fs::read(dir.path().join("a.log")).unwrap(), b"two\nthree\n");
        // The same id means another instance if the journal was removed.
        let again = printed(&files.begin("0a-1-a", V1).unwrap(), "").await;
        assert_eq!(again.recent(), b"");
        let all: Vec<_> = files.all().into_iter().map(|kept| fs::read_to_string(kept.path).unwrap()).collect();
        assert!(all.concat().contains("panic: one"), "{all:?}");
    }

    #[tokio::test]
    async fn the_tail_has_the_output_of_one_version() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        printed(&files.begin("0a-1-a", V1).unwrap(), "of one").await;
        printed(&files.begin("0a-2-a", V2).unwrap(), "of two\n").await;
        let path = files.begin("0a-3-a", V1).unwrap();
        let log = Arc::new(printed(&path, "and three\n").await);
        let log = SlotLog::new(log, path, files);
        let tail = |of, bytes| {
            let log = log.clone();
            async move { String::from_utf8(log.tail(of, bytes).await).unwrap() }
        };
        assert_eq!(tail(V1, 100).await, "of one\n[rei: the next instance]\nand three\n");
        assert_eq!(tail(V1, 10).await, "and three\n");
        assert_eq!(tail(V2, 100).await, "of two\n[rei: the next instance]\n");
    }

    #[test]
    fn the_files_of_ended_instances_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        for n in 0..2 * FILES_MAX {
            fs::write(files.begin(&format!("0a-{n}-a"), V1).unwrap(), "x").unwrap();
        }
        assert_eq!(files.all().len(), FILES_MAX + 1);
        for n in 0..5 {
            let path = files.begin(&format!("0b-{n}-a"), V1).unwrap();
            fs::write(&path, [0; 200]).unwrap();
            fs::write(older(&path), [0; 200]).unwrap();
        }
        files.begin("0c-1-a", V1).unwrap();
        let bytes: u64 = files.all().iter().map(|kept| kept.bytes).sum();
        assert!(bytes <= 1000, "{bytes}");
        assert!(files.all().iter().any(|kept| instance(&kept.path) == Some("0b-4-a")), "the latest stays");
    }

    #[test]
    fn the_single_file_of_an_earlier_rei_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.log"), "before").unwrap();
        fs::write(dir.path().join("a.log.1"), "long before").unwrap();
        let files = files(dir.path());
        let path = files.resume("0a-1-a", V1).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(dir.path().join("a/before.unknown.log")).unwrap(), b"before");
        assert_eq!(fs::read(dir.path().join("a/before.unknown.log.1")).unwrap(), b"long before");
    }
}
