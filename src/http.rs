//! A bounded HTTP/1.1 client for loopback: probes, golden replay and recording.
//!
//! Each request uses its own connection, over TCP or a Unix socket, unless its caller keeps a [`Connection`]. Every answer is limited in time, header size and
//! body size, so a hostile server can cost its caller only a known amount. Redirects are returned, not followed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

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
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
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
            let _ = connection.await;
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
        let work = async {
            let http = build(&self.address, request, true)?;
            let broken = |source| failed(&self.address, request, source);
            self.sender.ready().await.map_err(broken)?;
            answer(&mut self.sender, http, &self.address, request, extent).await
        };
        let found = tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            let (method, path) = (request.method.clone(), request.path.clone());
            Err(Error::Timeout { address: self.address.clone(), method, path, timeout })
        });
        self.closes = match &found {
            // The rest of the stream is in the way of the next answer.
            Ok(_) if extent.events.is_some() => true,
            Ok(response) => response.headers.iter().any(|(name, value)| {
                name == "connection" && value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"))
            }),
            Err(_) => true,
        };
        found
    }
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
    let http = build(address, request, false)?;
    let connected = handshake().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|source| failed(address, request, source))?;
    let answer = answer(&mut sender, http, address, request, extent);
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
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    http: hyper::Request<Full<Bytes>>,
    address: &Address,
    request: &Request,
    extent: Extent,
) -> Result<Response, Error> {
    let broken = |source| failed(address, request, source);
    let response = sender.send_request(http).await.map_err(broken)?;
    let (head, body) = response.into_parts();
    let Some(body) = read_body(body, extent).await.map_err(broken)? else {
        let (method, path) = (request.method.clone(), request.path.clone());
        return Err(Error::TooLarge { address: address.clone(), method, path, max: extent.bytes_max });
    };
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Ok(Response { status: head.status.as_u16(), headers, body })
}

fn build(address: &Address, request: &Request, keep: bool) -> Result<hyper::Request<Full<Bytes>>, Error> {
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
    http.body(Full::new(Bytes::from(request.body.clone()))).map_err(|source| Error::Request {
        method: request.method.clone(),
        path: request.path.clone(),
        source,
    })
}

/// The body to this extent; `None` if it is larger.
async fn read_body(mut body: Incoming, extent: Extent) -> Result<Option<Vec<u8>>, hyper::Error> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if kept.len() + data.len() > extent.bytes_max {
                return Ok(None);
            }
            kept.extend_from_slice(&data);
            if let Some(end) = extent.end_of_events(&kept) {
                kept.truncate(end);
                break;
            }
        }
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chain;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    const LONG: Duration = Duration::from_secs(20);

    /// A server that reads one request, writes these bytes and closes the connection.
    async fn serve(answer: impl Into<Vec<u8>>) -> (Address, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let answer = answer.into();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap();
            // The client may hang up before the end of an answer that it refuses.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        (address, task)
    }

    #[tokio::test]
    async fn reads_a_chunked_answer_to_its_end() {
        let (address, task) =
            serve("HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
                .await;
        let request = Request {
            method: "POST".into(),
            path: "/x?y=1".into(),
            headers: vec![("content-length".into(), "999".into()), ("x-one".into(), "1".into())],
            body: b"hello".to_vec(),
        };
        let response = send(&address, &request, LONG).await.unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, b"abcde".as_slice()));
        assert_eq!(response.headers[0], ("x-a".to_owned(), "b".to_owned()));
        let sent = task.await.unwrap();
        assert!(sent.starts_with("POST /x?y=1 HTTP/1.1\r\n") && sent.contains("content-length: 5"), "{sent}");
    }

    #[tokio::test]
    async fn reads_an_answer_that_ends_with_the_connection_over_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
        });
        let response = send(&Address::Unix(path), &Request::get("/"), LONG).await.unwrap();
        assert_eq!(response.status, 204);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn refuses_large_broken_and_late_answers() {
        let (address, _task) = serve(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(64))).await;
        let error = send_bounded(&address, &Request::get("/"), LONG, 10).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { max: 10, .. }), "{error}");

        let (address, _task) = serve("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await;
        let error = send(&address, &Request::get("/"), LONG).await.unwrap_err();
        assert!(matches!(error, Error::Exchange { .. }), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let error = send(&address, &Request::get("/"), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");

        drop(listener);
        let error = send(&address, &Request::get("/"), LONG).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        assert!(chain(&error).contains("refused"), "{}", chain(&error));
    }

    #[tokio::test]
    async fn keeps_a_connection_until_the_server_announces_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heads = Vec::new();
            for answer in
                ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", "HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\nb"]
            {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap();
                heads.push(String::from_utf8_lossy(&head[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        });
        let mut connection = Connection::open(&address, LONG).await.unwrap();
        let first = connection.send(&Request::get("/1"), LONG, Extent::whole(10)).await.unwrap();
        assert!(first.body == b"a" && connection.is_kept());
        let second = connection.send(&Request::get("/2"), LONG, Extent::whole(10)).await.unwrap();
        assert!(second.body == b"b" && !connection.is_kept());
        let heads = server.await.unwrap();
        assert!(heads[0].starts_with("GET /1 ") && heads[1].starts_with("GET /2 "), "{heads:?}");
        assert!(heads.iter().all(|head| !head.contains("connection: close")), "{heads:?}");
        let error = connection.send(&Request::get("/3"), LONG, Extent::whole(10)).await.unwrap_err();
        assert!(matches!(error, Error::Exchange { .. }), "{error}");
    }

    #[tokio::test]
    async fn reads_the_first_events_of_a_stream_without_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for number in 0.. {
                // In parts, so that an event may end in another read.
                for part in [format!("data: {number}"), "\r".into(), "\n".into(), "\r\n".into()] {
                    if stream.write_all(part.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut connection = Connection::open(&address, LONG).await.unwrap();
        let extent = Extent { bytes_max: 1 << 20, events: Some(2) };
        let response = connection.send(&Request::get("/"), LONG, extent).await.unwrap();
        let text = String::from_utf8(response.body).unwrap();
        assert_eq!(text, ": hello\ndata: 0\r\n\r\ndata: 1\r\n\r\n");
        assert!(!connection.is_kept());
        drop(connection);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn refuses_an_invalid_request() {
        let address: Address = "http://127.0.0.1:1/".parse().unwrap();
        let bad = Request { method: "GET".into(), path: "no blank\nallowed".into(), ..Request::default() };
        // The client connects first, so this needs an address that accepts connections.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = Address::Tcp(listener.local_addr().unwrap());
        assert!(matches!(send(&here, &bad, LONG).await.unwrap_err(), Error::Request { .. }));
        assert_eq!(address.to_string(), "127.0.0.1:1");
        assert!("nowhere".parse::<Address>().unwrap_err().hint().is_some());
    }
}
