//! Removes secrets from text and JSON: those with a known value, then text that looks like a secret.
//!
//! It works line by line, so the structure of a log stays. A line is examined closely only if it contains one of the
//! cheap marks of a rule, and the expressions are linear in the length of the line (crate `regex`), so no log can make
//! this slow. Redacting twice has the same result as redacting once. Removing too much costs a hint, removing too
//! little costs a secret: in doubt, text is removed.

use std::borrow::Cow;
use std::cell::OnceCell;

use regex::{Captures, Regex};
use serde_json::Value;

use super::secrets::{REDACTED, Secrets};
use super::shapes::{Found, FoundKind, Mask, SHAPES, is_no_card, is_secret_field};

/// Deeper JSON is removed as a whole; serde_json itself parses no deeper.
const DEPTH_MAX: usize = 128;
/// Minimum length of a secret after a key that only hints at one, in bytes …
const HINTED_LEN_MIN: usize = 16;
/// … and its minimum entropy, in bits per character: English words have less, keys and digests have more.
const HINTED_BITS_MIN: f64 = 3.0;
/// In prose, `token` is followed by a short word, as in the message of a parser. From this length on, in bytes, or with
/// a digit, the value counts as a credential.
const TOKEN_LEN_MIN: usize = 8;
/// How much of a value is examined to classify it, in bytes.
const VALUE_LOOK_MAX: usize = 256;

/// Parts of a key whose value is always a secret.
const SECRET_WORDS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "private_key",
    "private-key",
    "credential",
    "authorization",
    "cookie",
];
/// Words in a key that hint at a secret: then length and entropy decide.
const HINT_WORDS: [&str; 12] =
    ["key", "auth", "sig", "signature", "session", "sid", "cert", "salt", "pin", "otp", "bearer", "jwt"];

/// Characters that no text has (they are assigned to nothing), around the number of a mask's text.
const HELD: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// The mask of everything that rei stores, shows or gives to an agent.
fn fixed(_found: &Found<'_>) -> String {
    REDACTED.into()
}

/// Removes secrets and counts them. Make one, use it and drop it: expressions are compiled when a line first needs
/// them, and are not kept, because the supervisor must use little memory.
#[derive(Debug, Default)]
pub struct Redactor {
    shapes: [OnceCell<Option<Regex>>; SHAPES.len()],
    keys: OnceCell<Option<Regex>>,
    known: Secrets,
    personal: bool,
    count: u64,
}

impl Redactor {
    /// Makes a redactor without known secrets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a redactor with the secrets of the configuration.
    pub fn knowing(secrets: &Secrets) -> Self {
        Self { known: secrets.clone(), ..Self::default() }
    }

    /// Also finds personal data: e-mail addresses, and the numbers of payment cards. A log needs its addresses, a stored
    /// request of a user must not have them.
    #[must_use]
    pub fn and_personal(self) -> Self {
        Self { personal: true, ..self }
    }

    /// True if this field, or this header, has a secret, as far as name and value show.
    pub fn is_secret(&self, name: &str, value: &str) -> bool {
        is_secret(name, value) || (self.personal && is_secret_field(name, value))
    }

    /// Number of secrets removed so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The text without secrets. The number of lines is unchanged.
    pub fn text(&mut self, text: &str) -> String {
        self.masked(text, &mut fixed)
    }

    /// As [`Redactor::text`], with the mask's text in the place of each secret. Rules never see the mask's texts, which
    /// could look like secrets: until the end, two characters that mean nothing and a number stand for each of them.
    pub fn text_with(&mut self, text: &str, mask: &mut Mask<'_>) -> String {
        let text = if text.contains(HELD) { Cow::Owned(text.replace(HELD, "\u{fffd}")) } else { Cow::Borrowed(text) };
        let mut given = Vec::new();
        let held = self.masked(&text, &mut |found| {
            given.push(mask(found));
            format!("{}{}{}", HELD[0], given.len() - 1, HELD[1])
        });
        let mut out = String::with_capacity(held.len());
        for (index, part) in held.split(HELD[0]).enumerate() {
            match part.split_once(HELD[1]).filter(|_| index > 0) {
                Some((number, rest)) => {
                    let mask = number.parse().ok().and_then(|number: usize| given.get(number));
                    out.extend([mask.map_or(REDACTED, String::as_str), rest]);
                }
                None => out.push_str(part),
            }
        }
        out
    }

