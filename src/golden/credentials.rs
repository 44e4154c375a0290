//! Removes credentials from a run before it is written: golden files are committed and copied, and a browser records
//! everything that it sends.
//!
//! Headers with credentials are removed; values in queries, forms and JSON are replaced. A value that was replaced in
//! an answer no longer counts in the comparison: a rule in the header excludes it, or the whole body is excluded.

use std::fmt;

use serde_json::Value;

use super::format::{Exchange, Expected, GoldenRun};
use super::normalise::Normaliser;
use crate::http::Request;
use crate::redact::{Redactor, is_credential};

/// The replacement of a value in a query or a form; none of its characters needs an escape.
const REPLACED: &str = "redacted";

/// A credential that was removed from an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedCredential {
    /// The number of the exchange, counted from 1.
    pub exchange: usize,
    /// Where it was, as `request header authorization`.
    pub what: String,
}

impl fmt::Display for RemovedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exchange {}: {}", self.exchange, self.what)
    }
}

/// Removes the credentials from every exchange, and returns where they were, in order.
pub fn remove_credentials(run: &mut GoldenRun) -> Vec<RemovedCredential> {
    let (mut removed, mut rules) = (Vec::new(), Vec::new());
    let mut redactor = Redactor::new();
    for (index, exchange) in run.exchanges.iter_mut().enumerate() {
        let mut places = Vec::new();
        of_exchange(exchange, &mut redactor, &mut rules, &mut places);
        removed.extend(places.into_iter().map(|what| RemovedCredential { exchange: index + 1, what }));
    }
    for rule in rules {
        if !run.header.normalisers.contains(&rule) {
            run.header.normalisers.push(rule);
        }
    }
    removed
}

fn of_exchange(it: &mut Exchange, redactor: &mut Redactor, rules: &mut Vec<Normaliser>, places: &mut Vec<String>) {
    let Request { path, headers, body, .. } = &mut it.request;
    if let Some((at, query)) = path.split_once('?') {
        let (clean, names) = pairs(query, redactor);
        places.extend(names.into_iter().map(|name| format!("query {name}")));
        *path = format!("{at}?{clean}");
    }
    let kind = content_type(headers);
    redact_headers(headers, redactor, "request", places);
    let mut pointers = Vec::new();
    if let Some(clean) = of_body(body, &kind, redactor, "request", &mut pointers, places) {
        *body = clean;
    }
    let Some(Expected { headers, body, .. }) = &mut it.response else { return };
    let kind = content_type(headers);
    redact_headers(headers, redactor, "answer", places);
    let Some(found) = body else { return };
    let mut pointers = Vec::new();
    if let Some(clean) = of_body(found, &kind, redactor, "answer", &mut pointers, places) {
        // A body that is not JSON cannot be compared in part.
        *body = (!pointers.is_empty()).then_some(clean);
        rules.extend(pointers.into_iter().map(|pointer| Normaliser::Ignore { pointer }));
    }
}

fn content_type(headers: &[(String, String)]) -> String {
    let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    found.map(|(_, value)| value.to_ascii_lowercase()).unwrap_or_default()
}

/// True if the name is that of a credential, or the value looks like one, and it was not replaced before.
fn is_unreplaced_credential(name: &str, value: &str, redactor: &mut Redactor) -> bool {
    value != REPLACED && (is_credential(name, value) || redactor.text(value) != value)
}

fn redact_headers(headers: &mut Vec<(String, String)>, redactor: &mut Redactor, of: &str, places: &mut Vec<String>) {
    headers.retain(|(name, value)| {
        let credential = is_unreplaced_credential(name, value, redactor);
        if credential {
            places.push(format!("{of} header {name}"));
        }
        !credential
    });
}

/// A query or form without credentials, and the names of those.
fn pairs(text: &str, redactor: &mut Redactor) -> (String, Vec<String>) {
    let mut names = Vec::new();
    let clean = text.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if is_unreplaced_credential(&decoded(name), &decoded(value), redactor) => {
            names.push(decoded(name));
            format!("{name}={REPLACED}")
        }
        _ => pair.to_owned(),
    });
    (clean.collect::<Vec<_>>().join("&"), names)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, escape.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The body without credentials; `None` if it has none. `pointers` gets their places in a JSON body.
fn of_body(
    body: &[u8],
    kind: &str,
    redactor: &mut Redactor,
    of: &str,
    pointers: &mut Vec<String>,
    places: &mut Vec<String>,
) -> Option<Vec<u8>> {
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let clean = redactor.value(&value);
        differences(&value, &clean, "", pointers);
        places.extend(pointers.iter().map(|pointer| format!("{of} body {pointer}")));
        return (!pointers.is_empty()).then(|| clean.to_string().into_bytes());
    }
    let text = std::str::from_utf8(body).ok()?;
    if kind.contains("x-www-form-urlencoded") {
        let (clean, names) = pairs(text, redactor);
        places.extend(names.iter().map(|name| format!("{of} form {name}")));
        return (!names.is_empty()).then(|| clean.into_bytes());
    }
    if let Some((_, boundary)) = kind.split_once("boundary=") {
        // Only the length of the boundary is used, because the content type was converted to lower case.
        let (clean, names) = parts(text, boundary.trim_matches('"').len(), redactor);
        places.extend(names.iter().map(|name| format!("{of} form {name}")));
        return (!names.is_empty()).then(|| clean.into_bytes());
    }
    let clean = redactor.text(text);
    (clean != text).then(|| {
        places.push(format!("{of} body"));
        clean.into_bytes()
    })
}

