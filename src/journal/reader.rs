//! Reads a journal without writing to it, even while a supervisor writes it.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::head::{self, HeadContent};
use super::line::{self, Record};
use super::lock;
use super::segment::{self, Position, Segment, TornLine, ValidLine, Walk};
use crate::time::Timestamp;

/// A journal that is open for reading.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    segments: Vec<Segment>,
}

/// The result of checking the whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The runtime's name.
    pub runtime: String,
    /// `major.minor` of the newest segment.
    pub format: String,
    /// Number of segment files.
    pub segments: u64,
    /// Number of records.
    pub records: u64,
    /// The time of the first record.
    pub first_at: Option<Timestamp>,
    /// The time of the last record.
    pub last_at: Option<Timestamp>,
    /// SHA-256 of the last line. With it one can later prove that a longer journal continues this one.
    pub head: String,
    /// Size of an incomplete last line, in bytes: it is being written, or a crash interrupted it.
    pub unfinished_bytes: u64,
    /// The record that the sealed head names, if the journal was compared with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<u64>,
}

impl Reader {
    /// Opens the journal in `directory`.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let segments = segment::list(directory)?;
        if segments.is_empty() {
            return Err(Error::Absent { directory: directory.to_owned() });
        }
        Ok(Self { directory: directory.to_owned(), segments })
    }

    /// The pid of the supervisor that writes it. The outer `None` means that no supervisor writes it, the inner one
    /// that the pid is unknown.
    pub fn writer(&self) -> Option<Option<u32>> {
        lock::writer(&self.directory)
    }

    /// Checks the whole chain.
    ///
    /// # Errors
    /// The first damage, with its position.
    pub fn verify(&self) -> Result<Verified, Error> {
        self.walk(|_| Ok(ControlFlow::Continue(())))
    }

    /// Checks the whole chain, and compares it with its sealed head at `head`.
    ///
    /// # Errors
    /// The first damage, with its position; or if the journal ends before the record that the head names, or has
    /// another record in its place.
    pub fn verify_against(&self, head: &Path) -> Result<Verified, Error> {
        // Read the head first: a supervisor that is writing syncs each record before it updates the head.
        let HeadContent::Record(sealed) = head::read(head)? else { return self.verify() };
        let mut hash = None;
        let mut verified = self.walk(|valid| {
            if valid.seq == sealed.seq {
                hash = Some(line::hash(valid.bytes));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let directory = || self.directory.clone();
        if verified.records < sealed.seq {
            return Err(Error::Short { directory: directory(), records: verified.records, sealed: sealed.seq });
        }
        if sealed.seq > 0 && hash != Some(sealed.hash) {
            return Err(Error::Other { directory: directory(), seq: sealed.seq });
        }
        verified.sealed = Some(sealed.seq);
        Ok(verified)
    }

    /// Writes the lines of the records from number `from` on, as they are stored, and checks them.
    ///
    /// # Errors
    /// The first damage; or if `out` cannot be written, and then the error's `path` is `output`.
    pub fn export(&self, out: &mut dyn Write, from: u64) -> Result<Verified, Error> {
        self.walk(|valid| {
            if valid.seq >= from {
                let written = out.write_all(valid.bytes).and_then(|()| out.write_all(b"\n"));
                written.map_err(Error::io("write", "output"))?;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Passes each record from number `from` on to `take`, until it returns break.
    ///
    /// # Errors
    /// The first damage, or the first record that is not a `B`.
    pub fn records<B: DeserializeOwned>(
        &self,
        from: u64,
        mut take: impl FnMut(Record<B>) -> ControlFlow<()>,
    ) -> Result<Verified, Error> {
        self.walk(|valid| {
            if valid.seq < from {
                return Ok(ControlFlow::Continue(()));
            }
            Ok(take(valid.record()?))
        })
    }

    fn walk(&self, mut take: impl FnMut(&ValidLine<'_>) -> Result<ControlFlow<()>, Error>) -> Result<Verified, Error> {
        let mut position = Position::start();
        let mut verified = Verified {
            runtime: String::new(),
            format: String::new(),
            segments: 0,
            records: 0,
            first_at: None,
            last_at: None,
            head: position.prev.clone(),
            unfinished_bytes: 0,
            sealed: None,
        };
        for (index, segment) in self.segments.iter().enumerate() {
            let (mut walk, header) = Walk::begin(segment, index + 1 == self.segments.len(), position)?;
            (verified.runtime, verified.format) = (header.runtime, header.format);
            verified.segments += 1;
            while let Some(valid) = walk.next()? {
                verified.records += 1;
                verified.first_at.get_or_insert(valid.at);
                verified.last_at = Some(valid.at);
                if take(&valid)?.is_break() {
                    return Ok(verified);
                }
            }
            verified.unfinished_bytes = walk.torn_line.as_ref().map_or(0, |TornLine { bytes, .. }| *bytes);
            position = walk.position;
            verified.head.clone_from(&position.prev);
        }
        Ok(verified)
    }
}
