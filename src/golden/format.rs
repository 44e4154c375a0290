//! The file of a golden run: `NAME.golden.jsonl`, one JSON object per line.
//!
//! The first line is the [`Header`] with the format's version, each other line is an [`Exchange`]. A newer major
//! version is refused, and so is every invalid line, with file, line and reason.
//!
//! A run is meant to be committed, so it has a placeholder in the place of each secret and of personal data:
//! `{{rei:bearer}}`, `{{rei:cookie:session}}`, `{{rei:email~2}}`. [`placeholder`](super::placeholder) has their form,
//! [`fill`](super::fill) their values in a replay.
//!
//! | version | new |
//! |---|---|
//! | 1.0 | header, requests, answers, normalisers |
//! | 1.1 | placeholders; the place and the learned rules of an exchange from live traffic |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learned::{Learned, LearnedRules};
use super::normalise::{Normaliser, Normalisers};
use crate::http::{Request, Response};
use crate::time::Timestamp;

/// The version that is written: a name and `major.minor`. A reader accepts every minor of its major, but it refuses an
/// exchange with an unknown field: a misspelt `response` must not turn into "every answer is good".
pub const SCHEMA: &str = "rei-golden/1.0";

/// The version of a run from live traffic, whose exchanges have a place and learned rules, and of a run with placeholders:
/// 1.0 does not know them.
pub const SCHEMA_LIVE: &str = "rei-golden/1.1";

/// The suffix of the file name, after the name of the run.
pub const SUFFIX: &str = ".golden.jsonl";

/// Maximum size of a file, in bytes. A judge has it in memory; the supervisor never does.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Maximum number of exchanges of a run. Split larger runs: independent runs are judged in parallel.
pub const EXCHANGES_MAX: usize = 10_000;

/// Maximum pause before an exchange, in milliseconds.
pub const AFTER_MS_MAX: u64 = 10_000;

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: String,
    /// The name of the run: letters, digits, `-`, `_` and `.`; at most 64 characters.
    pub name: String,
    /// The listener of `runtime.listen` to which the requests are sent.
    pub listener: String,
    /// Rules for differences that do not count, in addition to the headers that never count.
    #[serde(default)]
    pub normalisers: Vec<Normaliser>,
    /// The time of the recording.
    pub created: Timestamp,
    /// How a run from live traffic was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
}

/// How a run from live traffic was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Exchanges that the sample was taken from.
    pub seen: u64,
    /// Exchanges of the sample.
    pub sampled: u64,
    /// Places of them that have placeholders instead of secrets and personal data.
    #[serde(default)]
    pub removed_credentials: u64,
    /// Exchanges of the sample that are not in the run, because a part of them cannot be examined for secrets.
    #[serde(default)]
    pub not_redactable: u64,
    /// Whether each exchange was replayed on Active.
    #[serde(default)]
    pub qualified: bool,
    /// Exchanges that were dropped then, by reason: [`super::DropReason`].
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// Rules that were learned then, by kind: [`super::Rule`].
    #[serde(default)]
    pub learned: BTreeMap<String, u64>,
}

impl Header {
    /// A header for a new run.
    pub fn new(name: impl Into<String>, listener: impl Into<String>, created: Timestamp) -> Self {
        let (name, listener) = (name.into(), listener.into());
        Self { schema: SCHEMA.into(), name, listener, normalisers: Vec::new(), created, recording: None }
    }

    /// A header for a new run from live traffic.
    pub fn of_live(name: impl Into<String>, listener: impl Into<String>, created: Timestamp, of: Recording) -> Self {
        Self { schema: SCHEMA_LIVE.into(), recording: Some(of), ..Self::new(name, listener, created) }
    }
}

/// Header names and values in order. In JSON it is an object, and a repeated name has a list of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Map<String, Value>", into = "serde_json::Map<String, Value>")]
pub struct Headers(pub Vec<(String, String)>);

