//! The file of a golden run: reads, checks, lists and writes it, with the bodies beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::bodies::{self, BODIES_BYTES_MAX, directory_of};
use super::format::{
    EXCHANGES_MAX, Exchange, FILE_BYTES_MAX, GoldenRun, Header, Listed, Protocol, SCHEMA, SUFFIX, SWITCHING, is_name,
};
use super::line::{Bodies, Line};
use super::normalise::Normalisers;

/// Why a golden file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The operation: `read`, `write`, `list`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// It exceeds a maximum.
    #[error("{} has more than {max} {unit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The maximum.
        max: u64,
        /// `bytes` or `exchanges`.
        unit: &'static str,
    },
    /// It has a version that this rei does not support.
    #[error("{} has the version {found:?}, but this rei supports {SCHEMA} and later minor versions", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in its first line.
        found: String,
    },
    /// A line is invalid.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files have runs with the same name.
    #[error("{} and {} are both named {name:?}", first.display(), second.display())]
    Twice {
        /// The name.
        name: String,
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
}

impl Error {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Version { .. } => Some("use the rei that recorded it, or record it again: rei golden import".into()),
            Self::TooLarge { .. } => Some("split the run into several files, each with the header line".into()),
            Self::Line { path, line, .. } => Some(format!("see this line: sed -n {line}p {}", path.display())),
            Self::Twice { second, .. } => Some(format!("change \"name\" in the first line of {}", second.display())),
            Self::Io { .. } => None,
        }
    }
}

fn parse_header(path: &Path, line: &str) -> Result<Header, Error> {
    let wrong = |reason: String| Error::Line { path: path.to_owned(), line: 1, reason };
    let value: Value = serde_json::from_str(line).map_err(|error| wrong(format!("the header is not JSON: {error}")))?;
    let found = value.get("schema").and_then(Value::as_str).unwrap_or_default().to_owned();
    let major = |schema: &str| schema.split_once('.').map(|(major, _)| major.to_owned());
    if !found.starts_with("rei-golden/") {
        return Err(wrong(format!("not a golden run: the first line must say \"schema\":\"{SCHEMA}\"")));
    }
    if major(&found) != major(SCHEMA) {
        return Err(Error::Version { path: path.to_owned(), found });
    }
    let header: Header = serde_json::from_value(value).map_err(|error| wrong(format!("the header: {error}")))?;
    if !is_name(&header.name) {
        let rule = "use at most 64 letters, digits, - _ and .";
        return Err(wrong(format!("the name {:?} is not valid ({rule})", header.name)));
    }
    Normalisers::compile(&header.normalisers).map_err(wrong)?;
    Ok(header)
}

/// Parses a run; `path` is used in error messages.
///
/// # Errors
/// The first line that is invalid.
pub(crate) fn parse(path: &Path, bodies: &Path, input: impl BufRead) -> Result<GoldenRun, Error> {
    let mut exchanges = Vec::new();
    let header = for_each_exchange(path, bodies, input, |exchange| exchanges.push(exchange))?;
    Ok(GoldenRun { header, exchanges })
}

/// Calls `each` for every exchange of a run, in order. Returns the header.
fn for_each_exchange(
    path: &Path,
    bodies: &Path,
    input: impl BufRead,
    mut each: impl FnMut(Exchange),
) -> Result<Header, Error> {
    let (mut header, mut protocol) = (None, Protocol::Http);
    let mut bodies = Bodies { directory: Some(bodies), left: BODIES_BYTES_MAX };
    let mut count = 0;
    for (index, line) in input.lines().enumerate() {
        let line = line.map_err(|source| Error::Io { what: "read", path: path.to_owned(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        if header.is_none() {
            let read = parse_header(path, &line)?;
            protocol = read.protocol;
            header = Some(read);
            continue;
        }
        if count == EXCHANGES_MAX {
            return Err(Error::TooLarge { path: path.to_owned(), max: EXCHANGES_MAX as u64, unit: "exchanges" });
        }
        let exchange = serde_json::from_str::<Line>(&line)
            .map_err(|error| error.to_string())
            .and_then(|line| line.into_exchange(protocol, &mut bodies));
        each(exchange.map_err(|reason| Error::Line { path: path.to_owned(), line: index + 1, reason })?);
        count += 1;
    }
    let empty = || Error::Line { path: path.to_owned(), line: 1, reason: "the file is empty".into() };
    header.ok_or_else(empty)
}

/// Opens a golden file for reading, with a size limit.
fn open(path: &Path) -> Result<BufReader<impl Read>, Error> {
    let failed = |source| Error::Io { what: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), max: FILE_BYTES_MAX, unit: "bytes" });
    }
    Ok(BufReader::new(file.take(FILE_BYTES_MAX)))
}

/// Reads a complete run.
///
/// # Errors
/// If it cannot be read, is too large or too new, or a line is invalid.
pub fn read(path: &Path) -> Result<GoldenRun, Error> {
    read_with(path, &directory_of(path))
}

