//! A bounded HTTP/1.1 client for loopback: probes, golden replay and recording.
//!
//! Each request uses its own connection, over TCP or a Unix socket, unless its caller keeps a [`Connection`]. Every answer is limited in time, header size and
//! body size, so a hostile server can cost its caller only a known amount. Redirects are returned, not followed.

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

mod outgoing;
#[cfg(test)]
mod tests;

use outgoing::Outgoing;

/// Default maximum size of a body, in bytes. A larger body is an error; it is never truncated.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Maximum size of the status line with the headers, in bytes: four times the limit of common servers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Maximum number of headers. This is hyper's default; it is set explicitly because recordings depend on it.
const HEADERS_MAX: usize = 100;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:8080`.
    Tcp(SocketAddr),
    /// `unix:/run/x.sock`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = Error;

    /// Parses the output of [`Display`](fmt::Display); a TCP address may begin with `http://`.
    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        bare.parse().map(Self::Tcp).map_err(|_| Error::Address { text: text.to_owned() })
    }
}

/// A request. Missing `host`, `content-length` and `connection` headers are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with the query: `/a?b=c`.
    pub path: String,
    /// The names and values of headers, in order.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A `GET` without headers or body.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET".into(), path: path.into(), ..Self::default() }
    }
}

/// A complete answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The names (in lower case) and values of headers, in order. Bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The complete body, without transfer encoding.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text is not an address.
    #[error("{text:?} is not an address")]
    Address {
        /// The text.
        text: String,
    },
    /// The request is not valid HTTP.
    #[error("cannot write the request {method} {path:?}")]
    Request {
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The error of the library.
        #[source]
        source: hyper::http::Error,
    },
    /// No process accepts connections at the address.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: Address,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The connection ended early, or the answer is not HTTP.
    #[error("no HTTP answer from {address} to {method} {path}")]
    Exchange {
        /// The address.
        address: Address,
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The error of the library.
        #[source]
        source: hyper::Error,
    },
    /// The answer was not complete before the timeout.
    #[error("no complete answer from {address} to {method} {path} within {timeout:?}")]
    Timeout {
        /// The address.
        address: Address,
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The timeout.
        timeout: Duration,
    },
    /// The body of the request cannot be read.
    #[error("cannot read the body of the request to {path}")]
    Body {
        /// The request's path.
        path: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The body exceeds the maximum size.
    #[error("the answer of {address} to {method} {path} is larger than {max} bytes")]
    TooLarge {
        /// The address.
        address: Address,
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The maximum, in bytes.
        max: usize,
    },
}

impl Error {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("write 127.0.0.1:8080, [::1]:8080 or unix:/run/x.sock".into()),
            _ => None,
        }
    }
}

/// How much of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The maximum size of the body, in bytes. A larger body is an error.
    pub bytes_max: usize,
    /// If the answer is a stream of server-sent events: how many of them are read. The rest is not waited for, because such a
    /// stream has no end.
    pub events: Option<usize>,
}

impl Extent {
    /// A whole body of at most this size.
    pub const fn whole(bytes_max: usize) -> Self {
        Self { bytes_max, events: None }
    }

    /// The end of the last event that is read, in a body of which this much came; `None` if more must come.
    fn end_of_events(self, body: &[u8]) -> Option<usize> {
        let mut left = self.events?;
        if left == 0 {
            return Some(0);
        }
        // An event ends with an empty line; a line ends with CR, LF or both (HTML, section 9.2.5).
        let (mut at, mut is_empty) = (0, true);
        while let Some(&byte) = body.get(at) {
            let is_end = byte == b'\n' || byte == b'\r';
            at += if byte == b'\r' && body.get(at + 1) == Some(&b'\n') { 2 } else { 1 };
            if is_end && is_empty {
                left -= 1;
                if left == 0 {
                    return Some(at);
                }
            }
            is_empty = is_end;
        }
        None
    }
}

/// Sends a request and reads the complete answer, with at most [`BODY_BYTES_MAX`] of body, within `timeout`.
///
/// # Errors
/// If there is no complete HTTP answer within the limits of size and time.
pub async fn send(address: &Address, request: &Request, timeout: Duration) -> Result<Response, Error> {
    send_bounded(address, request, timeout, BODY_BYTES_MAX).await
}

/// Like [`send`], with another maximum size of the body, in bytes.
///
/// # Errors
/// As for [`send`].
pub async fn send_bounded(
    address: &Address,
    request: &Request,
    timeout: Duration,
    body_bytes_max: usize,
) -> Result<Response, Error> {
    let work = async {
        let connect = |source| Error::Connect { address: address.clone(), source };
        match address {
            Address::Tcp(to) => {
                let stream = TcpStream::connect(to).await.map_err(connect)?;
                exchange(stream, address, request, Extent::whole(body_bytes_max)).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(connect)?;
                exchange(stream, address, request, Extent::whole(body_bytes_max)).await
            }
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let (method, path) = (request.method.clone(), request.path.clone());
        Err(Error::Timeout { address: address.clone(), method, path, timeout })
    })
}

