//! Bodies by their type: JSON, forms, multipart, text; and those that cannot be examined.

use serde_json::Value;

use super::parts::Parts;

/// The headers that say what a body is.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyType {
    /// `content-type`, as it was sent.
    kind: String,
    /// `content-encoding`, if the body is encoded.
    encoding: Option<String>,
}

impl BodyType {
    pub(super) fn of(headers: &[(String, String)]) -> Self {
        let value = |wanted: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, it)| it);
        let encoding = value("content-encoding").filter(|it| !it.is_empty() && !it.eq_ignore_ascii_case("identity"));
        Self { kind: value("content-type").cloned().unwrap_or_default(), encoding: encoding.cloned() }
    }

    fn is(&self, part: &str) -> bool {
        self.kind.to_ascii_lowercase().contains(part)
    }

    fn parameter(&self, wanted: &str) -> Option<&str> {
        self.kind.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            name.eq_ignore_ascii_case(wanted).then_some(value.trim().trim_matches('"'))
        })
    }
}

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// It has no secrets.
    Same,
    /// It without its secrets.
    Clean {
        bytes: Vec<u8>,
        /// Where they were: `form password`, `body /token`; only `body` if it is a text.
        places: Vec<String>,
        /// The places in a JSON body whose keys are secrets themselves.
        renamed: Vec<String>,
    },
    /// It cannot be examined, and why.
    Opaque(String),
}

/// Examines a body.
pub(super) fn of_body(bytes: &[u8], kind: &BodyType, parts: &mut Parts) -> Body {
    if bytes.is_empty() {
        return Body::Same;
    }
    if let Some(encoding) = &kind.encoding {
        return Body::Opaque(format!("its body is encoded as {encoding:?}"));
    }
    if let Ok(value @ (Value::Object(_) | Value::Array(_) | Value::String(_))) = serde_json::from_slice::<Value>(bytes)
    {
        return json(&value, parts);
    }
    if kind.is("multipart/") {
        return multipart(bytes, kind, parts);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if kind.is("x-www-form-urlencoded") => {
            let mut names = Vec::new();
            let clean = parts.pairs(text, &mut names);
            let places = names.into_iter().map(|name| format!("form {name}")).collect();
            changed(text, clean, places)
        }
        Ok(text) => {
            let clean = if kind.is("html") || kind.is("xml") || kind.kind.is_empty() {
                parts.page(text)
            } else {
                parts.text(text)
            };
            changed(text, clean, vec!["body".into()])
        }
        // In these encodings every byte is one character.
        Err(_) if kind.is("text/") && !kind.is("utf-16") && !kind.is("utf-32") => {
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            match changed(&text, parts.page(&text), vec!["body".into()]) {
                Body::Clean { bytes, places, renamed } => {
                    let text = String::from_utf8_lossy(&bytes);
                    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                    Body::Clean { bytes, places, renamed }
                }
                same => same,
            }
        }
        Err(_) if kind.kind.is_empty() => Body::Opaque("its body is no text".into()),
        Err(_) => Body::Opaque(format!("its body of the type {:?} is no text", kind.kind)),
    }
}

fn changed(before: &str, after: String, places: Vec<String>) -> Body {
    if before == after { Body::Same } else { Body::Clean { bytes: after.into_bytes(), places, renamed: Vec::new() } }
}

fn json(value: &Value, parts: &mut Parts) -> Body {
    let clean = parts.json(value);
    let (mut places, mut renamed) = (Vec::new(), Vec::new());
    differences(value, &clean, "", &mut places, &mut renamed);
    if places.is_empty() {
        return Body::Same;
    }
    let places = places.into_iter().map(|pointer| format!("body {pointer}")).collect();
    Body::Clean { bytes: clean.to_string().into_bytes(), places, renamed }
}

/// The places where two values of the same form differ, as JSON pointers with `*` for a position in a list. `renamed`
/// gets the objects whose keys differ.
fn differences(before: &Value, after: &Value, pointer: &str, found: &mut Vec<String>, renamed: &mut Vec<String>) {
    let push = |found: &mut Vec<String>| {
        if !found.iter().any(|it| it == pointer) {
            found.push(pointer.to_owned());
        }
    };
    match (before, after) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            for (key, value) in one {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                differences(value, &other[key], &format!("{pointer}/{escaped}"), found, renamed);
            }
        }
        (Value::Object(_), Value::Object(_)) => {
            push(found);
            push(renamed);
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                differences(one, other, &format!("{pointer}/*"), found, renamed);
            }
        }
        (one, other) if one != other => push(found),
        _ => {}
    }
}

/// The position of the first occurrence.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A multipart body, part by part. Each part has its own headers, and its own type.
fn multipart(bytes: &[u8], kind: &BodyType, parts: &mut Parts) -> Body {
    let opaque = |why: &str| Body::Opaque(format!("its multipart body {why}"));
    let Some(boundary) = kind.parameter("boundary").filter(|it| !it.is_empty()) else {
        return opaque("names no boundary");
    };
    let delimiter = format!("--{boundary}");
    let (mut clean, mut places, mut rest, mut count) = (Vec::new(), Vec::new(), bytes, 0);
    while let Some(at) = find(rest, delimiter.as_bytes()) {
        let part = &rest[..at];
        if count == 0 {
            clean.extend_from_slice(part);
        } else if let Err(why) = one_part(part, parts, &mut clean, &mut places) {
            return opaque(&why);
        }
        clean.extend_from_slice(delimiter.as_bytes());
        rest = &rest[at + delimiter.len()..];
        count += 1;
    }
    if count < 2 {
        return opaque("does not have its boundary");
    }
    clean.extend_from_slice(rest);
    if clean == bytes { Body::Same } else { Body::Clean { bytes: clean, places, renamed: Vec::new() } }
}

/// Appends a part without its secrets.
fn one_part(part: &[u8], parts: &mut Parts, clean: &mut Vec<u8>, places: &mut Vec<String>) -> Result<(), String> {
    let at = find(part, b"\r\n\r\n").ok_or("has a part without headers")?;
    let (head, value) = (&part[..at], &part[at + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| "has headers that are no text")?;
    // The line end before the next boundary belongs to the boundary.
    let (value, end) = value.strip_suffix(b"\r\n").map_or((value, &b""[..]), |value| (value, b"\r\n"));
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<(String, String)> = head.lines().filter_map(header).collect();
    let disposition = headers.iter().find(|(name, _)| name == "content-disposition").map_or("", |(_, value)| value);
    let name = disposition.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let new_head = parts.text(head);
    if new_head != head {
        places.push(format!("form {}", parts.text(name)));
    }
    clean.extend_from_slice(new_head.as_bytes());
    clean.extend_from_slice(b"\r\n\r\n");
    let replaced = std::str::from_utf8(value).ok().and_then(|text| parts.field(name, text));
    let kind = BodyType::of(&headers);
    match (replaced, of_body(value, &kind, parts)) {
        (Some(new), _) => {
            clean.extend_from_slice(new.as_bytes());
            places.push(format!("form {}", parts.text(name)));
        }
        (None, Body::Same) => clean.extend_from_slice(value),
        (None, Body::Clean { bytes, .. }) => {
            clean.extend_from_slice(&bytes);
            places.push(format!("form {}", parts.text(name)));
        }
        (None, Body::Opaque(why)) => return Err(format!("has a part that cannot be examined: {why}")),
    }
    clean.extend_from_slice(end);
    Ok(())
}
