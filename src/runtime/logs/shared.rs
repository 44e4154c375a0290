//! A file in memory that two processes share, with words that one of them writes. Its size never changes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The file.
#[derive(Debug)]
pub(super) struct Shared(File);

impl Shared {
    /// Makes one full of zeros. Only pages that were written use memory.
    pub fn new(name: &CStr, bytes: u64) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.set_len(bytes)?;
        let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(size))?;
        Ok(Self(file))
    }

    /// The file that came from another process.
    pub fn of(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }

    /// Another handle of the same file.
    pub fn share(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// True if both are the same file.
    pub fn is(&self, other: &Self) -> bool {
        let which = |file: &File| file.metadata().map(|file| (file.dev(), file.ino())).ok();
        which(&self.0) == which(&other.0)
    }

    /// Fills the buffer from this offset.
    pub fn read(&self, at: u64, buffer: &mut [u8]) {
        // This cannot fail: the file is in memory and has this size.
        let _ = self.0.read_exact_at(buffer, at);
    }

    /// Writes bytes at this offset.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        // This fails only if the machine has no memory left; then the reader sees nothing new.
        let _ = self.0.write_all_at(bytes, at);
    }

    /// The word at this offset.
    pub fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.read(at, &mut word);
        u64::from_le_bytes(word)
    }

    /// Writes a word. Each has one writer.
    pub fn set_word(&self, at: u64, word: u64) {
        self.write(at, &word.to_le_bytes());
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
