//! The heads of HTTP/1 messages: collects the bytes of a head with a bound, and reads what the framing of the body needs.

use super::body::{Body, Unreadable};

/// The largest head of a message, in bytes. Common servers refuse more than 8 to 64 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The largest number of headers. Common servers refuse more than 100.
const HEADERS_MAX: usize = 128;
/// The part of a request's target that is kept, in bytes: a route does not need more.
const TARGET_BYTES_MAX: usize = 1 << 10;

/// Collects the bytes of a head.
#[derive(Debug, Default)]
pub(super) struct Collector {
    bytes: Vec<u8>,
    /// Whether only a line end came since the last line end, so the next line end is the end of the head.
    at_line_start: bool,
}

impl Collector {
    /// Whether no byte of a head has come.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of memory that are held.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes bytes up to the end of the head. Returns how many it took, and whether the head is complete.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, bool), Unreadable> {
        for (index, &byte) in input.iter().enumerate() {
            if self.bytes.is_empty() {
                match byte {
                    // Line ends before a message are ignored (RFC 9112, section 2.2).
                    b'\r' | b'\n' => continue,
                    // A head begins with a token. TLS and most binary protocols do not.
                    _ if !byte.is_ascii_graphic() => return Err(Unreadable),
                    _ => {}
                }
            }
            if self.bytes.len() == HEAD_BYTES_MAX {
                return Err(Unreadable);
            }
            self.bytes.push(byte);
            match byte {
                b'\n' if self.at_line_start => return Ok((index + 1, true)),
                b'\n' => self.at_line_start = true,
                b'\r' => {}
                _ => self.at_line_start = false,
            }
        }
        Ok((input.len(), false))
    }

    /// Ends this head. The memory is given back: most connections are idle most of the time.
    fn finish(&mut self) -> Vec<u8> {
        self.at_line_start = false;
        std::mem::take(&mut self.bytes)
    }

    /// Reads the complete head of a request.
    pub fn request(&mut self) -> Result<RequestHead, Unreadable> {
        let bytes = self.finish();
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&bytes) != Ok(httparse::Status::Complete(bytes.len())) {
            return Err(Unreadable);
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Unreadable);
        };
        let body = Framing::of(request.headers)?.of_request(version)?;
        let (method, target) = (method.to_owned(), target[..target.floor_char_boundary(TARGET_BYTES_MAX)].to_owned());
        Ok(RequestHead { method, target, body, bytes })
    }

    /// Reads the complete head of an answer to a request with this method.
    pub fn answer(&mut self, method: &str) -> Result<AnswerHead, Unreadable> {
        let bytes = self.finish();
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        if answer.parse(&bytes) != Ok(httparse::Status::Complete(bytes.len())) {
            return Err(Unreadable);
        }
        let (Some(status), Some(version)) = (answer.code, answer.version) else { return Err(Unreadable) };
        if !(100..=999).contains(&status) {
            return Err(Unreadable);
        }
        let closes = has_token(answer.headers, "connection", "close")
            || (version == 0 && !has_token(answer.headers, "connection", "keep-alive"));
        let is_stream = value(answer.headers, "content-type")
            .is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"text/event-stream"));
        let is_tunnel = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
        let has_no_body = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let body =
            if is_tunnel || has_no_body { Body::None } else { Framing::of(answer.headers)?.of_answer(version)? };
        Ok(AnswerHead { status, body, closes, is_stream, is_tunnel, bytes })
    }
}

/// What the head of a request says.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub method: String,
    pub target: String,
    pub body: Body,
    bytes: Vec<u8>,
}

impl RequestHead {
    /// The whole target, and the headers.
    pub fn whole(&self) -> Option<(String, Headers)> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&self.bytes).ok()?;
        Some((request.path?.to_owned(), named(request.headers)))
    }
}

/// The names and values of headers, in order. Bytes that are not UTF-8 are replaced.
pub(super) type Headers = Vec<(String, String)>;

fn named(headers: &[httparse::Header<'_>]) -> Headers {
    let named = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
    };
    headers.iter().map(named).collect()
}

/// What the head of an answer says.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub status: u16,
    pub body: Body,
    /// Whether no other answer follows on this connection.
    pub closes: bool,
    /// Whether it is a stream of server-sent events, which may take hours.
    pub is_stream: bool,
    /// Whether the connection belongs to another protocol from here on.
    pub is_tunnel: bool,
    bytes: Vec<u8>,
}

impl AnswerHead {
    /// The headers.
    pub fn headers(&self) -> Headers {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        if answer.parse(&self.bytes).is_ok() { named(answer.headers) } else { Headers::new() }
    }
}

/// The headers that say where a body ends (RFC 9112, section 6).
struct Framing {
    length: Option<u64>,
    /// Whether there is a `Transfer-Encoding`, and whether its last coding is `chunked`.
    coding: Option<bool>,
}

impl Framing {
    /// Two readers may disagree about two lengths, or a length beside a coding. This is how requests are smuggled.
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, Unreadable> {
        let (mut length, mut coding) = (None, None);
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let digits = header.value.trim_ascii();
                let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
                if length.replace(number.ok_or(Unreadable)?).is_some() {
                    return Err(Unreadable);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let value = header.value.to_ascii_lowercase();
                let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let last = codings.next_back().unwrap_or_default();
                if codings.any(|coding| coding == b"chunked") || coding.replace(last == b"chunked").is_some() {
                    return Err(Unreadable);
                }
            }
        }
        if length.is_some() && coding.is_some() { Err(Unreadable) } else { Ok(Self { length, coding }) }
    }

    fn of_request(self, version: u8) -> Result<Body, Unreadable> {
        match (self.coding, self.length) {
            (Some(true), _) if version == 1 => Ok(Body::chunked()),
            // HTTP/1.0 has no codings, and the end of a request cannot be the end of the connection.
            (Some(_), _) => Err(Unreadable),
            (None, Some(length)) => Ok(Body::of_length(length)),
            (None, None) => Ok(Body::None),
        }
    }

    fn of_answer(self, version: u8) -> Result<Body, Unreadable> {
        match (self.coding, self.length) {
            (Some(_), _) if version == 0 => Err(Unreadable),
            (Some(true), _) => Ok(Body::chunked()),
            (None, Some(length)) => Ok(Body::of_length(length)),
            (Some(false) | None, _) => Ok(Body::UntilClose),
        }
    }
}

fn value<'h>(headers: &'h [httparse::Header<'_>], name: &str) -> Option<&'h [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
