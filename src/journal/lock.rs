//! One writer a journal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::error::Error;

/// Digits of a pid and a newline; more is not ours.
const PID_BYTES_MAX: u64 = 16;

/// Held as long as the journal is open for writing.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of the journal in `directory` and leaves our pid in it.
    ///
    /// # Errors
    /// When another process has it, which is named.
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
        // Who holds the lock is a help for people; a full disk must not keep a supervisor from starting.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// The pid of the process that writes the journal in `directory`; `None` when nobody does.
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
