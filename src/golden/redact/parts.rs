//! The texts of a message: headers, paths, queries, forms, pages.

use std::cell::OnceCell;

use regex::{Captures, Regex};
use serde_json::Value;

use super::names::Names;
use crate::golden::placeholder::{Kind, MARK, Piece, Placeholder, pieces};
use crate::golden::url::{decode, form_decode, form_encode, segment_encode};
use crate::redact::{Found, Redactor};

/// The field of a page, and its value in either order.
const FIELD: &str = concat!(
    r#"(?i)(<[^<>]*\bname\s*=\s*["']?)([\w.\[\]-]+)([^<>]*?\b(?:value|content)\s*=\s*["'])([^"'<>]+)"#,
    r#"|(<[^<>]*\b(?:value|content)\s*=\s*["'])([^"'<>]+)(["'][^<>]*?\bname\s*=\s*["']?)([\w.\[\]-]+)"#
);

/// Headers whose value is a URL.
const URL_HEADERS: &[&str] = &["referer", "location", "content-location", "origin", "refresh", "link", "sourcemap"];

/// Segments of a path that say that the next one is a secret, if that one is long and has digits.
const SEGMENT_BYTES_MIN: usize = 16;

/// Replaces secrets in texts. It looks for secrets by name and form; [`Parts::echo`] looks for the values that were found
/// elsewhere.
#[derive(Debug)]
pub(super) struct Parts {
    redactor: Redactor,
    names: Names,
    field: OnceCell<Option<Regex>>,
    /// If true, only known values are looked for.
    echo_only: bool,
    /// True if a text had the mark of a placeholder before.
    pub(super) marked: bool,
}

impl Parts {
    pub(super) fn new(redactor: Redactor) -> Self {
        Self { redactor, names: Names::default(), field: OnceCell::new(), echo_only: false, marked: false }
    }

    /// Looks only for known values, in messages that have been examined before.
    pub(super) fn echo_only(&mut self, only: bool) {
        self.echo_only = only;
    }

    fn look_for_mark(&mut self, text: &str) {
        self.marked |= !self.echo_only && text.contains(MARK);
    }

    /// A text without secrets.
    pub(super) fn text(&mut self, text: &str) -> String {
        self.look_for_mark(text);
        if self.echo_only {
            return self.names.echo(text);
        }
        let names = &mut self.names;
        self.redactor.text_with(text, &mut |found: &Found<'_>| names.of_found(found))
    }

    /// A text of a page without secrets: also the hidden fields of its forms.
    pub(super) fn page(&mut self, text: &str) -> String {
        if self.echo_only || !text.contains('<') {
            return self.text(text);
        }
        // The expression is a constant, and the tests use it.
        let Some(field) = self.field.get_or_init(|| Regex::new(FIELD).ok()) else { return self.text(text) };
        let (redactor, names) = (&self.redactor, &mut self.names);
        let page = field.replace_all(text, |found: &Captures<'_>| {
            let group = |n| found.get(n).map_or("", |group| group.as_str());
            let (before, between) = (group(1), group(3));
            let (name, value) = if before.is_empty() { (group(8), group(6)) } else { (group(2), group(4)) };
            if !redactor.is_secret(name, value) || value.contains(MARK) {
                return found[0].to_owned();
            }
            let placeholder = names.give(Kind::Secret, name, value);
            match before.is_empty() {
                true => format!("{}{placeholder}{}{name}", group(5), group(7)),
                false => format!("{before}{name}{between}{placeholder}"),
            }
        });
        let (page, marked) = (page.into_owned(), text.contains(MARK));
        let clean = self.text_of_replaced(&page);
        self.marked |= marked;
        clean
    }

