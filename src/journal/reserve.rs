//! Space on disk that is ours before it is needed, so that a full disk cannot keep a rollback from being recorded.

use std::fs::File;

use nix::fcntl::{FallocateFlags, fallocate};

/// Whether the next records have their space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// At least half of the reserve is there.
    Held {
        /// Bytes that are ours beyond the end.
        bytes: u64,
    },
    /// It could not be renewed: what is left is used up record by record.
    Shrinking {
        /// Bytes that are ours beyond the end.
        bytes: u64,
        /// What the system said.
        reason: String,
    },
}

/// The reserve behind one file.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes to hold.
    want: u64,
    /// The first byte of the file that is not ours.
    end: u64,
    /// Why the last renewal failed.
    failure: Option<String>,
}

impl Space {
    /// Nothing reserved yet; `want` is what to hold, in bytes.
    pub(super) fn new(want: u64) -> Self {
        Self { want, end: 0, failure: None }
    }

    /// Reserves behind `length` where less than half is left. Failing is no error: it is told by [`Space::status`].
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

    /// What is left behind `length`.
    pub(super) fn status(&self, length: u64) -> Reserve {
        let bytes = self.end.saturating_sub(length);
        match &self.failure {
            None => Reserve::Held { bytes },
            Some(reason) => Reserve::Shrinking { bytes, reason: reason.clone() },
        }
    }
}
