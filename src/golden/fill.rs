//! Fills the placeholders of a request before it is sent.
//!
//! A value comes from the operator, or from an earlier answer of the same replay: if the run has the login, its answer
//! gives the session and the tokens that the later requests need. Without both, an e-mail address and the number of a
//! card have stand-ins that are valid and of no person, and another placeholder is sent as it is, so that the service's
//! own log shows what is missing.
//!
//! The judge replays runs in Nix's sandbox. Everything that a build gets is readable in the store, so the judge never has
//! values of the operator; it has the other two kinds.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::format::Expected;
use super::placeholder::{Kind, MARK, Piece, Placeholder, Template, pieces};
use super::url::{form_encode, segment_encode};
use crate::http::{Request, Response};

/// Maximum number of values that answers give, for memory.
const LEARNED_MAX: usize = 1_000;

/// Maximum length of such a value, in bytes: half of what common servers accept as all headers of a request.
const LEARNED_BYTES_MAX: usize = 4 << 10;

/// Stands in for the number of a card: issuers and shops use it in tests. It is valid and belongs to no account.
const CARD: &str = "4111111111111111";

/// Why a file of values cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct ValuesError {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// What is wrong. It does not quote the value.
    pub reason: String,
}

/// The values of placeholders in one replay.
#[derive(Clone, Default)]
pub struct Values {
    given: BTreeMap<Placeholder, String>,
    learned: BTreeMap<Placeholder, String>,
}

/// Only the names: the values are secrets.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys().chain(self.learned.keys()).map(Placeholder::key)).finish()
    }
}

