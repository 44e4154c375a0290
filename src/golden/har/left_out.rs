//! The reasons for which an entry is left out.

use std::fmt;

use crate::golden::bodies::BODY_FILE_BYTES_MAX;
use crate::golden::format::EXCHANGES_MAX;

/// Why an entry of an archive is not in the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// A value is missing or wrong; with its place in the JSON.
    Malformed(String),
    /// A name or a value that HTTP does not allow; with its place in the JSON.
    NotHttp(String),
    /// Its URL names no server; with the scheme.
    NoServer(String),
    /// It is of another origin than the run.
    OtherOrigin,
    /// It has no answer; with the value that shows it.
    NoAnswer(String),
    /// It opens a WebSocket whose messages the archive does not have.
    WebSocket,
    /// It opens a WebSocket with more messages than a run can have; with the bound.
    LargeTalk(String),
    /// Its method is for proxies.
    ForProxies,
    /// It answers "not modified".
    NotModified,
    /// The client took the answer from a cache or from a service worker.
    NotFromServer(&'static str),
    /// Its answer is a stream without end.
    Stream,
    /// Its request has a body over the maximum; with the size in bytes.
    LargeRequest(u64),
    /// Its answer has a body over the maximum; with the size in bytes.
    LargeAnswer(u64),
    /// The archive does not have the body of the request.
    BodyLost(String),
    /// The run is full.
    TooMany,
    /// A secret cannot be taken out of it.
    Unredactable(String),
}

impl LeftOut {
    /// The reason in a count: `3 without an answer`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "that are not as HAR says",
            Self::NotHttp(_) => "that are not valid HTTP",
            Self::NoServer(_) => "with a URL that names no server",
            Self::OtherOrigin => "of another origin",
            Self::NoAnswer(_) => "without an answer",
            Self::WebSocket => "that open a WebSocket without messages",
            Self::LargeTalk(_) => "that open a WebSocket with too many messages",
            Self::ForProxies => "with a method for proxies",
            Self::NotModified => "answered 304",
            Self::NotFromServer(_) => "that no server answered",
            Self::Stream => "with a stream of events",
            Self::LargeRequest(_) | Self::LargeAnswer(_) => "with a body over 64 MiB",
            Self::BodyLost(_) => "without the body of the request",
            Self::TooMany => "over the maximum of a run",
            Self::Unredactable(_) => "with secrets that cannot be replaced",
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(reason) | Self::NotHttp(reason) | Self::BodyLost(reason) | Self::Unredactable(reason) => {
                f.write_str(reason)
            }
            Self::LargeTalk(bound) => write!(f, "its WebSocket {bound}"),
            Self::NoServer(scheme) => write!(f, "no server is asked for a {scheme}: URL"),
            Self::OtherOrigin => f.write_str("another origin"),
            Self::NoAnswer(value) => write!(f, "it has no answer: {value}"),
            Self::WebSocket => f.write_str("the archive does not have the messages of the WebSocket"),
            Self::ForProxies => f.write_str("the method is for proxies"),
            Self::NotModified => f.write_str("304 depends on the client's cache"),
            Self::NotFromServer(source) => write!(f, "the answer is from {source}, not from the server"),
            Self::Stream => f.write_str("a stream of events has no end"),
            Self::LargeRequest(bytes) => {
                write!(f, "the body of the request has {bytes} bytes; a replay sends at most {BODY_FILE_BYTES_MAX}")
            }
            Self::LargeAnswer(bytes) => {
                write!(f, "the body of the answer has {bytes} bytes; a replay reads at most {BODY_FILE_BYTES_MAX}")
            }
            Self::TooMany => write!(f, "a run has at most {EXCHANGES_MAX} exchanges"),
        }
    }
}
