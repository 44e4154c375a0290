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
//! | 1.2 | bodies in files beside the run; the messages of WebSockets; runs of lines over TCP |
//!
//! The first line says of a run of lines `"protocol":"lines"` (each ends with LF) or `"crlf-lines"`. Its exchanges have no
//! request: each is the conversation on one connection.
//!
//! ```text
//! {"messages":[{"receive":"220 ready"},{"send":"HELO a"},{"receive":"250 ok"}]}
//! ```
//!
//! The answer to the request that opens a WebSocket has the status 101, and its exchange has `messages` in the same form.
//! Binary messages are `send_base64` and `receive_base64`; `receive_sha256` is one of which only the digest is kept. What the
//! service sent is compared as the list that it is: the pointer `/*/id` names a member of each received JSON message.
//!
//! A body over 1 MiB is a file in the directory `NAME.bodies` beside the run, whose name is its SHA-256; the exchange has
//! `"body_file":"SHA-256"` and `"body_bytes"`. It is compared by the digest of each block of 64 KiB, so that it is in no
//! memory, and so that a difference has a place. Normalisers do not see it.
//!
//! A request with `transfer-encoding: chunked` is sent in chunks. How an answer is framed does not count, only its content: it
//! is compared after decoding, and trailers are ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bodies::{BODY_INLINE_MAX, BodyFiles};
use super::learned::Learned;
use super::message::{self, Message, Side};
use super::normalise::Normaliser;
use crate::http::{Request, Response};
use crate::time::Timestamp;

/// The version that is written: a name and `major.minor`. A reader accepts every minor of its major, but it refuses an
/// exchange with an unknown field: a misspelt `response` must not turn into "every answer is good".
pub const SCHEMA: &str = "rei-golden/1.0";

/// The version of a run from live traffic, whose exchanges have a place and learned rules, and of a run with placeholders:
/// 1.0 does not know them.
pub const SCHEMA_LIVE: &str = "rei-golden/1.1";

/// The version of a run with bodies in files, with messages, or of lines.
pub const SCHEMA_PARTS: &str = "rei-golden/1.2";

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
    /// What the listener speaks.
    #[serde(default, skip_serializing_if = "Protocol::is_http")]
    pub protocol: Protocol,
}

/// What is spoken on the connections of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1, with WebSockets.
    #[default]
    Http,
    /// Lines of text, each with LF at its end.
    Lines,
    /// Lines of text, each with CR and LF at its end, as in SMTP, POP3, IMAP, Redis and memcached.
    CrlfLines,
}

impl Protocol {
    /// Whether it is HTTP.
    pub fn is_http(&self) -> bool {
        *self == Self::Http
    }

    /// The end of a line that is sent.
    pub fn line_end(self) -> &'static str {
        if self == Self::CrlfLines { "\r\n" } else { "\n" }
    }
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
        Self {
            schema: SCHEMA.into(),
            name,
            listener,
            normalisers: Vec::new(),
            created,
            recording: None,
            protocol: Protocol::Http,
        }
    }

    /// A header for a new run from live traffic.
    pub fn of_live(name: impl Into<String>, listener: impl Into<String>, created: Timestamp, of: Recording) -> Self {
        Self { schema: SCHEMA_LIVE.into(), recording: Some(of), ..Self::new(name, listener, created) }
    }

    /// The version is at least this one of those above.
    pub fn needs(&mut self, schema: &str) {
        if self.schema.as_str() < schema && self.schema.len() <= schema.len() {
            self.schema = schema.to_owned();
        }
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
    /// If the exchange is a conversation: its messages, in order. Then `response` has what the service sent as its body, as
    /// [`Exchange::settle`] makes it.
    pub messages: Vec<Message>,
    /// Bodies that are in files beside the run; then the request and the answer have none.
    pub files: BodyFiles,
}

/// The status of the answer that opens a WebSocket.
pub const SWITCHING: u16 = 101;

/// The method of an exchange of lines, which has no request.
pub const LINES: &str = "LINES";

/// Headers of a handshake that a replay sets itself, or that it does not offer.
const OF_HANDSHAKE: &[&str] = &[
    "connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "upgrade",
];

/// True for a header of the handshake of a WebSocket that is not recorded.
pub(super) fn is_of_handshake(name: &str) -> bool {
    OF_HANDSHAKE.iter().any(|own| name.eq_ignore_ascii_case(own))
}

impl Exchange {
    /// A conversation of lines.
    pub fn of_lines(messages: Vec<Message>) -> Self {
        let request = Request { method: LINES.into(), path: "/".into(), ..Request::default() };
        let mut exchange = Self { request, response: Some(Expected::default()), messages, ..Self::default() };
        exchange.settle();
        exchange
    }

    /// A WebSocket: the request that opened it, the headers of the answer with names in lower case, and the messages in the
    /// order in which they were seen. Headers of the handshake itself, which a replay sets, are left out.
    ///
    /// # Errors
    /// If there are more messages than a run can have, or larger ones.
    pub fn of_websocket(
        mut request: Request,
        mut answered: Vec<(String, String)>,
        messages: Vec<Message>,
    ) -> Result<Self, String> {
        message::check(&messages)?;
        request.headers.retain(|(name, _)| !is_of_handshake(name));
        answered.retain(|(name, _)| !is_of_handshake(name));
        let response = Some(Expected { status: SWITCHING, headers: answered, body: None });
        let mut exchange = Self { request, response, messages, ..Self::default() };
        exchange.settle();
        Ok(exchange)
    }

    /// Whether it opens a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.status == SWITCHING)
    }

    /// Whether it is a conversation of lines.
    pub fn is_lines(&self) -> bool {
        self.request.method == LINES
    }

    /// Whether it has messages instead of bodies.
    pub fn is_conversation(&self) -> bool {
        self.is_lines() || self.is_websocket()
    }

    /// Makes the body of a conversation's answer from its messages.
    pub fn settle(&mut self) {
        if !self.is_conversation() {
            return;
        }
        if let Some(response) = &mut self.response {
            let received = self.messages.iter().filter(|message| message.from == Side::Service);
            response.body = Some(message::body(received.map(|message| &message.data)));
        }
    }

    /// Whether a body is in a file, or will be when the exchange is written.
    pub fn has_large_body(&self) -> bool {
        let answered = self.response.as_ref().and_then(|response| response.body.as_ref()).map_or(0, Vec::len);
        self.files != BodyFiles::default()
            || self.request.body.len() > BODY_INLINE_MAX
            || (answered > BODY_INLINE_MAX && !self.is_conversation())
    }

    /// What it asks, for a person: `GET /path`, or the first line.
    pub fn name(&self) -> String {
        if !self.is_lines() {
            return format!("{} {}", self.request.method, self.request.path);
        }
        let sent = self.messages.iter().find(|message| message.from == Side::Client);
        sent.map_or_else(|| "lines".to_owned(), |message| format!("lines {}", message.data))
    }
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

impl GoldenRun {
    /// Writes the version that its exchanges need into its header.
    pub fn settle(&mut self) {
        let is_new = |exchange: &Exchange| exchange.is_conversation() || exchange.has_large_body();
        if !self.header.protocol.is_http() || self.exchanges.iter().any(is_new) {
            self.header.needs(SCHEMA_PARTS);
        }
    }
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

/// True if the text is a valid name of a run. It becomes a file name, a store name and the name of a check.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}