impl Values {
    /// Parses the operator's values: one `KIND:NAME=VALUE` on each line, as `cookie:session=1a2b`. Empty lines and lines
    /// that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, ValuesError> {
        let mut given = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |reason: &str| ValuesError { line: index + 1, reason: reason.into() };
            let (key, value) = line.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
            let placeholder = Placeholder::parse_key(key.trim());
            let placeholder = placeholder.ok_or_else(|| wrong("what is before the `=` is no placeholder"))?;
            given.insert(placeholder, value.trim().to_owned());
        }
        Ok(Self { given, learned: BTreeMap::new() })
    }

    fn value(&self, placeholder: &Placeholder) -> String {
        let known = self.given.get(placeholder).or_else(|| self.learned.get(placeholder));
        known.cloned().unwrap_or_else(|| match placeholder.kind {
            Kind::Email => format!("rei-{}@example.org", placeholder.number),
            Kind::Card => CARD.into(),
            _ => placeholder.to_string(),
        })
    }

    /// A text with values; `encode` makes a value fit into the text.
    fn text(&self, text: &str, encode: impl Fn(&str) -> String) -> String {
        let piece = |piece| match piece {
            Piece::Literal(literal) => literal.to_owned(),
            Piece::Placeholder(placeholder) => {
                let value = self.value(&placeholder);
                // A placeholder without a value stays readable.
                if value.starts_with(MARK) { value } else { encode(&value) }
            }
        };
        pieces(text).into_iter().map(piece).collect()
    }

    fn json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text, str::to_owned)),
            Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Object(map) => {
                let member = |(key, item): (&String, &Value)| (self.text(key, str::to_owned), self.json(item));
                Value::Object(map.iter().map(member).collect())
            }
            other => other.clone(),
        }
    }

    /// The request with values in the places of its placeholders.
    pub fn fill(&self, request: &Request) -> Request {
        let (at, query) =
            request.path.split_once('?').map_or((request.path.as_str(), None), |(at, query)| (at, Some(query)));
        let mut path = self.text(at, segment_encode);
        if let Some(query) = query {
            path = format!("{path}?{}", self.text(query, form_encode));
        }
        // A line end in a value would begin another header.
        let line = |value: &str| value.replace(['\r', '\n'], " ");
        let headers = request.headers.iter().map(|(name, value)| (name.clone(), self.text(value, line))).collect();
        Request { method: request.method.clone(), path, headers, body: self.body(request) }
    }

    /// A message with values in the places of its placeholders.
    pub(super) fn fill_text(&self, text: &str) -> String {
        match serde_json::from_str::<Value>(text) {
            Ok(value) if text.contains(MARK) => self.json(&value).to_string(),
            _ => self.text(text, str::to_owned),
        }
    }

    fn body(&self, request: &Request) -> Vec<u8> {
        let Some(text) = std::str::from_utf8(&request.body).ok().filter(|text| text.contains(MARK)) else {
            return request.body.clone();
        };
        if serde_json::from_str::<Value>(text).is_ok() {
            return self.fill_text(text).into_bytes();
        }
        let is_form = request.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type") && value.to_ascii_lowercase().contains("x-www-form-urlencoded")
        });
        if is_form { self.text(text, form_encode) } else { self.text(text, str::to_owned) }.into_bytes()
    }

    /// Takes the values that an answer gives for the placeholders of the recorded one.
    pub fn learn(&mut self, recorded: &Expected, response: &Response) {
        for name in names(recorded) {
            let of = |headers: &[(String, String)]| -> Vec<String> {
                headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone()).collect()
            };
            // Cookies can come in another order, so each recorded value is compared with each answered one.
            for want in &of(&recorded.headers) {
                of(&response.headers).iter().for_each(|is| self.learn_text(want, is));
            }
        }
        let Some(body) = recorded.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()) else { return };
        let Some(given) = std::str::from_utf8(&response.body).ok().filter(|_| body.contains(MARK)) else { return };
        match (serde_json::from_str::<Value>(body), serde_json::from_str::<Value>(given)) {
            (Ok(want), Ok(is)) => self.learn_json(&want, &is),
            _ => body.lines().zip(given.lines()).for_each(|(want, is)| self.learn_text(want, is)),
        }
    }

    fn learn_text(&mut self, recorded: &str, text: &str) {
        let Some(template) = Template::new(recorded) else { return };
        for (placeholder, value) in template.values(text) {
            let is_credential = !matches!(placeholder.kind, Kind::Email | Kind::Card | Kind::Date | Kind::Sha256);
            if is_credential
                && value.len() <= LEARNED_BYTES_MAX
                && (self.learned.len() < LEARNED_MAX || self.learned.contains_key(&placeholder))
            {
                self.learned.insert(placeholder, value);
            }
        }
    }

    /// Takes the values that a message gives for the placeholders of the recorded one.
    pub(super) fn learn_value(&mut self, recorded: &Value, value: &Value) {
        self.learn_json(recorded, value);
    }

    fn learn_json(&mut self, recorded: &Value, value: &Value) {
        match (recorded, value) {
            (Value::String(want), Value::String(is)) => self.learn_text(want, is),
            (Value::String(want), Value::Number(is)) => self.learn_text(want, &is.to_string()),
            (Value::Array(want), Value::Array(is)) => {
                want.iter().zip(is).for_each(|(want, is)| self.learn_json(want, is));
            }
            (Value::Object(want), Value::Object(is)) => {
                for (key, want) in want {
                    if let Some(is) = is.get(key) {
                        self.learn_json(want, is);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The names of the headers that have placeholders, each once.
fn names(recorded: &Expected) -> Vec<&String> {
    let mut names: Vec<&String> =
        recorded.headers.iter().filter(|(_, value)| value.contains(MARK)).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn values_fit_into_their_places() {
        let values = Values::parse("# mine\nsecret:token=a&b \"c\"\nbearer=t0ken\n\ncookie:sid=1; a\n").unwrap();
        let request = |body: &str, kind: &str| Request {
            method: "POST".into(),
            path: "/{{rei:secret:token}}?q={{rei:secret:token}}&mail={{rei:email~2}}&n={{rei:secret:other}}".into(),
            headers: vec![header("authorization", "Bearer {{rei:bearer}}"), header("content-type", kind)],
            body: body.as_bytes().to_vec(),
        };
        let json = values.fill(&request(r#"{"t":"{{rei:secret:token}}","c":"{{rei:card}}"}"#, "application/json"));
        assert_eq!(json.path, "/a%26b%20%22c%22?q=a%26b+%22c%22&mail=rei-2%40example.org&n={{rei:secret:other}}");
        assert_eq!(json.headers[0].1, "Bearer t0ken");
        assert_eq!(String::from_utf8(json.body).unwrap(), r#"{"t":"a&b \"c\"","c":"4111111111111111"}"#);
        let form = values.fill(&request("t={{rei:secret:token}}&x=1", "application/x-www-form-urlencoded"));
        assert_eq!(String::from_utf8(form.body).unwrap(), "t=a%26b+%22c%22&x=1");
        let plain = Request::get("/a?b=%7B{");
        assert_eq!(values.fill(&plain), plain);
        assert!(!format!("{values:?}").contains("t0ken"));
        for (text, reason) in
            [("bearer", "line 1: there is no `=`"), ("\nbear er=1", "line 2: what is before the `=` is no placeholder")]
        {
            assert_eq!(Values::parse(text).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn an_answer_gives_values_for_later_requests() {
        let mut values = Values::default();
        let recorded = Expected {
            status: 200,
            headers: vec![header("set-cookie", "a=1"), header("set-cookie", "sid={{rei:cookie:sid}}; Path=/")],
            body: Some(br#"{"user":{"token":"{{rei:secret:token}}","pin":"{{rei:secret:pin}}"}}"#.to_vec()),
        };
        let response = Response {
            status: 200,
            headers: vec![header("set-cookie", "sid=new; Path=/"), header("set-cookie", "a=1")],
            body: br#"{"user":{"pin":17,"token":"t2","more":1}}"#.to_vec(),
        };
        values.learn(&recorded, &response);
        let mut next = Request::get("/?t={{rei:secret:token}}&p={{rei:secret:pin}}");
        next.headers.push(header("cookie", "sid={{rei:cookie:sid}}"));
        let filled = values.fill(&next);
        assert_eq!((filled.path.as_str(), filled.headers[0].1.as_str()), ("/?t=t2&p=17", "sid=new"));
    }
}