/// Reads a complete run whose bodies are in this directory.
///
/// # Errors
/// As for [`read`].
pub fn read_with(path: &Path, bodies: &Path) -> Result<GoldenRun, Error> {
    parse(path, bodies, open(path)?)
}

/// Checks a run line by line, without keeping it in memory.
///
/// # Errors
/// As for [`read`].
pub fn verify(path: &Path) -> Result<(), Error> {
    for_each_exchange(path, &directory_of(path), open(path)?, drop).map(drop)
}

/// Reads only the header, and counts the exchanges.
fn read_header(path: &Path) -> Result<Listed, Error> {
    let failed = |source| Error::Io { what: "read", path: path.to_owned(), source };
    let mut lines = open(path)?.lines();
    let mut first = String::new();
    while first.trim().is_empty() {
        match lines.next() {
            Some(line) => first = line.map_err(failed)?,
            None => return Err(Error::Line { path: path.to_owned(), line: 1, reason: "the file is empty".into() }),
        }
    }
    let header = parse_header(path, &first)?;
    let mut exchanges = 0;
    for line in lines {
        exchanges += usize::from(!line.map_err(failed)?.trim().is_empty());
    }
    Ok(Listed { path: path.to_owned(), header, exchanges })
}

/// The golden runs in some directories, by name. A directory that does not exist is skipped.
///
/// # Errors
/// If a file is not a golden run, or two runs have the same name.
pub fn list(directories: &[PathBuf]) -> Result<Vec<Listed>, Error> {
    let mut runs: Vec<Listed> = Vec::new();
    for directory in directories {
        let failed = |source| Error::Io { what: "list", path: directory.clone(), source };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)) {
                runs.push(read_header(&path)?);
            }
        }
    }
    runs.sort_by(|a, b| (&a.header.name, &a.path).cmp(&(&b.header.name, &b.path)));
    for pair in runs.windows(2) {
        if let [a, b] = pair
            && a.header.name == b.header.name
        {
            let (name, first, second) = (a.header.name.clone(), a.path.clone(), b.path.clone());
            return Err(Error::Twice { name, first, second });
        }
    }
    Ok(runs)
}

/// Writes a run exchange by exchange, so that it need not be in memory.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    exchanges: usize,
    /// Bytes that the rest of the bodies in files may have.
    left: u64,
}

impl Writer {
    /// Creates a new file with its header. Never overwrites an existing file.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, Error> {
        let failed = |source| Error::Io { what: "write", path: path.to_owned(), source };
        let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
        let mut writer = Self { file, path: path.to_owned(), exchanges: 0, left: BODIES_BYTES_MAX };
        writer.line(header)?;
        Ok(writer)
    }

    /// Writes one exchange as one line, immediately, and its large bodies as files beside the run.
    ///
    /// # Errors
    /// If the run or the disk is full, or a file of a body has changed.
    pub fn push(&mut self, mut exchange: Exchange) -> Result<(), Error> {
        if self.exchanges == EXCHANGES_MAX {
            return Err(Error::TooLarge { path: self.path.clone(), max: EXCHANGES_MAX as u64, unit: "exchanges" });
        }
        self.exchanges += 1;
        let directory = directory_of(&self.path);
        let failed = |source| Error::Io { what: "write", path: directory.clone(), source };
        let written = bodies::keep(&directory, &mut exchange.request.body, &mut exchange.files.request);
        let mut bytes = written.map_err(failed)?;
        if let Some(body) =
            exchange.response.as_mut().filter(|it| it.status != SWITCHING).and_then(|it| it.body.as_mut())
        {
            bytes += bodies::keep(&directory, body, &mut exchange.files.answer).map_err(failed)?;
        } else {
            bytes += bodies::keep(&directory, &mut Vec::new(), &mut exchange.files.answer).map_err(failed)?;
        }
        if let Some(response) = exchange.response.as_mut().filter(|_| exchange.files.answer.is_some()) {
            response.body = None;
        }
        let full = || Error::TooLarge { path: directory.clone(), max: BODIES_BYTES_MAX, unit: "bytes" };
        self.left = self.left.checked_sub(bytes).ok_or_else(full)?;
        self.line(&Line::of(exchange))
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| Error::Io { what: "write", path: self.path, source })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let failed = |source| Error::Io { what: "write", path: self.path.clone(), source };
        let mut text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(failed)
    }
}

/// Writes a complete run to a new file, with the version that it needs.
///
/// # Errors
/// As for [`Writer`].
pub fn write(path: &Path, mut run: GoldenRun) -> Result<(), Error> {
    run.settle();
    let mut writer = Writer::create(path, &run.header)?;
    run.exchanges.into_iter().try_for_each(|exchange| writer.push(exchange))?;
    writer.finish()
}
