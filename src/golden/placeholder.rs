//! Placeholders: what a run has in the place of a secret or of personal data. Pure.
//!
//! ```text
//! {{rei:KIND}}   {{rei:KIND:NAME}}   {{rei:KIND:NAME~N}}
//! ```
//!
//! `KIND` is a [`Kind`]. `NAME` is the name of the cookie, the field or the header, in lower case; other characters than
//! letters, digits, `.`, `_` and `-` are `-`. `N` counts from 2 and is there if a run has several values of the same
//! kind and name: equal values have equal placeholders, different values have different ones.
//!
//! In a request, a placeholder is filled before the request is sent ([`fill`](super::fill)). In a good answer, it
//! matches every value of its kind ([`Template`]), so that the rest of the answer is still compared.

use std::fmt;

use regex::Regex;
use serde_json::Value;

/// The beginning of every placeholder. A recorded message that has this text by itself is not kept: it would be filled.
pub const MARK: &str = "{{rei:";
const END: &str = "}}";

/// Maximum length of a name, in bytes. It is for a reader; longer names are cut.
const NAME_BYTES_MAX: usize = 64;

/// From so many digits on, a name of a field may itself be a number of a person.
const NAME_DIGITS_MAX: usize = 8;

/// What kind of value a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The token after `Authorization: Bearer`.
    Bearer,
    /// User and password after `Authorization: Basic`, in base64.
    Basic,
    /// The whole value of another `Authorization`.
    Authorization,
    /// The value of a cookie.
    Cookie,
    /// Another secret: the value of a field or a header, or a token that was found by its form.
    Secret,
    /// An e-mail address.
    Email,
    /// The number of a payment card.
    Card,
    /// The date at which a cookie expires. It is no secret, but it differs each time.
    Date,
    /// A body that is no text: its name is its size in bytes, `-`, and its SHA-256. Only the whole body of an answer.
    Sha256,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Bearer, "bearer"),
        (Self::Basic, "basic"),
        (Self::Authorization, "authorization"),
        (Self::Cookie, "cookie"),
        (Self::Secret, "secret"),
        (Self::Email, "email"),
        (Self::Card, "card"),
        (Self::Date, "date"),
        (Self::Sha256, "sha256"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("secret", |(_, word)| word)
    }

    /// The expression that a value of this kind matches.
    fn expression(self) -> &'static str {
        match self {
            Self::Email => r#"[^\s"'<>,;@]+(?:@|%40)[^\s"'<>,;@]+"#,
            Self::Card => "[0-9](?:[ -]?[0-9]){11,18}",
            Self::Date | Self::Cookie => "[^;]+?",
            _ => "(?s:.+?)",
        }
    }
}

/// A placeholder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placeholder {
    /// Its kind.
    pub kind: Kind,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number, counted from 1; 1 is not written.
    pub number: usize,
}

impl Placeholder {
    /// The first placeholder of this kind and name. A name that shows personal data itself is left out.
    pub fn new(kind: Kind, name: &str) -> Self {
        let hides = name.contains('@') || name.bytes().filter(u8::is_ascii_digit).count() > NAME_DIGITS_MAX;
        let word = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
        let name: String = if hides { String::new() } else { name.chars().take(NAME_BYTES_MAX).map(word).collect() };
        Self { kind, name, number: 1 }
    }

    /// The placeholder of a body that is no text.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of_digest(bytes.len() as u64, &crate::digest::sha256(bytes))
    }

    /// The placeholder of a body with this size in bytes and this SHA-256.
    pub fn of_digest(bytes: u64, sha256: &str) -> Self {
        Self { kind: Kind::Sha256, name: format!("{bytes}-{sha256}"), number: 1 }
    }

    /// The size and the SHA-256 of a body, if it is the placeholder of one that is no text.
    pub fn digest_of(body: &[u8]) -> Option<(&str, &str)> {
        let inside = std::str::from_utf8(body).ok()?.strip_prefix(MARK)?.strip_suffix(END)?;
        inside.strip_prefix("sha256:")?.split_once('-')
    }

    /// The name that an operator gives a value for it: `cookie:session`.
    pub fn key(&self) -> String {
        let name = if self.name.is_empty() { String::new() } else { format!(":{}", self.name) };
        let number = if self.number > 1 { format!("~{}", self.number) } else { String::new() };
        format!("{}{name}{number}", self.kind.word())
    }

    /// Parses [`Placeholder::key`].
    pub fn parse_key(key: &str) -> Option<Self> {
        let (rest, number) = match key.split_once('~') {
            Some((rest, number)) => (rest, number.parse().ok().filter(|number| *number > 1)?),
            None => (key, 1),
        };
        let (word, name) = rest.split_once(':').unwrap_or((rest, ""));
        let kind = Kind::ALL.iter().find(|(_, it)| *it == word)?.0;
        let max = NAME_BYTES_MAX.max("1048576-".len() + 64);
        let good = name.len() <= max && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        good.then(|| Self { kind, name: name.to_owned(), number })
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}{END}", self.key())
    }
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// It stands for itself.
    Literal(&'a str),
    /// It stands for a value.
    Placeholder(Placeholder),
}

