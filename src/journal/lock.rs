//! The lock that allows only one writer per journal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::error::Error;

/// The digits of a pid and a newline; a longer file is not from rei.
const PID_BYTES_MAX: u64 = 16;

/// Held while the journal is open for writing.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Locks the journal in `directory` and writes our pid into the lock file.
    ///
    /// # Errors
    /// If another process has locked it; the error has its pid.
    pub(super) fn take(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("open", &path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, nix::Error::EWOULDBLOCK)) => {
                return Err(Error::Locked { pid: holder(file), directory: directory.to_owned() });
            }
            Err((_, error)) => return Err(Error::io("lock", &path)(error.into())),
        };
        // The pid is only information for people, so a full disk must not prevent a start.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// The pid of the process that writes the journal in `directory`; the outer `None` means that no process writes it, the
/// inner one that the pid is unknown.
pub(super) fn writer(directory: &Path) -> Option<Option<u32>> {
    let file = File::open(directory.join("lock")).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        Err((file, _)) => Some(holder(file)),
    }
}

fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