impl From<Headers> for serde_json::Map<String, Value> {
    fn from(headers: Headers) -> Self {
        let mut map = Self::new();
        for (name, value) in headers.0 {
            match map.get_mut(&name) {
                None => {
                    map.insert(name, Value::String(value));
                }
                Some(Value::Array(values)) => values.push(Value::String(value)),
                Some(single) => *single = Value::Array(vec![single.take(), Value::String(value)]),
            }
        }
        map
    }
}

impl TryFrom<serde_json::Map<String, Value>> for Headers {
    type Error = String;

    fn try_from(map: serde_json::Map<String, Value>) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (name, value) in map {
            let values = if let Value::Array(values) = value { values } else { vec![value] };
            for value in values {
                let Value::String(value) = value else {
                    return Err(format!("header {name:?} must be a text or a list of texts"));
                };
                headers.push((name.clone(), value));
            }
        }
        Ok(Self(headers))
    }
}

/// A request, with the answer that is known to be good.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// The good answer; `None` if none is known, as in the exchanges that led to an incident. Then every answer with a
    /// status below 500 is good.
    pub response: Option<Expected>,
    /// The pause before the request, in milliseconds; at most [`AFTER_MS_MAX`].
    pub after_ms: u64,
    /// Its place in the live traffic, if it was recorded there.
    pub recorded: Option<Recorded>,
    /// What may differ in the answer, as qualification learned it.
    pub learned: Vec<Learned>,
    /// If the answer is a stream of server-sent events: how many of them were recorded, and are replayed. At least 1.
    pub events: Option<usize>,
}

/// The place of an exchange in the live traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Its connection. Exchanges with the same number are replayed on one connection, in their order.
    pub connection: u64,
    /// From the start of the recording to the start of the request, in milliseconds.
    pub began_ms: u64,
    /// From the start of the request to the end of the answer, in milliseconds.
    pub took_ms: u64,
}

impl Exchange {
    /// Parses one line of a golden file.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &str) -> Result<Self, String> {
        serde_json::from_str::<Line>(line).map_err(|error| error.to_string())?.try_into()
    }
}

/// The parts of an answer that must be the same again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The status code.
    pub status: u16,
    /// Headers that must be the same again, with names in lower case. Other headers are ignored.
    pub headers: Vec<(String, String)>,
    /// The complete body; `None` if it does not count.
    pub body: Option<Vec<u8>>,
}

impl From<Response> for Expected {
    fn from(response: Response) -> Self {
        Self { status: response.status, headers: response.headers, body: Some(response.body) }
    }
}

/// A whole run in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenRun {
    /// Its header.
    pub header: Header,
    /// Its exchanges, in order.
    pub exchanges: Vec<Exchange>,
}

/// A golden file as `rei golden list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// The path of the file.
    pub path: PathBuf,
    /// Its header.
    pub header: Header,
    /// The number of its exchanges.
    pub exchanges: usize,
}

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

/// The stored form of a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    request: RequestLine,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<ResponseLine>,
    #[serde(default, skip_serializing_if = "is_zero")]
    after_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recorded: Option<Recorded>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learned: Vec<Learned>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "no_headers")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseLine {
    status: u16,
    #[serde(default, skip_serializing_if = "no_headers")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn no_headers(headers: &Headers) -> bool {
    headers.0.is_empty()
}

/// A body as text if it is valid UTF-8, else as base64.
fn split_body(body: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes.as_bytes()))),
    }
}

fn join_body(text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("has both body and body_base64".into()),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(code)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(code);
            bytes.map(Some).map_err(|error| format!("body_base64 is not base64: {error}"))
        }
        (None, None) => Ok(None),
    }
}

