//! One entry as an exchange, or the reason why it is none.

use hyper::http::uri::PathAndQuery;
use hyper::http::{HeaderName, HeaderValue};

use super::archive::{Node, shorten};
use super::body::{decoded, of_answer, of_request};
use super::left_out::LeftOut;
use crate::golden::format::{Exchange, Expected, SWITCHING};
use crate::golden::message::{Data, Message, Side};
use crate::golden::url::{NoTarget, Origin, Target};
use crate::http::{self, Request};
use crate::time::Timestamp;

/// Headers that are not in a run, besides those of one connection: the archive does not tell how a body was framed, and a
/// replay names its own host.
const NOT_KEPT: &[&str] = &["host", "transfer-encoding"];

/// The request line of an entry: enough to name the entry, and to choose an origin.
pub(super) struct Asked {
    pub method: String,
    pub target: Target,
}

/// Reads the method and the URL. The first value names the entry, as far as it has a name.
pub(super) fn asked(entry: &Node<'_>) -> (String, Result<Asked, LeftOut>) {
    if let Err(reason) = entry.object() {
        return (String::new(), Err(LeftOut::Malformed(reason)));
    }
    let request = entry.get("request");
    let (method, url) = match (request.get("method").text(), request.get("url").text()) {
        (Ok(method), Ok(url)) => (method, url),
        (Err(reason), _) | (_, Err(reason)) => return (String::new(), Err(LeftOut::Malformed(reason))),
    };
    let target = match Target::parse(url) {
        Ok(target) => target,
        Err(NoTarget::Scheme(scheme)) => {
            return (format!("{method} {scheme}:…"), Err(LeftOut::NoServer(scheme)));
        }
        Err(NoTarget::Invalid) if method.eq_ignore_ascii_case("CONNECT") => {
            return (format!("{method} {}", shorten(url)), Err(LeftOut::ForProxies));
        }
        Err(NoTarget::Invalid) => {
            let reason = request.get("url").wrong(&format!("{:?} is not a URL", shorten(url)));
            return (method.to_owned(), Err(LeftOut::Malformed(reason)));
        }
    };
    // A query may have secrets.
    let path = target.path.split('?').next().unwrap_or_default();
    (format!("{method} {path}"), Ok(Asked { method: method.to_owned(), target }))
}

/// The origins of the pages that the entry shows: where it was asked from, or its own if it is a page.
pub(super) fn page_origin(entry: &Node<'_>) -> Option<Origin> {
    let request = entry.get("request");
    let headers = request.get("headers").items().unwrap_or_default();
    let from = headers.iter().find_map(|header| {
        let name = header.get("name").text().ok()?;
        let names_page = name.eq_ignore_ascii_case("referer") || name.eq_ignore_ascii_case("origin");
        let value = header.get("value").text().ok().filter(|_| names_page)?;
        Target::parse(value).ok().map(|target| target.origin)
    });
    let is_page = || {
        let mime = entry.get("response").get("content").get("mimeType").text().unwrap_or_default();
        mime.to_ascii_lowercase().starts_with("text/html")
    };
    from.or_else(|| {
        let url = request.get("url").text().ok().filter(|_| is_page())?;
        Target::parse(url).ok().map(|target| target.origin)
    })
}

/// When an entry began and how long it took, in milliseconds, and the connection that it had to itself until its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub began: Timestamp,
    pub took_ms: u64,
    /// `None` if the archive does not say which one, or if requests share it at the same time, as in HTTP/2.
    pub connection: Option<String>,
}

/// The times of an entry; `None` if it does not have them.
pub(super) fn times(entry: &Node<'_>) -> Option<Times> {
    let began = entry.get("startedDateTime").text().ok()?.parse().ok()?;
    let took_ms = entry.get("time").duration_ms()?;
    let is_shared = ["request", "response"].iter().any(|side| {
        let version = entry.get(side).get("httpVersion").text().unwrap_or_default().to_ascii_lowercase();
        !version.is_empty() && !version.starts_with("http/1")
    });
    let connection = entry.get("connection").text().ok().filter(|name| !is_shared && !name.is_empty());
    Some(Times { began, took_ms, connection: connection.map(str::to_owned) })
}

