//! Makes runs by asking a live server.

use std::time::Duration;

use super::format::{Exchange, Expected, GoldenRun, Header};
use crate::http::{self, Address, Request};

/// Why a run could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A line of the list is no request.
    #[error("line {line} of the list is no request: {text:?}")]
    List {
        /// From 1.
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
        /// Why there was no answer.
        #[source]
        source: Box<http::Error>,
    },
    /// The archive is not what it should be.
    #[error("entry {entry} of the archive: {reason}")]
    Archive {
        /// From 1; 0 for the whole.
        entry: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl RecordError {
    /// The next step for an operator, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::List { .. } => Some("write one request a line, as in: GET /path".into()),
            Self::Ask { source, .. } => {
                source.hint().or_else(|| Some("start the server, or name another with --from".into()))
            }
            Self::Archive { .. } => None,
        }
    }
}

/// Reads a list of requests, one `METHOD URL` a line; a URL's host does not count. Empty lines and `#` are left out.
///
/// # Errors
/// At the first line that is no request.
pub fn parse_requests(text: &str) -> Result<Vec<Request>, RecordError> {
    let mut requests = Vec::new();
    for (index, line) in text.lines().enumerate() {
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

/// Path and query of a URL, or of what is a path already.
pub(crate) fn path_of(url: &str) -> Option<String> {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("", |at| &rest[at..]),
        None if url.starts_with('/') => url,
        None => return None,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    Some(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// Asks a server every request, in order, and takes its answers as good.
///
/// # Errors
/// When one is not answered.
pub async fn record(
    address: &Address,
    header: Header,
    requests: Vec<Request>,
    timeout: Duration,
) -> Result<GoldenRun, RecordError> {
    let mut exchanges = Vec::with_capacity(requests.len());
    for request in requests {
        let response = http::send(address, &request, timeout).await.map_err(|source| RecordError::Ask {
            method: request.method.clone(),
            path: request.path.clone(),
            source: Box::new(source),
        })?;
        exchanges.push(Exchange { request, response: Some(Expected::from(response)), after_ms: 0 });
    }
    Ok(GoldenRun { header, exchanges })
}