    /// As [`Parts::text`], for a text that has placeholders already.
    fn text_of_replaced(&mut self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let (names, redactor) = (&mut self.names, &mut self.redactor);
        for piece in pieces(text) {
            match piece {
                Piece::Literal(literal) => {
                    clean += &redactor.text_with(literal, &mut |found: &Found<'_>| names.of_found(found));
                }
                Piece::Placeholder(placeholder) => clean += &placeholder.to_string(),
            }
        }
        clean
    }

    /// JSON without secrets.
    pub(super) fn json(&mut self, value: &Value) -> Value {
        if self.echo_only {
            return self.echo_json(value);
        }
        self.marked |= value.to_string().contains(MARK);
        let names = &mut self.names;
        self.redactor.value_with(value, &mut |found: &Found<'_>| names.of_found(found))
    }

    fn echo_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.names.echo(text)),
            Value::Array(items) => items.iter().map(|item| self.echo_json(item)).collect(),
            Value::Object(map) => {
                Value::Object(map.iter().map(|(key, item)| (self.names.echo(key), self.echo_json(item))).collect())
            }
            // A number that contains a secret is not a text: it is replaced as a whole.
            Value::Number(number) if self.names.has_echo(&number.to_string()) => {
                Value::String(self.names.echo(&number.to_string()))
            }
            other => other.clone(),
        }
    }

    /// The value of a field without secrets; `None` if it has none.
    pub(super) fn field(&mut self, name: &str, value: &str) -> Option<String> {
        self.look_for_mark(name);
        self.look_for_mark(value);
        if !self.echo_only && self.redactor.is_secret(name, value) {
            return Some(self.names.give(Kind::Secret, name, value));
        }
        Some(self.text(value)).filter(|clean| clean != value)
    }

    /// A query or a form without secrets. `names` gets the names of the fields that had some.
    pub(super) fn pairs(&mut self, text: &str, names: &mut Vec<String>) -> String {
        let mut clean = Vec::new();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
            let decoded = form_decode(name);
            // A name can be a value: `?ada@example.org`.
            let new_name = self.text(&decoded);
            let name = if new_name == decoded { name.to_owned() } else { encoded(&new_name, form_encode) };
            let new_value = value.and_then(|value| self.field(&decoded, &form_decode(value)));
            if new_name != decoded || new_value.is_some() {
                names.push(new_name);
            }
            let new_value = new_value.map(|new| encoded(&new, form_encode)).or(value.map(str::to_owned));
            clean.push(new_value.map_or(name.clone(), |value| format!("{name}={value}")));
        }
        clean.join("&")
    }

    /// The path of a URL without secrets, without the query.
    pub(super) fn segments(&mut self, path: &str) -> String {
        let (mut clean, mut before) = (Vec::new(), String::new());
        for segment in path.split('/') {
            let mut parameters = Vec::new();
            // `/app;jsessionid=1A2B`
            for (index, part) in segment.split(';').enumerate() {
                let decoded = decode(part).into_owned();
                let new = match decoded.split_once('=') {
                    Some((name, value)) => {
                        let value = self.field(name, value);
                        value.map(|value| format!("{}={}", segment_encode(name), encoded(&value, segment_encode)))
                    }
                    None if index == 0 && self.is_secret_segment(&before, &decoded) => {
                        Some(self.names.give(Kind::Secret, &before, &decoded))
                    }
                    None => {
                        let new = Some(self.text(&decoded)).filter(|new| *new != decoded);
                        new.map(|new| encoded(&new, segment_encode))
                    }
                };
                parameters.push(new.unwrap_or_else(|| part.to_owned()));
                before = decoded;
            }
            clean.push(parameters.join(";"));
        }
        clean.join("/")
    }

    /// True for the second segment in `/reset-token/1a2b…`. Words such as `/password/change` are routes.
    fn is_secret_segment(&mut self, before: &str, segment: &str) -> bool {
        self.look_for_mark(segment);
        !self.echo_only
            && segment.len() >= SEGMENT_BYTES_MIN
            && segment.bytes().any(|byte| byte.is_ascii_digit())
            && self.redactor.is_secret(before, segment)
    }

    /// A header without secrets; `None` if it has none. The name is in lower case.
    pub(super) fn header(&mut self, name: &str, value: &str) -> Option<String> {
        self.look_for_mark(value);
        let clean = match name {
            _ if self.echo_only => self.text(value),
            "authorization" | "proxy-authorization" => self.authorization(value),
            "cookie" => self.cookies(value),
            "set-cookie" => self.set_cookie(value),
            _ if self.redactor.is_secret(name, value) => self.names.give(Kind::Secret, name, value),
            _ if URL_HEADERS.contains(&name) => self.url(value),
            _ => self.text(value),
        };
        Some(clean).filter(|clean| clean != value)
    }

    fn authorization(&mut self, value: &str) -> String {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value, ""));
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Kind::Bearer,
            "basic" => Kind::Basic,
            _ => return self.names.give(Kind::Authorization, "", value),
        };
        format!("{scheme} {}", self.names.give(kind, "", rest.trim()))
    }

    fn cookies(&mut self, value: &str) -> String {
        let cookie = |cookie: &str| match cookie.trim().split_once('=') {
            Some((_, "")) => cookie.trim().to_owned(),
            Some((name, value)) => format!("{name}={}", self.names.give(Kind::Cookie, name, value)),
            None if cookie.trim().is_empty() => String::new(),
            None => self.names.give(Kind::Cookie, "", cookie.trim()),
        };
        value.split(';').map(cookie).collect::<Vec<_>>().join("; ")
    }

    fn set_cookie(&mut self, value: &str) -> String {
        let (cookie, attributes) = value.split_once(';').map_or((value, None), |(cookie, rest)| (cookie, Some(rest)));
        let mut clean = self.cookies(cookie);
        for attribute in attributes.into_iter().flat_map(|all| all.split(';')) {
            let is_date = attribute.trim().to_ascii_lowercase().starts_with("expires=");
            clean.push(';');
            match attribute.split_once('=').filter(|_| is_date) {
                Some((name, _)) => clean += &format!("{name}={}", Placeholder::new(Kind::Date, "")),
                None => clean += attribute,
            }
        }
        clean
    }

    /// A URL without secrets.
    pub(super) fn url(&mut self, url: &str) -> String {
        let (rest, fragment) = url.split_once('#').map_or((url, None), |(rest, fragment)| (rest, Some(fragment)));
        let (at, query) = rest.split_once('?').map_or((rest, None), |(at, query)| (at, Some(query)));
        let mut clean = self.text(at);
        if let Some(query) = query {
            clean += &format!("?{}", self.pairs(query, &mut Vec::new()));
        }
        if let Some(fragment) = fragment {
            clean += &format!("#{}", self.pairs(fragment, &mut Vec::new()));
        }
        clean
    }
}

/// Encodes the literals of a text; the placeholders stay, so that they can be found.
fn encoded(text: &str, encode: impl Fn(&str) -> String) -> String {
    let piece = |piece| match piece {
        Piece::Literal(literal) => encode(literal),
        Piece::Placeholder(placeholder) => placeholder.to_string(),
    };
    pieces(text).into_iter().map(piece).collect()
}
