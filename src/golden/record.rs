//! Records runs by sending requests to a live server.

use std::time::Duration;

use super::bodies::BODY_FILE_BYTES_MAX;
use super::format::{Exchange, Expected, GoldenRun, Header};
use super::url::path_of;
use crate::http::{self, Address, Request};

/// Why a run could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A line of the list is not a request.
    #[error("line {line} of the list is not a request: {text:?}")]
    List {
        /// The number of the line, counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// The server gave no answer.
    #[error("cannot record {method} {path}")]
    Ask {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The reason.
        #[source]
        source: Box<http::Error>,
    },
}

impl RecordError {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::List { .. } => Some("write one request per line, as in: GET /path".into()),
            Self::Ask { source, .. } => {
                source.hint().or_else(|| Some("start the server, or use another one with --from".into()))
            }
        }
    }
}

/// Parses a list of requests, one `METHOD URL` per line. The hosts of URLs are ignored, and so are empty lines and
/// lines that begin with `#`.
///
/// # Errors
/// The first line that is not a request.
pub fn parse_requests(text: &str) -> Result<Vec<Request>, RecordError> {
    let mut requests = Vec::new();
    // Some editors begin a file with a byte order mark.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let request = match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [method, url] if method.bytes().all(|b| b.is_ascii_uppercase()) => {
                path_of(url).map(|path| Request { method: (*method).to_owned(), path, ..Request::default() })
            }
            _ => None,
        };
        requests.push(request.ok_or_else(|| RecordError::List { line: index + 1, text: line.to_owned() })?);
    }
    Ok(requests)
}

/// Sends every request to a server, in order, and records its answers as good.
///
/// # Errors
/// If a request is not answered.
pub async fn record(
    address: &Address,
    header: Header,
    requests: Vec<Request>,
    timeout: Duration,
) -> Result<GoldenRun, RecordError> {
    let mut exchanges = Vec::with_capacity(requests.len());
    let bytes_max = usize::try_from(BODY_FILE_BYTES_MAX).unwrap_or(usize::MAX);
    for request in requests {
        let response = http::send_bounded(address, &request, timeout, bytes_max).await.map_err(|source| {
            RecordError::Ask { method: request.method.clone(), path: request.path.clone(), source: Box::new(source) }
        })?;
        exchanges.push(Exchange {
            request,
            response: Some(Expected::from(response)),
            after_ms: 0,
            ..Exchange::default()
        });
    }
    Ok(GoldenRun { header, exchanges })
}