/// Sends a request on a stream that is connected already, and reads the answer to this extent. `address` names the server in
/// errors, and the host if the request names none. The caller limits the time.
///
/// # Errors
/// As for [`send`].
pub async fn send_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Address,
    request: &Request,
    extent: Extent,
) -> Result<Response, Error> {
    exchange(stream, address, request, extent).await
}

/// A connection for several requests, one after the other. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    sender: hyper::client::conn::http1::SendRequest<Outgoing>,
    /// The connection only progresses while this task runs.
    task: tokio::task::JoinHandle<()>,
    /// Whether the last answer announced the end of the connection.
    closes: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects within `timeout`.
    ///
    /// # Errors
    /// If nothing accepts the connection in time.
    pub async fn open(address: &Address, timeout: Duration) -> Result<Self, Error> {
        let connect = |source| Error::Connect { address: address.clone(), source };
        let open = async {
            match address {
                Address::Tcp(to) => Self::on(TcpStream::connect(to).await.map_err(connect)?, address).await,
                Address::Unix(path) => Self::on(UnixStream::connect(path).await.map_err(connect)?, address).await,
            }
        };
        let late = || connect(std::io::ErrorKind::TimedOut.into());
        tokio::time::timeout(timeout, open).await.unwrap_or_else(|_| Err(late()))
    }

    async fn on(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: &Address,
    ) -> Result<Self, Error> {
        let (sender, connection) = handshake().handshake(TokioIo::new(stream)).await.map_err(|source| {
            Error::Exchange { address: address.clone(), method: String::new(), path: String::new(), source }
        })?;
        let task = tokio::spawn(async move {
            // Its error is also the error of the request that waits for it.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { address: address.clone(), sender, task, closes: false })
    }

    /// False if the server has announced that it closes the connection: the next request needs another one.
    pub fn is_kept(&self) -> bool {
        !self.closes
    }

    /// Sends a request and reads the answer to this extent, within `timeout`.
    ///
    /// # Errors
    /// As for [`send`]; also if the server has closed the connection.
    pub async fn send(&mut self, request: &Request, timeout: Duration, extent: Extent) -> Result<Response, Error> {
        self.send_streamed(request, None, timeout, Reading::Kept(extent)).await
    }

    /// As [`Self::send`], with a body that is in a file, or an answer that is given away piece by piece.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub async fn send_streamed(
        &mut self,
        request: &Request,
        body: Option<File>,
        timeout: Duration,
        reading: Reading<'_>,
    ) -> Result<Response, Error> {
        let is_stream = matches!(&reading, Reading::Kept(Extent { events: Some(_), .. }));
        let work = async {
            let http = build(&self.address, request, body, true)?;
            let broken = |source| failed(&self.address, request, source);
            self.sender.ready().await.map_err(broken)?;
            answer(&mut self.sender, http, &self.address, request, reading).await
        };
        let found = tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            let (method, path) = (request.method.clone(), request.path.clone());
            Err(Error::Timeout { address: self.address.clone(), method, path, timeout })
        });
        self.closes = match &found {
            // The rest of the stream is in the way of the next answer.
            Ok(_) if is_stream => true,
            Ok(response) => response.headers.iter().any(|(name, value)| {
                name == "connection" && value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"))
            }),
            Err(_) => true,
        };
        found
    }
}

/// The answer to a request for another protocol.
#[derive(Debug)]
pub struct Opened {
    /// The answer. It has a body only if the server stays with HTTP.
    pub response: Response,
    /// The connection in the other protocol, if the status is 101.
    pub stream: Option<TokioIo<Upgraded>>,
}

/// Sends a request with `upgrade` on a connection of its own, within `timeout`.
///
/// # Errors
/// As for [`send`].
pub async fn upgrade(
    address: &Address,
    request: &Request,
    timeout: Duration,
    bytes_max: usize,
) -> Result<Opened, Error> {
    let work = async {
        let mut connection = Connection::open(address, timeout).await?;
        let http = build(address, request, None, true)?;
        let broken = |source| failed(address, request, source);
        let mut answered = connection.sender.send_request(http).await.map_err(broken)?;
        if answered.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(&mut answered).await.map_err(broken)?;
            let (head, _) = answered.into_parts();
            return Ok(Opened { response: head_of(&head), stream: Some(TokioIo::new(upgraded)) });
        }
        let (head, body) = answered.into_parts();
        let body = read_body(body, Reading::Kept(Extent::whole(bytes_max))).await.map_err(broken)?;
        let body = body.ok_or_else(|| Error::TooLarge {
            address: address.clone(),
            method: request.method.clone(),
            path: request.path.clone(),
            max: bytes_max,
        })?;
        Ok(Opened { response: Response { body, ..head_of(&head) }, stream: None })
    };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let (method, path) = (request.method.clone(), request.path.clone());
        Err(Error::Timeout { address: address.clone(), method, path, timeout })
    })
}

fn handshake() -> hyper::client::conn::http1::Builder {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    builder
}

