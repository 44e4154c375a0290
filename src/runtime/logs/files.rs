//! Two rotating files: `x.log`, and the older `x.log.1`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lines::note;

/// The newer file, open.
pub(super) struct LogFile {
    path: PathBuf,
    /// `None` until it could be opened.
    open: Option<Open>,
    /// Number of bytes that the disk has refused since its last successful write, and the error.
    refused: u64,
    why: String,
}

struct Open {
    file: File,
    bytes: u64,
    /// Device and inode, to check whether the path still names this file.
    is: (u64, u64),
}

impl LogFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, refused: 0, why: String::new() }
    }

    /// Appends bytes. Both files together have at most `bytes_max` bytes.
    ///
    /// # Errors
    /// If the disk does not accept all of them. The number of missing bytes is written once it accepts some.
    pub(super) fn write(&mut self, bytes: &[u8], bytes_max: u64) -> io::Result<()> {
        let half = bytes_max / 2;
        let fits = usize::try_from(half).unwrap_or(usize::MAX);
        let bytes = &bytes[bytes.len().saturating_sub(fits)..];
        let mut written = Ok(());
        if self.refused > 0 {
            written = self.add(note(self.refused, &self.why).as_bytes(), half);
            if written.is_ok() {
                self.refused = 0;
            }
        }
        written.and_then(|()| self.add(bytes, half)).inspect_err(|error| {
            self.refused += bytes.len() as u64;
            self.why = error.to_string();
        })
    }

    fn add(&mut self, bytes: &[u8], half: u64) -> io::Result<()> {
        let path = self.path.clone();
        let mut open = self.opened()?;
        if open.bytes > 0 && open.bytes + bytes.len() as u64 > half {
            fs::rename(&path, older(&path))?;
            open = self.opened()?;
        }
        // Count the bytes even if the disk accepts only a part of them; so the limit always holds.
        open.bytes += bytes.len() as u64;
        open.file.write_all(bytes)
    }

    /// The file that the path names now. An earlier logger may still write, and rotate, the log of its instance.
    fn opened(&mut self) -> io::Result<&mut Open> {
        let named = fs::metadata(&self.path).ok().map(|now| (now.dev(), now.ino()));
        match &mut self.open {
            Some(open) if named == Some(open.is) => {}
            open => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                let now = file.metadata()?;
                *open = Some(Open { file, bytes: now.len(), is: (now.dev(), now.ino()) });
            }
        }
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The last `bytes` of a log that was written to `path`. If there is more before them, the result begins with a whole
/// line.
pub fn tail_of(path: &Path, bytes: usize) -> Vec<u8> {
    // Read one byte more, to see whether the first line is whole.
    let with_before = bytes.saturating_add(1);
    let mut tail = end_of(path, with_before);
    if tail.len() < with_before {
        let mut before = end_of(&older(path), with_before - tail.len());
        before.append(&mut tail);
        tail = before;
    }
    if tail.len() == with_before {
        let first_line = tail.iter().position(|byte| *byte == b'\n').map_or(1, |end| end + 1);
        tail.drain(..first_line);
    }
    tail
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last bytes of a file; empty if it cannot be read.
fn end_of(path: &Path, bytes: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(bytes as u64)))?;
        let mut end = Vec::new();
        file.take(bytes as u64).read_to_end(&mut end)?;
        Ok(end)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_have_the_end_of_the_log_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = LogFile::new(&path);
        for n in 0..200 {
            file.write(format!("line {n}\n").as_bytes(), 1000).unwrap();
        }
        let size = |name| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("log") + size("log.1") <= 1000 && size("log.1") > 480);
        let end = String::from_utf8(tail_of(&path, 100)).unwrap();
        assert!(end.starts_with("line ") && end.ends_with("line 198\nline 199\n"), "{end}");
        assert_eq!(tail_of(&path, 600).len() / 9, 600 / 9, "spans both files");
    }

    #[test]
    fn a_chunk_larger_than_the_file_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        LogFile::new(&path).write(&[b"x".repeat(400), b"end\n".to_vec()].concat(), 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 50);
        assert!(fs::read(&path).unwrap().ends_with(b"end\n"));
    }

    #[test]
    fn two_writers_of_one_path_stay_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut both = [LogFile::new(&path), LogFile::new(&path)];
        for n in 0..300 {
            both[n % 2].write(format!("line {n}\n").as_bytes(), 1000).unwrap();
        }
        // A writer learns how much the other has written only when it opens the file. So the file may
        // be twice as large as its half of the limit.
        assert!(fs::metadata(&path).unwrap().len() <= 1000);
        assert!(String::from_utf8(tail_of(&path, 100)).unwrap().ends_with("line 298\nline 299\n"));
    }

    #[test]
    fn bytes_that_the_disk_refused_are_noted_when_it_accepts_writes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = LogFile::new(&path);
        file.write(b"before\n", 1000).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let kept = std::mem::replace(&mut file.open.as_mut().unwrap().file, full);
        let error = file.write(b"lost\n", 1000).unwrap_err();
        assert!(error.to_string().contains("No space"));
        assert!(file.write(b"lost too\n", 1000).is_err());
        file.open.as_mut().unwrap().file = kept;
        file.write(b"after\n", 1000).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n\n[rei: 14 bytes dropped here: No space left on device"), "{text}");
        assert!(text.ends_with("]\nafter\n"), "{text}");
    }
}
