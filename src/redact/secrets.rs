//! Secrets with a known value: those of the configuration.
//!
//! A program that has a key can print it in plain form, or in base64, a URL, JSON or hexadecimal digits. One automaton
//! searches for all these forms at once, in bytes. An encoding that the program invents (reversed, encrypted, one
//! character per line) is not found: against such an agent only its sandbox helps.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use regex::bytes::Regex;

/// The replacement of a secret.
pub const REDACTED: &str = "[redacted]";
/// Minimum length of a secret, in bytes. A shorter value is a common word (`1`, `debug`).
pub const VALUE_BYTES_MIN: usize = 6;
/// Maximum length of a piece, in bytes. A longer value is searched for in pieces.
const PIECE_BYTES_MAX: usize = 128;
/// Maximum number of pieces. A key has one, a certificate some ten. If a configuration has more, only the first ones
/// are searched for.
const PIECES_MAX: usize = 128;
/// Maximum size of the automaton, in bytes. It contains all forms of all pieces many times over.
const AUTOMATON_BYTES_MAX: usize = 64 << 20;
/// Minimum length of an encoded form, in characters. Shorter ones occur in any text.
const FORM_CHARS_MIN: usize = 8;

/// A secret, and its key in the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its key: `agents.fixer.env.API_KEY`.
    pub place: String,
    /// Its value.
    pub value: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.place)
    }
}

/// The secrets of a configuration, prepared for a search. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Option<Arc<Known>>);

struct Known {
    forms: Regex,
    secrets: Vec<Secret>,
    longest: usize,
}

impl Known {
    /// The configuration key of the secret that has this form.
    fn place_of(&self, found: &[u8]) -> &str {
        let of = |secret: &&Secret| forms(&secret.value).iter().any(|form| form.as_bytes() == found);
        self.secrets.iter().find(of).map_or("rei.toml", |secret| &secret.place)
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.secrets).finish()
    }
}

impl Secrets {
    /// Takes those of the values that are long enough.
    pub fn new(secrets: Vec<Secret>) -> Self {
        let mut known: Vec<Secret> = Vec::new();
        for Secret { place, value } in secrets {
            let mut rest = value.trim();
            while rest.len() >= VALUE_BYTES_MIN && known.len() < PIECES_MAX {
                // A rest that would be too short for a separate piece is added to the piece before it.
                let all = rest.len() < PIECE_BYTES_MAX + VALUE_BYTES_MIN;
                let at = if all { rest.len() } else { rest.floor_char_boundary(PIECE_BYTES_MAX) };
                let piece = Secret { place: place.clone(), value: rest[..at].to_owned() };
                rest = &rest[at..];
                if !known.iter().any(|it| it.value == piece.value) {
                    known.push(piece);
                }
            }
        }
        // Longest first: if a secret contains another one, it is removed as a whole.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.value.len()));
        let mut all: Vec<String> = known.iter().flat_map(|secret| forms(&secret.value)).collect();
        all.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        all.dedup();
        let Some(longest) = all.first().map(String::len) else { return Self::default() };
        let expression: Vec<String> = all.iter().map(|form| regex::escape(form)).collect();
        let built = regex::bytes::RegexBuilder::new(&expression.join("|")).size_limit(AUTOMATON_BYTES_MAX).build();
        // So few and short literals always fit into the size limit.
        Self(built.ok().map(|forms| Arc::new(Known { forms, secrets: known, longest })))
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Length of the longest form, in bytes. A text that is truncated must keep at least this much, or a part of a
    /// secret could stay.
    pub fn longest(&self) -> usize {
        self.0.as_ref().map_or(0, |known| known.longest)
    }

    /// The configuration key of the first secret in these bytes; `None` if there is none.
    pub fn find(&self, bytes: &[u8]) -> Option<&str> {
        let known = self.0.as_ref()?;
        Some(known.place_of(known.forms.find(bytes)?.as_bytes()))
    }

    /// Removes the secrets in place. Returns how many were removed.
    pub fn remove_from(&self, bytes: &mut Vec<u8>) -> u64 {
        let Some(known) = &self.0 else { return 0 };
        if !known.forms.is_match(bytes) {
            return 0;
        }
        let count = known.forms.find_iter(bytes).count() as u64;
        *bytes = known.forms.replace_all(bytes, REDACTED.as_bytes()).into_owned();
        count
    }

    /// The text without the secrets, and how many were removed.
    pub fn without(&self, text: &str) -> (String, u64) {
        self.replaced(text, &mut |_, _| REDACTED.into())
    }

    /// The text with `with(place, form)` in the place of each secret, and how many were replaced.
    pub(super) fn replaced(&self, text: &str, with: &mut dyn FnMut(&str, &str) -> String) -> (String, u64) {
        let Some(known) = self.0.as_ref().filter(|known| known.forms.is_match(text.as_bytes())) else {
            return (text.to_owned(), 0);
        };
        let mut count = 0;
        let bytes = known.forms.replace_all(text.as_bytes(), |found: &regex::bytes::Captures<'_>| {
            count += 1;
            with(known.place_of(&found[0]), &String::from_utf8_lossy(&found[0])).into_bytes()
        });
        // Forms consist of whole characters, so the rest is valid text.
        (String::from_utf8_lossy(&bytes).into_owned(), count)
    }
}

