//! Segment files: lists them, and checks the chain of a segment line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::error::{Error, Place};
use super::line::{self, FORMAT_MAJOR, FORMAT_MINOR, Hash, Header, Link, RECORD_BYTES_MAX, Record};
use crate::time::Timestamp;

/// Maximum length of a line with its sum, in bytes.
const LINE_BYTES_MAX: usize = RECORD_BYTES_MAX + 64;
/// Number of bytes per read.
const BUFFER_BYTES: usize = 64 << 10;

/// An incomplete last line, left by a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornLine {
    /// The segment.
    pub path: PathBuf,
    /// The offset of the line: the file's length without it.
    pub offset: u64,
    /// The size of the incomplete line, in bytes.
    pub bytes: u64,
}

impl std::fmt::Display for TornLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, offset, bytes } = self;
        write!(
            f,
            "the last record of {} (byte {offset}) is incomplete after a crash: its {bytes} bytes are removed",
            path.display()
        )
    }
}

/// A segment file, with its first sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// The file name of the segment whose first record is `first`. The order by name is the order by number.
pub(super) fn file_name(first: u64) -> String {
    format!("{first:012}.jsonl")
}

/// The segments in `directory`, oldest first.
pub(super) fn list(directory: &Path) -> Result<Vec<Segment>, Error> {
    let mut segments = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(segments),
        entries => entries.map_err(Error::io("list", directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", directory))?;
        let name = entry.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".jsonl")).and_then(|stem| stem.parse().ok());
        if let Some(first) = first {
            segments.push(Segment { first, path: entry.path() });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// The position of a walk: the expected next line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The sequence number of the next record.
    pub(super) seq: u64,
    /// The hash of the last line.
    pub(super) prev: Hash,
}

impl Position {
    /// The position before the first line of the first segment.
    pub(super) fn start() -> Self {
        Self { seq: 1, prev: line::genesis() }
    }
}

/// A valid line.
pub(super) struct ValidLine<'w> {
    pub(super) bytes: &'w [u8],
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) place: Place,
    /// The `major.minor` of its segment.
    format: (u32, u32),
}

impl ValidLine<'_> {
    /// Parses its record.
    ///
    /// # Errors
    /// If its body is not a `B`. A separate error is returned if a later rei wrote it.
    pub(super) fn record<B: DeserializeOwned>(&self) -> Result<Record<B>, Error> {
        line::record(self.bytes).map_err(|source| {
            let (place, (major, minor)) = (self.place.clone(), self.format);
            if minor > FORMAT_MINOR {
                Error::Later { place, found: format!("{major}.{minor}"), ours: line::format(), source }
            } else {
                Error::Body { place, source }
            }
        })
    }
}

/// Walks through one segment, and checks it.
pub(super) struct Walk {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// True if this is the last segment; only that one may end with an incomplete line.
    is_last: bool,
    pub(super) position: Position,
    pub(super) torn_line: Option<TornLine>,
    /// The `major.minor` of the header.
    pub(super) format: (u32, u32),
}

impl Walk {
    /// Opens a segment and checks its header against the chain.
    pub(super) fn begin(segment: &Segment, is_last: bool, position: Position) -> Result<(Self, Header), Error> {
        let mut walk = Self::open(segment, is_last, position)?;
        let header = walk.header()?;
        let damaged = |what: &str| Err(Error::Damaged { place: walk.place(None), what: what.to_owned() });
        if header.first != walk.position.seq || segment.first != header.first {
            return damaged("it begins with another record than expected");
        }
        if header.prev != walk.position.prev {
            return damaged("it does not continue the previous segment");
        }
        walk.accept();
        Ok((walk, header))
    }

    /// Opens a segment without checking the previous ones.
    pub(super) fn enter(segment: &Segment, is_last: bool) -> Result<Self, Error> {
        let mut walk = Self::open(segment, is_last, Position { seq: segment.first, prev: line::genesis() })?;
        walk.header()?;
        walk.accept();
        Ok(walk)
    }

    /// Parses the header line, without checking its place in the chain.
    fn header(&mut self) -> Result<Header, Error> {
        let place = self.place(None);
        let damaged = |what: &str| Error::Damaged { place: place.clone(), what: what.to_owned() };
        if !self.read_line()? {
            return Err(damaged("the header is missing"));
        }
        let header: Option<Header> = serde_json::from_slice(self.text()).ok();
        let header = header
            .filter(|header| header.journal == line::MAGIC)
            .ok_or_else(|| damaged("the line is not a header of a journal"))?;
        // A newer major format may have another kind of checksum, so check the format first.
        let format = line::version(&header.format).ok_or_else(|| damaged("the format is not a version number"))?;
        if format.0 > FORMAT_MAJOR {
            let found = header.format;
            return Err(Error::Newer { path: self.path.clone(), found, ours: line::format() });
        }
        self.format = format;
        if !line::is_sealed(self.text()) {
            return Err(damaged("the checksum of the line is wrong"));
        }
        Ok(header)
    }