/// A multipart form without credentials, and the names of those.
fn parts(text: &str, boundary_chars: usize, redactor: &mut Redactor) -> (String, Vec<String>) {
    let Some(delimiter) = text.get(..boundary_chars + 2).filter(|start| start.starts_with("--")) else {
        return (redactor.text(text), Vec::new());
    };
    let mut names = Vec::new();
    let clean = text.split(delimiter).map(|part| {
        let Some((head, value)) = part.split_once("\r\n\r\n") else { return part.to_owned() };
        let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        if !is_unreplaced_credential(name, value.trim_end(), redactor) {
            return part.to_owned();
        }
        names.push(name.to_owned());
        format!("{head}\r\n\r\n{REPLACED}\r\n")
    });
    (clean.collect::<Vec<_>>().join(delimiter), names)
}

/// The places where two values of the same form differ, as JSON pointers with `*` for a position in a list.
fn differences(before: &Value, after: &Value, pointer: &str, found: &mut Vec<String>) {
    let mut push = |pointer: String| {
        if !found.contains(&pointer) {
            found.push(pointer);
        }
    };
    match (before, after) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            for (key, value) in one {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                differences(value, &other[key], &format!("{pointer}/{escaped}"), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                differences(one, other, &format!("{pointer}/*"), found);
            }
        }
        (one, other) if one != other => push(pointer.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Facets, Header, Noise, Normalisers, compare};
    use crate::time::Timestamp;

    fn run(request: Request, response: Option<Expected>) -> GoldenRun {
        let header = Header::new("x", "http", Timestamp::default());
        GoldenRun { header, exchanges: vec![Exchange { request, response, after_ms: 0, ..Exchange::default() }] }
    }

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn credentials_are_removed_and_listed() {
        let request = Request {
            method: "POST".into(),
            path: "/login?token=abc123secret&page=2&X-Amz-Signature=9f86d081884c7d659a2feaa0c55ad015".into(),
            headers: vec![
                header("authorization", "Bearer sk-live-abcdef0123456789"),
                header("proxy-authorization", "Basic YWRhOmh1bnRlcjI="),
                header("cookie", "session=deadbeefcafe"),
                header("x-api-key", "k1"),
                header("x-forwarded-jwt", "eyJhbGciOi.eyJzdWIiOi.c2ln"),
                header("content-type", "application/x-www-form-urlencoded"),
                header("accept", "*/*"),
            ],
            body: b"user=ada&password=hunter%322&next=%2F".to_vec(),
        };
        let answer = br#"{"password": "hunter2", "email": "ada@example.org", "all": [{"api_key": "k2"}]}"#;
        let headers = vec![header("set-cookie", "session=deadbeefcafe"), header("etag", "1")];
        let mut run = run(request, Some(Expected { status: 200, headers, body: Some(answer.to_vec()) }));
        let recorded = run.exchanges[0].response.clone().unwrap();
        let places: Vec<String> = remove_credentials(&mut run).iter().map(ToString::to_string).collect();
        assert_eq!(
            places,
            [
                "query token",
                "query X-Amz-Signature",
                "request header authorization",
                "request header proxy-authorization",
                "request header cookie",
                "request header x-api-key",
                "request header x-forwarded-jwt",
                "request form password",
                "answer header set-cookie",
                "answer body /password",
                "answer body /all/*/api_key",
            ]
            .map(|what| format!("exchange 1: {what}"))
        );
        let text = format!("{run:?}");
        for secret in ["abc123", "9f86", "sk-live", "YWRh", "deadbeef", "k1", "k2", "eyJ", "hunter"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(run.exchanges[0].request.body, b"user=ada&password=redacted&next=%2F");
        // The recorded answer still passes the comparison.
        let rules = Normalisers::compile(&run.header.normalisers).unwrap();
        let [want, is] =
            [run.exchanges[0].response.as_ref().unwrap(), &recorded].map(|it| Facets::of_expected(it, &rules));
        assert_eq!(compare(&want, &is, &Noise::none(), &rules), []);
        assert_eq!(remove_credentials(&mut run), [], "the second time there is nothing to remove");
    }

    #[test]
    fn credentials_in_multipart_forms_and_texts_are_removed_and_the_rest_stays() {
        let form = "--Xy\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n--Xy\r\nContent-Disposition: \
                    form-data; name=\"page\"\r\n\r\n2\r\n--Xy--\r\n";
        let headers = vec![header("content-type", "multipart/form-data; boundary=Xy")];
        let request = Request { method: "POST".into(), path: "/".into(), headers, body: form.as_bytes().to_vec() };
        let body = Some(b"<input name=api_key value=x> api_key=0a1b2c3d4e5f".to_vec());
        let mut one = run(request, Some(Expected { status: 200, headers: Vec::new(), body }));
        assert_eq!(remove_credentials(&mut one).len(), 2);
        let text = String::from_utf8(one.exchanges[0].request.body.clone()).unwrap();
        assert_eq!(text, form.replace("hunter2", REPLACED));
        assert_eq!(one.exchanges[0].response.as_ref().unwrap().body, None, "it cannot be compared in part");
        let plain = Request { path: "/a?page=2&q=token%20ring".into(), ..Request::get("/") };
        let mut other = run(plain, Some(Expected { status: 200, headers: Vec::new(), body: Some(vec![0xff, 0]) }));
        let before = other.clone();
        assert_eq!((remove_credentials(&mut other), &other), (Vec::new(), &before));
    }
}