/// The text in pieces. A mark without a valid placeholder is a literal.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let (mut found, mut rest, mut from) = (Vec::new(), text, 0);
    while let Some(at) = rest[from..].find(MARK).map(|at| from + at) {
        let inside = &rest[at + MARK.len()..];
        let end = inside.find(END);
        match end.and_then(|end| Some((end, Placeholder::parse_key(&inside[..end])?))) {
            Some((end, placeholder)) => {
                if at > 0 {
                    found.push(Piece::Literal(&rest[..at]));
                }
                found.push(Piece::Placeholder(placeholder));
                (rest, from) = (&inside[end + END.len()..], 0);
            }
            None => from = at + MARK.len(),
        }
    }
    if !rest.is_empty() {
        found.push(Piece::Literal(rest));
    }
    found
}

/// A recorded text with placeholders, as a pattern.
#[derive(Clone, Debug)]
pub struct Template {
    expression: Regex,
    placeholders: Vec<Placeholder>,
}

impl Template {
    /// The pattern of a text; `None` if it has no placeholder.
    pub fn new(text: &str) -> Option<Self> {
        if !text.contains(MARK) {
            return None;
        }
        let (mut expression, mut placeholders) = (String::from("^"), Vec::new());
        for piece in pieces(text) {
            match piece {
                Piece::Literal(literal) => expression += &regex::escape(literal),
                Piece::Placeholder(placeholder) => {
                    expression += &format!("({})", placeholder.kind.expression());
                    placeholders.push(placeholder);
                }
            }
        }
        // A text with too many placeholders for an expression is compared as it is.
        let expression = Regex::new(&(expression + "$")).ok().filter(|_| !placeholders.is_empty())?;
        Some(Self { expression, placeholders })
    }

    /// True if a text is as recorded, with any values of the right kinds.
    pub fn matches(&self, text: &str) -> bool {
        self.expression.is_match(text)
    }

    /// The values that a text has in the places of the placeholders; none if it does not match.
    pub fn values(&self, text: &str) -> Vec<(Placeholder, String)> {
        let Some(found) = self.expression.captures(text) else { return Vec::new() };
        let values = found.iter().skip(1).map(|group| group.map_or("", |group| group.as_str()).to_owned());
        self.placeholders.iter().cloned().zip(values).collect()
    }
}

/// True if a JSON value is as recorded: equal, or as the placeholders of the recorded one say.
pub(crate) fn value_matches(recorded: &Value, value: &Value) -> bool {
    match (recorded, value) {
        (Value::String(recorded), Value::String(text)) => {
            recorded == text || Template::new(recorded).is_some_and(|template| template.matches(text))
        }
        // A number that is a secret has a text in its place.
        (Value::String(recorded), Value::Number(number)) => {
            Template::new(recorded).is_some_and(|template| template.matches(&number.to_string()))
        }
        // The values of a repeated header.
        (Value::Array(recorded), Value::Array(values)) => {
            recorded.len() == values.len() && recorded.iter().zip(values).all(|(one, other)| value_matches(one, other))
        }
        _ => recorded == value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_written_and_parsed() {
        for (kind, name, text) in [
            (Kind::Bearer, "", "{{rei:bearer}}"),
            (Kind::Cookie, "SID", "{{rei:cookie:sid}}"),
            (Kind::Secret, "user[api key]", "{{rei:secret:user-api-key-}}"),
            (Kind::Secret, "ada@example.org", "{{rei:secret}}"),
            (Kind::Secret, "4111111111111111", "{{rei:secret}}"),
        ] {
            let placeholder = Placeholder::new(kind, name);
            assert_eq!(placeholder.to_string(), text);
            assert_eq!(Placeholder::parse_key(&placeholder.key()), Some(placeholder));
        }
        let second = Placeholder { number: 2, ..Placeholder::new(Kind::Email, "") };
        assert_eq!((second.to_string().as_str(), Placeholder::parse_key("email~2")), ("{{rei:email~2}}", Some(second)));
        for bad in ["", "mail", "email~1", "email~x", "cookie:a b", "cookie:é"] {
            assert_eq!(Placeholder::parse_key(bad), None, "{bad}");
        }
        let bytes = Placeholder::of_bytes(&[0; 1 << 20]);
        assert_eq!(Placeholder::parse_key(&bytes.key()), Some(bytes));
    }

    #[test]
    fn a_template_matches_values_of_its_kinds_only() {
        let matches = |template: &str, text: &str| Template::new(template).unwrap().matches(text);
        assert!(Template::new("no placeholder {{rei:nothing}} {{rei:").is_none());
        let text = "to {{rei:email}}, card {{rei:card}}.";
        assert!(matches(text, "to bob@x.test, card 4111 1111 1111 1111."));
        assert!(!matches(text, "to nobody, card 4111 1111 1111 1111."));
        assert!(!matches(text, "to bob@x.test, card 41."));
        assert!(!matches(text, "to bob@x.test, card 4111 1111 1111 1111!"));
        let cookie = "sid={{rei:cookie:sid}}; Path=/; Expires={{rei:date}}; HttpOnly";
        assert!(matches(cookie, "sid=1; Path=/; Expires=Thu, 01 Jan 2026 00:00:00 GMT; HttpOnly"));
        assert!(!matches(cookie, "sid=1; Path=/; Expires=Thu, 01 Jan 2026 00:00:00 GMT"));
        assert!(!matches(cookie, "sid=; Path=/; Expires=x; HttpOnly"));
        assert!(matches("a {{rei:secret}}{{rei:", "a b\nc{{rei:"));
    }
}