    /// Opens a segment after a known line; `offset` is where the next line begins.
    pub(super) fn resume(
        segment: &Segment,
        is_last: bool,
        position: Position,
        offset: u64,
    ) -> Result<(Self, Header), Error> {
        let mut walk = Self::open(segment, is_last, position)?;
        let header = walk.header()?;
        walk.file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", &walk.path))?;
        // The header is line 1, and each record has one line.
        walk.line = walk.position.seq.saturating_sub(segment.first) + 2;
        walk.offset = offset;
        Ok((walk, header))
    }

    fn open(segment: &Segment, is_last: bool, position: Position) -> Result<Self, Error> {
        let path = segment.path.clone();
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self {
            path,
            file,
            line: 1,
            offset: 0,
            buffer: Vec::new(),
            is_last,
            position,
            torn_line: None,
            format: (0, 0),
        })
    }

    /// The next record, checked; `None` at the end or at an incomplete last line.
    pub(super) fn next(&mut self) -> Result<Option<ValidLine<'_>>, Error> {
        if !self.read_line()? {
            return Ok(None);
        }
        let place = self.place(Some(self.position.seq));
        let damaged = |what: &str| Err(Error::Damaged { place: place.clone(), what: what.to_owned() });
        if !line::is_sealed(self.text()) {
            return damaged("the checksum of the line is wrong");
        }
        let Ok(link) = serde_json::from_slice::<Link>(self.text()) else { return damaged("the line is not a record") };
        if link.prev != self.position.prev {
            return damaged("it does not continue the previous line");
        }
        if link.seq != self.position.seq {
            return damaged(&format!("its number is {}", link.seq));
        }
        self.accept();
        self.position.seq += 1;
        let bytes = &self.buffer[..self.buffer.len() - 1];
        Ok(Some(ValidLine { bytes, seq: link.seq, at: link.at, place, format: self.format }))
    }

    /// The offset of the next line.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn accept(&mut self) {
        self.position.prev = line::hash(self.text());
        self.offset += self.buffer.len() as u64;
        self.line += 1;
    }

    /// The current line without its newline.
    fn text(&self) -> &[u8] {
        self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer)
    }

    fn place(&self, seq: Option<u64>) -> Place {
        Place { path: self.path.clone(), line: self.line, offset: self.offset, seq }
    }

    /// Reads a whole line into the buffer; returns false at the end. An incomplete last line is recorded in
    /// `torn_line`.
    fn read_line(&mut self) -> Result<bool, Error> {
        self.buffer.clear();
        let bound = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        let read = std::io::Read::take(&mut self.file, bound).read_until(b'\n', &mut self.buffer);
        read.map_err(Error::io("read", &self.path))?;
        if self.buffer.is_empty() {
            return Ok(false);
        }
        let complete = self.buffer.ends_with(b"\n");
        let more = !self.file.fill_buf().map_err(Error::io("read", &self.path))?.is_empty();
        // A crash leaves the beginning of a line, or parts that were never written and are read as zeros. A line that
        // is complete except for its last byte was complete once, so this is damage.
        let hole = self.buffer.contains(&0);
        let was_whole = !complete && line::is_sealed(&self.buffer[..self.buffer.len() - 1]);
        let torn = self.is_last && if complete { hole && !more } else { !was_whole };
        if torn {
            let rest = self.rest()?;
            self.torn_line =
                Some(TornLine { path: self.path.clone(), offset: self.offset, bytes: self.buffer.len() as u64 + rest });
            return Ok(false);
        }
        if complete {
            return Ok(true);
        }
        let what = if more { "the line is too long" } else { "the last line has no newline" };
        Err(Error::Damaged { place: self.place(Some(self.position.seq)), what: what.to_owned() })
    }

    /// The number of bytes after a too long last line: zeros left by a crash; anything else is damage.
    fn rest(&mut self) -> Result<u64, Error> {
        let mut rest = 0;
        loop {
            let more = self.file.fill_buf().map_err(Error::io("read", &self.path))?;
            let bytes = more.len();
            if bytes == 0 {
                return Ok(rest);
            }
            if more.iter().any(|byte| *byte != 0) {
                let place = self.place(Some(self.position.seq));
                return Err(Error::Damaged { place, what: "the line is too long".to_owned() });
            }
            self.file.consume(bytes);
            rest += bytes as u64;
        }
    }
}

/// The hash of the line of record `seq`; `None` if there is no such record.
pub(super) fn hash_of(directory: &Path, seq: u64) -> Result<Option<Hash>, Error> {
    let segments = list(directory)?;
    let Some(at) = segments.iter().rposition(|segment| segment.first <= seq) else { return Ok(None) };
    let mut walk = Walk::enter(&segments[at], at + 1 == segments.len())?;
    while let Some(valid) = walk.next()? {
        if valid.seq == seq {
            return Ok(Some(walk.position.prev));
        }
    }
    Ok(None)
}
