//! Disk space that is reserved in advance, so that a rollback can be recorded on a full disk.

use std::fs::File;

use nix::fcntl::{FallocateFlags, fallocate};

/// Whether space for the next records is reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// At least half of the wanted space is reserved.
    Held {
        /// Number of reserved bytes behind the last record.
        bytes: u64,
    },
    /// The reservation could not be renewed: each record uses up a part of the rest.
    Shrinking {
        /// Number of reserved bytes behind the last record.
        bytes: u64,
        /// The error of the system.
        reason: String,
    },
}

/// The reserved space of one file.
#[derive(Debug)]
pub(super) struct Space {
    /// Number of bytes to reserve.
    want: u64,
    /// The offset in the file where the reserved space ends.
    end: u64,
    /// Why the last renewal failed.
    failure: Option<String>,
}

impl Space {
    /// No space is reserved yet; `want` is the number of bytes to reserve.
    pub(super) fn new(want: u64) -> Self {
        Self { want, end: 0, failure: None }
    }

    /// Reserves space behind `length` if less than half is left. A failure is no error: [`Space::status`] reports it.
    pub(super) fn renew(&mut self, file: &File, length: u64) {
        if self.end.saturating_sub(length) >= self.want / 2 && self.failure.is_none() {
            return;
        }
        let from = self.end.max(length);
        let more = (length + self.want).saturating_sub(from);
        let (Ok(offset), Ok(bytes)) = (i64::try_from(from), i64::try_from(more)) else { return };
        if bytes == 0 {
            self.failure = None;
            return;
        }
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, bytes) {
            Ok(()) => (self.end, self.failure) = (length + self.want, None),
            Err(error) => self.failure = Some(std::io::Error::from(error).to_string()),
        }
    }

    /// The reserved space behind `length`.
    pub(super) fn status(&self, length: u64) -> Reserve {
        let bytes = self.end.saturating_sub(length);
        match &self.failure {
            None => Reserve::Held { bytes },
            Some(reason) => Reserve::Shrinking { bytes, reason: reason.clone() },
        }
    }
}