/// The exchange of an entry, and the reason why it has no body of the answer, if it should have one.
pub(super) fn exchange(entry: &Node<'_>, asked: Asked) -> Result<(Exchange, Option<String>), LeftOut> {
    let malformed = LeftOut::Malformed;
    let Asked { method, target } = asked;
    let has_messages = !entry.get("_webSocketMessages").is_absent();
    let is_websocket = has_messages || target.is_websocket;
    if is_websocket && !has_messages {
        return Err(LeftOut::WebSocket);
    }
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(LeftOut::ForProxies);
    }
    let (request, response) = (entry.get("request"), entry.get("response"));
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(LeftOut::NotHttp(request.get("method").wrong(&format!("{:?} is not a method", shorten(&method)))));
    }
    if target.path.parse::<PathAndQuery>().is_err() {
        return Err(LeftOut::NotHttp(request.get("url").wrong("is not valid HTTP")));
    }
    let status = if is_websocket { switched(&response)? } else { status(&response)? };
    not_from_server(entry)?;
    let mut headers_asked = headers(&request)?;
    let content_type = value_of(&headers_asked, "content-type").map(str::to_owned);
    let body = of_request(&request, content_type.as_deref())?;
    if let Some(kind) = body.content_type.filter(|_| content_type.is_none() && !body.bytes.is_empty()) {
        let of = request.get("postData").get("mimeType");
        let value = HeaderValue::from_str(&kind).map_err(|_| LeftOut::NotHttp(of.wrong("is not valid in a header")))?;
        headers_asked.push(("content-type".into(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    if target.origin.is_named() {
        headers_asked.insert(0, ("host".into(), target.origin.authority()));
    }
    let headers_answered = headers(&response)?;
    if is_websocket {
        let request = Request { method, path: target.path, headers: headers_asked, body: Vec::new() };
        let exchange =
            Exchange::of_websocket(request, headers_answered, messages(entry)?).map_err(LeftOut::LargeTalk)?;
        return Ok((exchange, None));
    }
    let content = response.get("content");
    let mime = content.get("mimeType").optional_text().map_err(malformed)?;
    let kind = value_of(&headers_answered, "content-type").or(mime).unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with("text/event-stream") {
        return Err(LeftOut::Stream);
    }
    let (answered, without) = match of_answer(&content)? {
        // These answers have no body, so nothing is missing.
        Err(_) if method == "HEAD" || [204, 205].contains(&status) => (Some(Vec::new()), None),
        Err(reason) => (None, Some(reason)),
        Ok(bytes) => (Some(bytes), None),
    };
    let request = Request { method, path: target.path, headers: headers_asked, body: body.bytes };
    let response = Some(Expected { status, headers: headers_answered, body: answered });
    Ok((Exchange { request, response, ..Exchange::default() }, without))
}

/// The status of an answer that opened a WebSocket.
fn switched(response: &Node<'_>) -> Result<u16, LeftOut> {
    response.object().map_err(LeftOut::Malformed)?;
    let status = response.get("status");
    match status.number() {
        Some(101) => Ok(SWITCHING),
        _ => Err(LeftOut::NoAnswer(status.is())),
    }
}

/// The messages of a WebSocket, in the form of Chromium: `{"type":"send","opcode":1,"data":"…"}`; the data of opcode 2 is base64.
fn messages(entry: &Node<'_>) -> Result<Vec<Message>, LeftOut> {
    let mut messages = Vec::new();
    for frame in entry.get("_webSocketMessages").items().map_err(LeftOut::Malformed)? {
        let (kind, data) = (frame.get("type"), frame.get("data"));
        let from = match kind.text().map_err(LeftOut::Malformed)? {
            "send" => Side::Client,
            "receive" => Side::Service,
            // What the browser says of an error is no message.
            _ => continue,
        };
        let data = data.text().map_err(LeftOut::Malformed)?;
        let data = match frame.get("opcode").number() {
            Some(1) | None => Data::Text(data.to_owned()),
            Some(2) => Data::Binary(decoded(&frame, data).map_err(LeftOut::Malformed)?),
            // Pings, pongs and the end are of the connection.
            Some(8..=10) => continue,
            Some(_) => return Err(LeftOut::Malformed(frame.get("opcode").wrong("is no opcode of a message"))),
        };
        messages.push(Message { from, data });
    }
    Ok(messages)
}

/// The status of an answer that a replay can give again.
fn status(response: &Node<'_>) -> Result<u16, LeftOut> {
    if response.is_absent() {
        return Err(LeftOut::NoAnswer(response.is()));
    }
    response.object().map_err(LeftOut::Malformed)?;
    let status = response.get("status");
    match status.number().and_then(|number| u16::try_from(number).ok()) {
        Some(101) => Err(LeftOut::WebSocket),
        Some(304) => Err(LeftOut::NotModified),
        Some(code @ 200..=999) => Ok(code),
        _ => Err(LeftOut::NoAnswer(status.is())),
    }
}

/// Browsers mark answers that they did not get from the server.
fn not_from_server(entry: &Node<'_>) -> Result<(), LeftOut> {
    if entry.get("_fromCache").is_set() || entry.get("_fromDiskCache").is_set() {
        return Err(LeftOut::NotFromServer("the client's cache"));
    }
    if [entry, &entry.get("response")].iter().any(|it| it.get("_fetchedViaServiceWorker").is_set()) {
        return Err(LeftOut::NotFromServer("a service worker"));
    }
    Ok(())
}

fn value_of<'a>(headers: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// The headers that are kept in a run, in order, with names in lower case. HTTP/2's pseudo-headers are left out.
fn headers(message: &Node<'_>) -> Result<Vec<(String, String)>, LeftOut> {
    let mut kept = Vec::new();
    for header in message.get("headers").items_if_any().map_err(LeftOut::Malformed)? {
        let name = header.get("name").text().map_err(LeftOut::Malformed)?;
        let name_kept = name.to_ascii_lowercase();
        if name.starts_with(':') || NOT_KEPT.contains(&name_kept.as_str()) || http::is_of_connection(name) {
            continue;
        }
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            let wrong = format!("{:?} is not a valid name of a header", shorten(name));
            return Err(LeftOut::NotHttp(header.get("name").wrong(&wrong)));
        }
        let value = header.get("value").optional_text().map_err(LeftOut::Malformed)?.unwrap_or_default().trim();
        // A browser joins the values of a repeated `set-cookie` with line ends.
        for value in value.split('\n').map(str::trim) {
            if HeaderValue::from_str(value).is_err() {
                return Err(LeftOut::NotHttp(header.get("value").wrong("is not valid in a header")));
            }
            kept.push((name_kept.clone(), value.to_owned()));
        }
    }
    Ok(kept)
}