fn failed(address: &Address, request: &Request, source: hyper::Error) -> Error {
    let (method, path) = (request.method.clone(), request.path.clone());
    Error::Exchange { address: address.clone(), method, path, source }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Address,
    request: &Request,
    extent: Extent,
) -> Result<Response, Error> {
    let http = build(address, request, None, false)?;
    let connected = handshake().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|source| failed(address, request, source))?;
    let answer = answer(&mut sender, http, address, request, Reading::Kept(extent));
    // The connection only progresses while it is polled. After the answer it is dropped, which closes the socket.
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ended = &mut connection => answer.await,
    }
}

/// Sends a request on a connection that another future or task drives, and reads the complete answer.
async fn answer(
    sender: &mut hyper::client::conn::http1::SendRequest<Outgoing>,
    http: hyper::Request<Outgoing>,
    address: &Address,
    request: &Request,
    reading: Reading<'_>,
) -> Result<Response, Error> {
    let broken = |source| failed(address, request, source);
    let response = sender.send_request(http).await.map_err(broken)?;
    let (head, body) = response.into_parts();
    let max = reading.bytes_max();
    let Some(body) = read_body(body, reading).await.map_err(broken)? else {
        let (method, path) = (request.method.clone(), request.path.clone());
        return Err(Error::TooLarge { address: address.clone(), method, path, max });
    };
    Ok(Response { body, ..head_of(&head) })
}

/// An answer without its body.
fn head_of(head: &hyper::http::response::Parts) -> Response {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Response { status: head.status.as_u16(), headers, body: Vec::new() }
}

/// True if the body of a request is sent in chunks: so it was recorded.
fn is_chunked(request: &Request) -> bool {
    let is = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case("transfer-encoding") && value.to_ascii_lowercase().contains("chunked")
    };
    request.headers.iter().any(is)
}

fn build(
    address: &Address,
    request: &Request,
    body: Option<File>,
    keep: bool,
) -> Result<hyper::Request<Outgoing>, Error> {
    let mut http = hyper::Request::builder().method(request.method.as_str()).uri(request.path.as_str());
    let named = |name: &str| request.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    if !named("host") {
        let host = match address {
            Address::Tcp(to) => to.to_string(),
            Address::Unix(_) => "localhost".into(),
        };
        http = http.header("host", host);
    }
    if !keep && !named("connection") {
        http = http.header("connection", "close");
    }
    for (name, value) in &request.headers {
        // hyper sets the framing headers of the body itself; recorded ones would contradict them.
        if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("transfer-encoding") {
            http = http.header(name, value);
        }
    }
    let is_chunked = is_chunked(request);
    if is_chunked {
        http = http.header("transfer-encoding", "chunked");
    }
    let body = match body {
        Some(file) => {
            Outgoing::of_file(file, is_chunked).map_err(|source| Error::Body { path: request.path.clone(), source })?
        }
        None => Outgoing::of_bytes(request.body.clone().into(), is_chunked),
    };
    http.body(body).map_err(|source| Error::Request {
        method: request.method.clone(),
        path: request.path.clone(),
        source,
    })
}

/// Headers that concern one connection (RFC 9110, section 7.6.1) or the coding of a body on it, in lower case.
const OF_CONNECTION: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// Whether a header concerns one connection or the coding of a body on it, and not the exchange. Who sends the exchange again
/// has headers of its own for that. `transfer-encoding` is not among them: that a request came in chunks can be repeated.
pub fn is_of_connection(name: &str) -> bool {
    OF_CONNECTION.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// What is done with the body of an answer.
pub enum Reading<'a> {
    /// It is kept, to this extent.
    Kept(Extent),
    /// It is given away piece by piece, and the answer has none.
    Streamed {
        /// The maximum size of the body, in bytes.
        bytes_max: usize,
        /// Gets the pieces, in order.
        each: &'a mut (dyn FnMut(&[u8]) + Send),
    },
}

impl fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("bytes_max", &self.bytes_max()).finish_non_exhaustive()
    }
}

impl Reading<'_> {
    fn bytes_max(&self) -> usize {
        match self {
            Self::Kept(extent) => extent.bytes_max,
            Self::Streamed { bytes_max, .. } => *bytes_max,
        }
    }
}

/// The body, as far as it is kept; `None` if it is larger than the maximum.
async fn read_body(mut body: Incoming, mut reading: Reading<'_>) -> Result<Option<Vec<u8>>, hyper::Error> {
    let (mut kept, mut bytes, max) = (Vec::new(), 0, reading.bytes_max());
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
        let Ok(data) = frame?.into_data() else { continue };
        bytes += data.len();
        if bytes > max {
            return Ok(None);
        }
        match &mut reading {
            Reading::Streamed { each, .. } => each(&data),
            Reading::Kept(extent) => {
                kept.extend_from_slice(&data);
                if let Some(end) = extent.end_of_events(&kept) {
                    kept.truncate(end);
                    break;
                }
            }
        }
    }
    Ok(Some(kept))
}