impl From<Exchange> for Line {
    fn from(exchange: Exchange) -> Self {
        let Request { method, path, headers, body } = exchange.request;
        let (body, body_base64) = if body.is_empty() { (None, None) } else { split_body(body) };
        let response = exchange.response.map(|response| {
            let (body, body_base64) = response.body.map_or((None, None), split_body);
            ResponseLine { status: response.status, headers: Headers(response.headers), body, body_base64 }
        });
        let request = RequestLine { method, path, headers: Headers(headers), body, body_base64 };
        let Exchange { after_ms, recorded, learned, events, .. } = exchange;
        Self { request, response, after_ms, recorded, learned, events }
    }
}

impl TryFrom<Line> for Exchange {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let RequestLine { method, path, headers, body, body_base64 } = line.request;
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(format!("request method {method:?} is not valid"));
        }
        if !path.starts_with('/') {
            return Err(format!("request path {path:?} does not begin with /"));
        }
        if line.after_ms > AFTER_MS_MAX {
            return Err(format!("after_ms is {}, more than the maximum of {AFTER_MS_MAX}", line.after_ms));
        }
        let body = join_body(body, body_base64).map_err(|reason| format!("the request {reason}"))?.unwrap_or_default();
        let request = Request { method, path, headers: headers.0, body };
        let response = match line.response {
            None => None,
            Some(ResponseLine { status, headers, body, body_base64 }) => {
                if !(100..=999).contains(&status) {
                    return Err(format!("response status {status} is not valid"));
                }
                let body = join_body(body, body_base64).map_err(|reason| format!("the response {reason}"))?;
                let headers = headers.0.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
                Some(Expected { status, headers, body })
            }
        };
        LearnedRules::compile(&line.learned)?;
        if line.events == Some(0) {
            return Err("events is 0: at least one event must be recorded".to_owned());
        }
        let Line { after_ms, recorded, learned, events, .. } = line;
        Ok(Self { request, response, after_ms, recorded, learned, events })
    }
}

/// True if the text is a valid name of a run. It becomes a file name, a store name and the name of a check.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
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
pub(crate) fn parse(path: &Path, input: impl BufRead) -> Result<GoldenRun, Error> {
    let mut exchanges = Vec::new();
    let header = for_each_exchange(path, input, |exchange| exchanges.push(exchange))?;
    Ok(GoldenRun { header, exchanges })
}

/// Calls `each` for every exchange of a run, in order. Returns the header.
fn for_each_exchange(path: &Path, input: impl BufRead, mut each: impl FnMut(Exchange)) -> Result<Header, Error> {
    let mut header = None;
    let mut count = 0;
    for (index, line) in input.lines().enumerate() {
        let line = line.map_err(|source| Error::Io { what: "read", path: path.to_owned(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        if header.is_none() {
            header = Some(parse_header(path, &line)?);
            continue;
        }
        if count == EXCHANGES_MAX {
            return Err(Error::TooLarge { path: path.to_owned(), max: EXCHANGES_MAX as u64, unit: "exchanges" });
        }
        let exchange =
            serde_json::from_str::<Line>(&line).map_err(|error| error.to_string()).and_then(Exchange::try_from);
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
    parse(path, open(path)?)
}

/// Checks a run line by line, without keeping it in memory.
///
/// # Errors
/// As for [`read`].
pub fn verify(path: &Path) -> Result<(), Error> {
    for_each_exchange(path, open(path)?, drop).map(drop)
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
}

impl Writer {
    /// Creates a new file with its header. Never overwrites an existing file.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, Error> {
        let failed = |source| Error::Io { what: "write", path: path.to_owned(), source };
        let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
        let mut writer = Self { file, path: path.to_owned(), exchanges: 0 };
        writer.line(header)?;
        Ok(writer)
    }

    /// Writes one exchange as one line, immediately.
    ///
    /// # Errors
    /// If the run or the disk is full.
    pub fn push(&mut self, exchange: Exchange) -> Result<(), Error> {
        if self.exchanges == EXCHANGES_MAX {
            return Err(Error::TooLarge { path: self.path.clone(), max: EXCHANGES_MAX as u64, unit: "exchanges" });
        }
        self.exchanges += 1;
        self.line(&Line::from(exchange))
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