    fn masked(&mut self, text: &str, mask: &mut Mask<'_>) -> String {
        let (known, count) = self
            .known
            .replaced(text, &mut |place, value| mask(&Found { kind: FoundKind::Secret, key: Some(place), value }));
        self.count += count;
        let text = known.as_str();
        let mut out = String::with_capacity(text.len());
        let mut inside_key = cut_key(text);
        for line in text.split_inclusive('\n') {
            let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
            let begins = body.contains("-----BEGIN ") && body.contains("PRIVATE KEY");
            let ends = body.contains("-----END ") && body.contains("PRIVATE KEY");
            if inside_key && !begins && (ends || key_material(body)) {
                // A line inside a private key. Either end of the key may be missing from the text.
                self.count += u64::from(ends);
                out.push_str(&mask(&Found { kind: FoundKind::Secret, key: Some("private_key"), value: body }));
                inside_key = !ends;
            } else {
                inside_key = begins && !ends;
                out.push_str(&self.line(body, mask));
            }
            out.push_str(end);
        }
        out
    }

    /// Bytes without secrets. If there are none, the bytes are unchanged, even if they are no text.
    pub fn bytes(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let mut bytes = bytes;
        self.count += self.known.remove_from(&mut bytes);
        let known = self.count;
        let text = self.text(&String::from_utf8_lossy(&bytes));
        if self.count > known { text.into_bytes() } else { bytes }
    }

    /// The value without secrets: strings are handled as text, and values of secret keys are removed.
    pub fn value(&mut self, value: &Value) -> Value {
        self.walk(value, None, 0, &mut fixed, |redactor, text, _| redactor.text(text))
    }

    /// As [`Redactor::value`], with the mask's text in the place of each secret.
    pub fn value_with(&mut self, value: &Value, mask: &mut Mask<'_>) -> Value {
        self.walk(value, None, 0, mask, |redactor, text, mask| redactor.text_with(text, mask))
    }

