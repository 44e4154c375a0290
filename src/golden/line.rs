//! The stored form of an exchange: one line of a golden file.

use std::path::Path;

use base64::Engine;
use serde::{Deserialize, Serialize};

use super::bodies::{BODIES_BYTES_MAX, BodyFile, BodyFiles};
use super::format::{AFTER_MS_MAX, Exchange, Expected, Headers, LINES, Protocol, Recorded, SWITCHING};
use super::learned::{Learned, LearnedRules};
use super::message::{self, Message};
use crate::http::Request;

/// The stored form of a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<RequestLine>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Message>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_bytes: Option<u64>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_bytes: Option<u64>,
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

/// The file of a body, as a line names it.
fn named(file: Option<&BodyFile>) -> (Option<String>, Option<u64>) {
    file.map_or((None, None), |file| (Some(file.digests.sha256.clone()), Some(file.digests.bytes)))
}

/// Where the files of bodies are, and what all of them may have.
#[derive(Debug)]
pub(super) struct Bodies<'a> {
    /// The directory beside the run; `None` if the line is of no run.
    pub directory: Option<&'a Path>,
    /// Bytes that the rest of the run's bodies may have.
    pub left: u64,
}

impl Bodies<'_> {
    /// The file of a body, which is read to its end.
    fn open(&mut self, file: Option<String>, bytes: Option<u64>, is_inline: bool) -> Result<Option<BodyFile>, String> {
        let (Some(sha256), Some(bytes)) = (&file, bytes) else {
            return match file.is_none() && bytes.is_none() {
                true => Ok(None),
                false => Err("has one of body_file and body_bytes, but needs both".to_owned()),
            };
        };
        if is_inline {
            return Err("has both a body and a body_file".to_owned());
        }
        let Some(directory) = self.directory else {
            return Err("has a body_file, which only a run can have".to_owned());
        };
        let too_many = || format!("has a body_file, and the bodies of the run have more than {BODIES_BYTES_MAX} bytes");
        self.left = self.left.checked_sub(bytes).ok_or_else(too_many)?;
        BodyFile::open(directory, sha256, bytes).map(Some)
    }
}

impl Line {
    pub(super) fn of(exchange: Exchange) -> Self {
        let is_lines = exchange.is_lines();
        let is_conversation = exchange.is_conversation();
        let Exchange { request, response, after_ms, recorded, learned, events, messages, files } = exchange;
        let Request { method, path, headers, body } = request;
        let (body, body_base64) = if body.is_empty() { (None, None) } else { split_body(body) };
        let response = response.filter(|_| !is_lines).map(|response| {
            let body = response.body.filter(|_| !is_conversation);
            let (body, body_base64) = body.map_or((None, None), split_body);
            let (body_file, body_bytes) = named(files.answer.as_ref());
            ResponseLine {
                status: response.status,
                headers: Headers(response.headers),
                body,
                body_base64,
                body_file,
                body_bytes,
            }
        });
        let (body_file, body_bytes) = named(files.request.as_ref());
        let headers = Headers(headers);
        let request = RequestLine { method, path, headers, body, body_base64, body_file, body_bytes };
        let request = Some(request).filter(|_| !is_lines);
        Self { request, response, after_ms, recorded, learned, events, messages }
    }

    pub(super) fn into_exchange(self, protocol: Protocol, bodies: &mut Bodies<'_>) -> Result<Exchange, String> {
        let Self { request, response, after_ms, recorded, learned, events, messages } = self;
        if after_ms > AFTER_MS_MAX {
            return Err(format!("after_ms is {after_ms}, more than the maximum of {AFTER_MS_MAX}"));
        }
        LearnedRules::compile(&learned)?;
        if events == Some(0) {
            return Err("events is 0: at least one event must be recorded".to_owned());
        }
        message::check(&messages)?;
        if !protocol.is_http() {
            if request.is_some() || response.is_some() || events.is_some() || messages.is_empty() {
                return Err("an exchange of lines has messages, and neither request nor response".to_owned());
            }
            messages.iter().try_for_each(message::check_line)?;
            return Ok(Exchange { after_ms, recorded, learned, ..Exchange::of_lines(messages) });
        }
        let Some(request) = request else { return Err("missing field `request`".to_owned()) };
        let RequestLine { method, path, headers, body, body_base64, body_file, body_bytes } = request;
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic()) || method == LINES {
            return Err(format!("request method {method:?} is not valid"));
        }
        if !path.starts_with('/') {
            return Err(format!("request path {path:?} does not begin with /"));
        }
        let body = join_body(body, body_base64).map_err(|reason| format!("the request {reason}"))?;
        let in_file = bodies.open(body_file, body_bytes, body.is_some());
        let mut files = BodyFiles { request: in_file.map_err(|reason| format!("the request {reason}"))?, answer: None };
        let request = Request { method, path, headers: headers.0, body: body.unwrap_or_default() };
        let response = match response {
            None => None,
            Some(ResponseLine { status, headers, body, body_base64, body_file, body_bytes }) => {
                if !(100..=999).contains(&status) {
                    return Err(format!("response status {status} is not valid"));
                }
                let wrong = |reason| format!("the response {reason}");
                let body = join_body(body, body_base64).map_err(wrong)?;
                files.answer = bodies.open(body_file, body_bytes, body.is_some()).map_err(wrong)?;
                let headers = headers.0.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
                Some(Expected { status, headers, body })
            }
        };
        let mut exchange = Exchange { request, response, after_ms, recorded, learned, events, messages, files };
        if !exchange.is_websocket() && !exchange.messages.is_empty() {
            return Err(format!("has messages, but its response is not {SWITCHING}"));
        }
        exchange.settle();
        Ok(exchange)
    }
}

impl Exchange {
    /// Parses one line of a golden file.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = serde_json::from_str::<Line>(line).map_err(|error| error.to_string())?;
        line.into_exchange(Protocol::Http, &mut Bodies { directory: None, left: 0 })
    }
}
