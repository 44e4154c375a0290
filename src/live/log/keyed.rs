//! Reads lines with keys: JSON and logfmt.

use std::borrow::Cow;

use serde_json::Value;

use super::duration;
use super::fields::{Fields, status};
use crate::config::{DurationUnit, LogKeys};

/// The usual keys, the most exact first: pino, bunyan, zap, logrus, slog, structlog, Caddy, Traefik, Elastic's common
/// schema, Google's `httpRequest`, and nginx with a format of its own.
const STATUS: &[&str] = &[
    "http.response.status_code",
    "http.status_code",
    "res.statusCode",
    "response.status_code",
    "response.status",
    "httpRequest.status",
    "DownstreamStatus",
    "status_code",
    "statusCode",
    "http_status",
    "response_status",
    "status",
    "code",
];
const METHOD: &[&str] = &[
    "http.request.method",
    "http.method",
    "req.method",
    "request.method",
    "httpRequest.requestMethod",
    "RequestMethod",
    "request_method",
    "http_method",
    "method",
    "verb",
];
const PATH: &[&str] = &[
    "url.path",
    "http.target",
    "http.route",
    "req.url",
    "request.path",
    "request.uri",
    "request.url",
    "httpRequest.requestUrl",
    "RequestPath",
    "request_uri",
    "request_path",
    "http_path",
    "path",
    "uri",
    "url",
    "target",
    "route",
];
const DURATION: &[&str] = &[
    "duration_ms",
    "durationMs",
    "duration_us",
    "duration_ns",
    "duration_s",
    "duration_seconds",
    "latency_ms",
    "latencyMs",
    "latency_us",
    "latency_ns",
    "elapsed_ms",
    "elapsedMs",
    "response_time_ms",
    "responseTime",
    "request_time",
    "took_ms",
    "time_ms",
    "httpRequest.latency",
    "duration",
    "latency",
    "elapsed",
    "response_time",
    "took",
    "dur",
];
const LEVEL: &[&str] = &["log.level", "level", "lvl", "severity", "levelname", "log_level", "@l"];
const MESSAGE: &[&str] =
    &["msg", "message", "error.message", "err.message", "error", "err", "exception", "event", "@m"];
const AGENT: &[&str] = &[
    "user_agent.original",
    "req.headers.user-agent",
    "request.headers.User-Agent",
    "httpRequest.userAgent",
    "http.user_agent",
    "http_user_agent",
    "user_agent",
    "userAgent",
    "agent",
    "ua",
];
const BYTES: &[&str] =
    &["http.response.body.bytes", "res.contentLength", "body_bytes_sent", "bytes_sent", "bytes", "size"];

/// A value under a key.
trait Keyed<'a> {
    fn get(&self, key: &str) -> Option<Cow<'a, str>>;
}

impl<'a> Keyed<'a> for &'a Value {
    fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        let mut found: &'a Value = self;
        // Most keys with a dot lead into an object, but a library can also write the dot into the key.
        if let Some(value) = found.as_object()?.get(key) {
            found = value;
        } else {
            for part in key.split('.') {
                found = found.as_object()?.get(part)?;
            }
        }
        match found {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            Value::Array(values) => values.first()?.as_str().map(Cow::Borrowed),
            _ => None,
        }
    }
}

/// The pairs of a line in logfmt.
struct Pairs<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Keyed<'a> for &Pairs<'a> {
    fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }
}

/// Reads what a line of JSON says. `use_fields` gets it, as long as the line is there.
pub(super) fn json<T>(
    line: &str,
    keys: &LogKeys,
    unit: Option<DurationUnit>,
    use_fields: impl FnOnce(&Fields<'_>) -> T,
) -> Option<T> {
    // A line of containers can have text before the object.
    let value: Value = serde_json::from_str(line.trim()).ok().filter(Value::is_object)?;
    Some(use_fields(&fields(&&value, keys, unit)))
}

/// Reads what a line of logfmt says; `None` if it has no pairs.
pub(super) fn logfmt<'a>(line: &'a str, keys: &LogKeys, unit: Option<DurationUnit>) -> Option<Fields<'a>> {
    let pairs = Pairs(pairs(line));
    (!pairs.0.is_empty()).then(|| fields(&&pairs, keys, unit))
}

fn fields<'a>(line: &impl Keyed<'a>, keys: &LogKeys, unit: Option<DurationUnit>) -> Fields<'a> {
    let first = |own: &Option<String>, usual: &[&str]| match own {
        Some(key) => line.get(key),
        None => usual.iter().find_map(|key| line.get(key)),
    };
    let status = |text: Cow<'_, str>| status(&text);
    let found_status = match &keys.status {
        Some(key) => line.get(key).and_then(status),
        // A `code` can be one of a database: the first that can be a status.
        None => STATUS.iter().find_map(|key| line.get(key).and_then(status)),
    };
    let us = |key: &str| duration::read_us(&line.get(key)?, unit.or_else(|| duration::unit_of(key)));
    let mut found = Fields {
        status: found_status,
        method: first(&keys.method, METHOD),
        path: first(&keys.path, PATH),
        duration_us: match &keys.duration {
            Some(key) => us(key),
            None => DURATION.iter().find_map(|key| us(key)),
        },
        bytes: first(&None, BYTES).and_then(|text| text.parse().ok()),
        agent: first(&None, AGENT),
        level: first(&keys.level, LEVEL),
        message: first(&keys.message, MESSAGE),
    };
    if found.path.is_none()
        && let Some(request) = line.get("request")
    {
        found.set_request(&request);
    }
    // Without a key that the operator names, a status alone can be that of another request.
    if keys.status.is_none() && found.path.is_none() && found.method.is_none() {
        found.status = None;
    }
    found
}

/// The pairs of `a=b c="d e"`. Words without `=` are left out.
fn pairs(line: &str) -> Vec<(&str, Cow<'_, str>)> {
    /// The most pairs of a line that are read.
    const PAIRS_MAX: usize = 64;
    let (mut found, mut rest) = (Vec::new(), line.trim_start());
    while !rest.is_empty() && found.len() < PAIRS_MAX {
        let end = rest.find(['=', ' ', '\t']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            rest = after.trim_start();
            continue;
        };
        if let Some(inside) = value.strip_prefix('"') {
            let mut escaped = false;
            let end = inside.find(|c| {
                let is_end = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                is_end
            });
            let end = end.unwrap_or(inside.len());
            let text = &inside[..end];
            let text = if text.contains('\\') { Cow::Owned(text.replace("\\\"", "\"")) } else { Cow::Borrowed(text) };
            found.push((key, text));
            rest = inside.get(end + 1..).unwrap_or_default().trim_start();
        } else {
            let end = value.find([' ', '\t']).unwrap_or(value.len());
            found.push((key, Cow::Borrowed(&value[..end])));
            rest = value[end..].trim_start();
        }
        if key.is_empty() {
            found.pop();
        }
    }
    found
}