    fn walk(
        &mut self,
        value: &Value,
        key: Option<&str>,
        depth: usize,
        mask: &mut Mask<'_>,
        text_of: fn(&mut Self, &str, &mut Mask<'_>) -> String,
    ) -> Value {
        if depth > DEPTH_MAX {
            return self.taken(FoundKind::Secret, key, "", mask);
        }
        let personal = self.personal;
        let secret = |text: &str| key.is_some_and(|key| is_secret(key, text) || personal && is_secret_field(key, text));
        match value {
            Value::String(text) if secret(text) => self.taken(FoundKind::Secret, key, text, mask),
            Value::String(text) => Value::String(text_of(self, text, mask)),
            Value::Number(number) if secret(&number.to_string()) => {
                self.taken(FoundKind::Secret, key, &number.to_string(), mask)
            }
            Value::Number(number) if self.personal && number.is_u64() && !is_no_card(&number.to_string()) => {
                self.taken(FoundKind::Card, key, &number.to_string(), mask)
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.walk(item, key, depth + 1, mask, text_of)).collect())
            }
            Value::Object(map) => {
                // A secret key also applies to everything below it: `{"password": {"value": "x"}}`.
                let inherited = key.filter(|key| is_secret_key(&key.to_ascii_lowercase()));
                let mut clean = serde_json::Map::new();
                for (name, item) in map {
                    let item = self.walk(item, inherited.or(Some(name)), depth + 1, mask, text_of);
                    clean.insert(text_of(self, name, mask), item);
                }
                Value::Object(clean)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn taken(&mut self, kind: FoundKind, key: Option<&str>, value: &str, mask: &mut Mask<'_>) -> Value {
        self.count += 1;
        Value::String(mask(&Found { kind, key, value }))
    }

    fn line(&mut self, line: &str, mask: &mut Mask<'_>) -> String {
        let lower = line.to_ascii_lowercase();
        let has = |mark: &&str| lower.contains(*mark);
        // Keys first: then a quoted value is removed as a whole, before a shape inside it could break its quotes.
        let keyed = SECRET_WORDS.iter().chain(&HINT_WORDS).any(has) || lower.contains("token");
        let mut line = if keyed { self.keyed(line, mask) } else { Cow::Borrowed(line) };
        for (shape, compiled) in SHAPES.iter().zip(&self.shapes) {
            if !shape.marks.iter().any(has) || (shape.kind != FoundKind::Secret && !self.personal) {
                continue;
            }
            // The expressions are constants, and the test `every_expression_compiles` compiles each one.
            let Some(expression) = compiled.get_or_init(|| Regex::new(shape.expression).ok()) else { continue };
            let mut hits = 0;
            let replaced = expression.replace_all(&line, |found: &Captures<'_>| {
                let group = |i| found.get(i).map_or("", |group| group.as_str());
                // A form without groups is a secret as a whole.
                let value = found.get(2).map_or(&found[0], |group| group.as_str());
                if (shape.spares)(value) || value == REDACTED {
                    return found[0].to_owned();
                }
                hits += 1;
                format!("{}{}{}", group(1), mask(&Found { kind: shape.kind, key: None, value }), group(3))
            });
            if hits > 0 {
                line = Cow::Owned(replaced.into_owned());
                self.count += hits;
            }
        }
        line.into_owned()
    }

    /// Handles `key=value`, `key: value`, `"key": "value"`, `key => value`, `--key value`, `<key>value<`, and header
    /// lines.
    ///
    /// The expression finds only the keys. The value is parsed by hand, so that the search continues inside a value
    /// that stays: in `failed key: password=x` the value of `key` contains a key.
    fn keyed<'a>(&mut self, line: &'a str, mask: &mut Mask<'_>) -> Cow<'a, str> {
        let Some(keys) = self.keys.get_or_init(|| Regex::new(&key_expression()).ok()) else { return line.into() };
        let (mut out, mut copied, mut from) = (String::new(), 0, 0);
        while let Some(found) = keys.captures_at(line, from) {
            let (Some(all), Some(key)) = (found.get(0), (1..=3).find_map(|i| found.get(i))) else { break };
            from = all.end();
            let before = line[..key.start()].chars().next_back();
            // Only the beginning of a value is examined, so that many keys whose values stay do not each read the rest
            // of the line.
            let look = &line[..line.floor_char_boundary(all.end() + VALUE_LOOK_MAX)];
            let (start, end) = value_span(look, all.end(), key.as_str(), before);
            let value = &look[start..end];
            let option = found.get(1).is_some() && value.starts_with('-');
            if option || value.is_empty() || !is_secret(key.as_str(), value) {
                continue;
            }
            let (_, end) = value_span(line, all.end(), key.as_str(), before);
            out.push_str(&line[copied..start]);
            let (key, value) = (Some(key.as_str()), &line[start..end]);
            out.push_str(&mask(&Found { kind: FoundKind::Secret, key, value }));
            self.count += 1;
            (copied, from) = (end, end);
        }
        if copied == 0 {
            return line.into();
        }
        (out + &line[copied..]).into()
    }
}

/// An expression that finds a key that may belong to a secret, up to its value. Groups 1, 2 and 3 are the key in its
/// three forms.
fn key_expression() -> String {
    let words: Vec<&str> = SECRET_WORDS.iter().chain(&HINT_WORDS).copied().chain(["token"]).collect();
    let key = format!("[A-Za-z0-9_.-]*(?i-u:{})[A-Za-z0-9_.-]*", words.join("|"));
    format!(r#"--?({key})[ \t]+|<({key})>|({key})\\*["']?\s*(?:=>|:=|[:=])\s*"#)
}

/// The range of the value that begins at `start`, without its quotes. `before` is the character in front of the key.
fn value_span(line: &str, start: usize, key: &str, before: Option<char>) -> (usize, usize) {
    let rest = &line[start..];
    // `\"value\"` inside a quoted text ends at the next quote with as many backslashes.
    let slashes = rest.len() - rest.trim_start_matches('\\').len();
    if let Some(quote) = rest[slashes..].chars().next().filter(|c| ['"', '\''].contains(c)) {
        let from = start + slashes + 1;
        let closing = format!("{}{quote}", &rest[..slashes]);
        return (from, closing_at(&line[from..], &closing, slashes == 0).map_or(line.len(), |at| from + at));
    }
    let lower = key.to_ascii_lowercase();
    if lower.ends_with("authorization") || lower.ends_with("cookie") || lower.ends_with("cookie2") {
        // The value of a header is the rest of the line, or of the quotes around the header.
        let quote = before.filter(|c| ['"', '\''].contains(c));
        return (start, quote.and_then(|quote| rest.find(quote)).map_or(line.len(), |at| start + at));
    }
    let ends = |c: char| c.is_whitespace() || r#",;&"'<>(){}[]\"#.contains(c);
    (start, rest.find(ends).map_or(line.len(), |at| start + at))
}

/// The position of the closing quote `closing`. With `escapes`, a quote after a backslash does not close.
fn closing_at(text: &str, closing: &str, escapes: bool) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(closing)?;
        let slashes = at - text[..at].trim_end_matches('\\').len();
        if !escapes || slashes.is_multiple_of(2) {
            return Some(at);
        }
        from = at + closing.len();
    }
}