/// The forms in which a value can occur in a text.
fn forms(value: &str) -> Vec<String> {
    let mut forms = vec![value.to_owned()];
    let mut encoded = |form: String| {
        if form.len() >= FORM_CHARS_MIN {
            forms.push(form);
        }
    };
    for engine in [STANDARD, URL_SAFE] {
        // In a longer text a value can begin at three places of a base64 group.
        for before in 0..3 {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(value.as_bytes());
            let code = engine.encode(&bytes);
            // The characters that contain bits of neighbouring bytes differ with them, so they are left out.
            let start = [0, 2, 3][before];
            let end = bytes.len() * 8 / 6;
            encoded(code.get(start..end).unwrap_or_default().to_owned());
        }
    }
    let upper = percent(value, false);
    encoded(upper.to_owned());
    encoded(lower_escapes(&upper));
    encoded(percent(value, true));
    let json = serde_json::Value::String(value.to_owned()).to_string();
    let json = json[1..json.len() - 1].to_owned();
    encoded(json.replace('/', "\\/"));
    encoded(json);
    let hex = crate::digest::hex(value);
    encoded(hex.to_uppercase());
    encoded(hex);
    forms
}

/// Percent-encodes as in a URL; with `form`, a space becomes a plus.
fn percent(value: &str, form: bool) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            b'~' if !form => out.push('~'),
            b' ' if form => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Converts `%2F` to `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut escape = 0;
    for c in text.chars() {
        escape = if c == '%' { 3_u8 } else { escape };
        out.push(if escape > 0 { c.to_ascii_lowercase() } else { c });
        escape = escape.saturating_sub(1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(values: &[&str]) -> Secrets {
        let secret = |value: &&str| Secret { place: format!("env.{value}"), value: (*value).to_owned() };
        Secrets::new(values.iter().map(secret).collect())
    }

    #[test]
    fn every_encoding_of_a_secret_is_found() {
        let value = "p/ss w\u{f6}rd+\"x\"=42";
        let secrets = secrets(&[value]);
        for text in [
            format!("API_KEY={value}\n"),
            STANDARD.encode(format!("user:{value}")),
            STANDARD.encode(format!("a:{value}:b")),
            URL_SAFE.encode(format!("ab:{value}")),
            serde_json::json!({ "key": value }).to_string(),
            "GET /?k=p%2Fss%20w%C3%B6rd%2B%22x%22%3D42".to_owned(),
            "GET /?k=p%2fss%20w%c3%b6rd%2b%22x%22%3d42".to_owned(),
            "k=p%2Fss+w%C3%B6rd%2B%22x%22%3D42&z=1".to_owned(),
            crate::digest::hex(value),
        ] {
            assert!(secrets.find(text.as_bytes()).is_some(), "{text}");
            let (clean, count) = secrets.without(&text);
            assert!(count == 1 && clean.contains(REDACTED), "{clean}");
            assert_eq!(secrets.without(&clean), (clean.clone(), 0));
        }
    }

    #[test]
    fn a_word_is_no_secret_and_the_longer_secret_is_removed_as_a_whole() {
        let known = secrets(&["1", "debug", "hunter2222", "hunter2222-and-more", ""]);
        assert_eq!(known.without("1 debug hunter2222-and-more hunter2222").0, "1 debug [redacted] [redacted]");
        assert_eq!(known.find(b"x hunter2222 y"), Some("env.hunter2222"));
        assert!(secrets(&["1"]).is_empty() && secrets(&["1"]).find(b"1").is_none());
        assert!(!format!("{known:?}").contains("more\""), "a secret's value is not printed: {known:?}");
    }

    #[test]
    fn long_values_are_removed_as_a_whole_and_many_are_searched_for() {
        let long: String = (0..300).map(|n| format!("{n:03}\u{e9}")).collect();
        assert_eq!(secrets(&[&long]).without(&format!("<{long}>")).0.replace(REDACTED, ""), "<>");
        let values: Vec<String> = (0..PIECES_MAX).map(|n| format!("{n:03}-").repeat(PIECE_BYTES_MAX / 4)).collect();
        let known = secrets(&values.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(values.iter().all(|value| known.find(value.as_bytes()).is_some()));
    }

    proptest! {
        #[test]
        fn base64_hides_nothing(value in "[!-~]{12,40}", before in "[ -~]{0,7}", after in "[ -~]{0,7}") {
            let known = secrets(&[&value]);
            let code = STANDARD.encode(format!("{before}{value}{after}"));
            prop_assert!(known.find(code.as_bytes()).is_some(), "{}", code);
        }
    }
}