/// True if the value of this key is a credential, as far as the two show.
pub fn is_credential(key: &str, value: &str) -> bool {
    is_secret(key, value)
}

/// True if the value of this key must be removed.
fn is_secret(key: &str, value: &str) -> bool {
    if value == REDACTED || ["null", "none", "true", "false"].contains(&value) {
        return false;
    }
    let lower = key.to_ascii_lowercase();
    if is_secret_key(&lower) {
        return true;
    }
    if value.contains(REDACTED) {
        // The rest of it was examined before.
        return false;
    }
    let start = &value.as_bytes()[..value.len().min(VALUE_LOOK_MAX)];
    if lower.contains("token") {
        // `max_tokens: 4096` is a count.
        let count = start.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
        return !count && (value.len() >= TOKEN_LEN_MIN || start.iter().any(u8::is_ascii_digit));
    }
    let hinted = words(key).iter().any(|word| HINT_WORDS.contains(&word.as_str()));
    hinted && value.len() >= HINTED_LEN_MIN && entropy_bits(start) >= HINTED_BITS_MIN
}

/// True if the value of this key (in lower case) is always a secret.
fn is_secret_key(key: &str) -> bool {
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// The words in `sessionKey`, `session_key`, `session-key` and `session.key`, in lower case.
fn words(key: &str) -> Vec<String> {
    let mut split = String::new();
    let mut lower_before = false;
    for c in key.chars() {
        if c.is_ascii_uppercase() && lower_before {
            split.push('_');
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        split.push(c.to_ascii_lowercase());
    }
    split.split(['_', '-', '.']).map(str::to_owned).collect()
}

/// Shannon entropy per byte, in bits.
fn entropy_bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let part = |count: &u32| f64::from(*count) / bytes.len() as f64;
    counts.iter().filter(|count| **count > 0).map(part).map(|p| -p * p.log2()).sum()
}

/// True if the text begins inside a private key whose first line is missing.
fn cut_key(text: &str) -> bool {
    let end = |line: &str| line.contains("-----END ") && line.contains("PRIVATE KEY");
    text.lines().find(|line| !key_material(line)).is_some_and(end)
}

/// True if the line may belong to the body of a private key: base64, a header of an encrypted key, or an empty line.
fn key_material(line: &str) -> bool {
    let line = line.trim();
    line == REDACTED
        || line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        || ["Proc-Type:", "DEK-Info:", "Version:", "Comment:"].iter().any(|header| line.starts_with(header))
}

/// Text without terminal escapes (CSI, OSC and the short ones). A colour inside a word would hide it from every rule.
pub fn strip_ansi(text: &str) -> Cow<'_, str> {
    if !text.contains('\x1b') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            out.push(c);
        } else if chars.next_if_eq(&'[').is_some() {
            // Parameters and intermediate bytes, then one final byte; the end of a line is never part of it.
            while chars.next_if(|c| ('\x20'..='\x3f').contains(c)).is_some() {}
            chars.next_if(|c| ('\x40'..='\x7e').contains(c));
        } else if chars.next_if_eq(&']').is_some() {
            while chars.next_if(|c| !['\x07', '\x1b', '\n'].contains(c)).is_some() {}
            chars.next_if_eq(&'\x07');
        } else {
            chars.next_if(|c| ('\x40'..='\x5f').contains(c));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redacted(text: &str) -> (String, u64) {
        let mut redactor = Redactor::new();
        (redactor.text(text), redactor.count())
    }

    #[test]
    fn every_expression_compiles() {
        Regex::new(&key_expression()).unwrap();
        for shape in &SHAPES {
            Regex::new(shape.expression).unwrap();
        }
    }

    #[test]
    fn secrets_are_removed_and_the_rest_stays() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        for (text, expected) in [
            ("DB_PASSWORD=hunter2 port=5432", "DB_PASSWORD=[redacted] port=5432"),
            (r#"{"user":"ada","api_key":"abc","n":1}"#, r#"{"user":"ada","api_key":"[redacted]","n":1}"#),
            (r#"msg="{\"password\": \"x y\"}""#, r#"msg="{\"password\": \"[redacted]\"}""#),
            ("client_secret: 's3cr3t, with comma'", "client_secret: '[redacted]'"),
            ("GET /?access_token=abc123&page=2", "GET /?access_token=[redacted]&page=2"),
            ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
            ("curl -H 'Authorization: Digest user=\"x\"' -v", "curl -H 'Authorization: [redacted]' -v"),
            ("login failed: password=hunter2", "login failed: password=[redacted]"),
            ("<password>hunter2</password>", "<password>[redacted]</password>"),
            ("sent bearer AbCdEf123456 to peer", "sent bearer [redacted] to peer"),
            ("Set-Cookie: sid=abc; Path=/", "Set-Cookie: [redacted]"),
            ("postgres://ada:p@ss/word@db:5432/x", "postgres://ada:[redacted]@db:5432/x"),
            ("login --password hunter2 --port 80", "login --password [redacted] --port 80"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key [redacted] used"),
            ("x ghp_abcdefghijklmnopqrstuvwxyz0123456789 y", "x [redacted] y"),
            ("xoxb-123456789012-abcdefghij", "[redacted]"),
            ("sk-proj-abcdefghijklmnopqrstuvwx and sk-ant-api03-abcdefghijklmnop", "[redacted] and [redacted]"),
            ("session_key = 9f86d081884c7d659a2feaa0c55ad015", "session_key = [redacted]"),
        ] {
            let (out, count) = redacted(text);
            assert_eq!(out, expected, "{text}");
            assert!(count >= 1);
        }
        assert_eq!(redacted(&format!("token {jwt} end")).0, "token [redacted] end");
    }

    #[test]
    fn text_without_secrets_stays() {
        for text in [
            "max_tokens: 4096, prompt_tokens=17",
            "unexpected token: ')'",
            "password=null secret: false",
            "author: Ada Lovelace the first of all",
            "key: order",
            "basic authentication failed",
            "panicked at src/main.rs:10:5",
            "https://example.org:8080/a?b=c",
            "store path /nix/store/0c0zv5n6k5gdnkgc8v0nz6gk2xvyl2l1-greeter",
            "monkey=banana keyboard: qwertyuiopasdfghjk",
            "task-force sk-1",
        ] {
            assert_eq!(redacted(text), (text.to_owned(), 0));
        }
    }

    #[test]
    fn whole_and_truncated_private_keys_are_removed_and_the_lines_stay() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow\nIBAAKC/+==\n-----END RSA PRIVATE KEY-----\n";
        let text = format!("before\n{key}after\n");
        let (out, count) = redacted(&text);
        assert_eq!(out.lines().count(), text.lines().count());
        assert!(!out.contains("MIIE") && !out.contains("IBAAKC") && out.contains("before") && out.contains("after"));
        assert!(count >= 1);
        let head_cut = &key[key.find("IBAAKC").unwrap()..];
        assert!(!redacted(head_cut).0.contains("IBAAKC"), "{}", redacted(head_cut).0);
        let tail_cut = &key[..key.find("-----END").unwrap()];
        assert!(!redacted(tail_cut).0.contains("MIIE"));
        let (one_line, _) = redacted(r#"{"k":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"}"#);
        assert!(!one_line.contains("MIIE"));
    }

    #[test]
    fn nested_json_is_redacted() {
        let value = json!({
            "user": "ada", "password": {"value": "x", "n": 7}, "pins": [1, 2],
            "headers": {"Authorization": "Bearer abcdefgh1", "cookie": "a=b"},
            "env": ["API_KEY=abc", "HOME=/root"], "max_tokens": 4096, "ok": true,
        });
        let mut redactor = Redactor::new();
        let clean = redactor.value(&value);
        assert_eq!(clean["password"], json!({"value": REDACTED, "n": REDACTED}));
        assert_eq!(clean["env"], json!([format!("API_KEY={REDACTED}"), "HOME=/root"]));
        assert_eq!(
            (&clean["user"], &clean["max_tokens"], &clean["pins"]),
            (&json!("ada"), &json!(4096), &json!([1, 2]))
        );
        assert_eq!(clean["headers"]["cookie"], json!(REDACTED));
        assert!(!clean.to_string().contains("abcdefgh1"));
        let mut deep = json!("x");
        for _ in 0..1_000 {
            deep = json!([deep]);
        }
        assert!(redactor.value(&deep).to_string().contains(REDACTED));
    }

    #[test]
    fn escapes_do_not_hide_a_secret() {
        let text = strip_ansi("\x1b[1mpass\x1b[0mword=hunter2 \x1b]0;title\x07x\x1b");
        assert_eq!(redacted(&text).0, "password=[redacted] x");
    }

    #[test]
    fn a_hostile_line_does_not_take_long() {
        // There is no check of the time: an expression that backtracks would practically never end.
        let patterns = [
            "password=",
            "key=",
            "key:\"a\\",
            "key: '",
            "\"a\\",
            "://a:",
            "eyJ.",
            "--key ",
            "authorization:",
            "sk-a-",
            "a@a.",
            "4 ",
        ];
        for pattern in patterns {
            let text = pattern.repeat(100_000 / pattern.len());
            assert!(!redacted(&text).0.is_empty());
            assert!(!Redactor::new().and_personal().text_with(&text, &mut |_| "x".into()).is_empty());
        }
    }

    proptest! {
        #[test]
        fn redacting_twice_is_like_once_and_lines_stay(text in "([a-zA-Z0-9 =:\"'&,;/@\\n\\\\-]{0,12}(password|token|key|Cookie|Bearer|://u:|sk-|--pwd )?){0,12}") {
            let (once, _) = redacted(&text);
            let (twice, count) = redacted(&once);
            prop_assert_eq!((&twice, count), (&once, 0));
            prop_assert_eq!(once.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn a_password_never_stays(secret in "[A-Za-z0-9!#%^*_+-]{6,40}", form in 0..6_usize) {
            let text = match form {
                0 => format!("password={secret}"),
                1 => format!("x {{\"password\": \"{secret}\"}}"),
                2 => format!("Authorization: Basic {secret}"),
                3 => format!("https://ada:{secret}@host/"),
                4 => format!("--db-password {secret}"),
                _ => format!("Cookie: a={secret}"),
            };
            prop_assume!(!["null", "none", "true", "false"].contains(&secret.as_str()) && !REDACTED.contains(&secret));
            // A word that begins with a dash is the next option, not a value.
            prop_assume!(form != 4 || !secret.starts_with('-'));
            prop_assert!(!redacted(&text).0.contains(&secret), "{}", redacted(&text).0);
        }
    }
}
