//! A whole exchange, and a whole run.

use std::fmt;

use super::body::{Body, BodyType, of_body};
use super::parts::Parts;
use crate::golden::format::{Exchange, Expected, GoldenRun, SCHEMA_LIVE};
use crate::golden::message::{Data, Side};
use crate::golden::normalise::Normaliser;
use crate::golden::placeholder::{MARK, Placeholder};
use crate::http::Request;
use crate::redact::{Redactor, Secrets};

/// A place of an exchange that has placeholders now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The number of the exchange in its run, counted from 1.
    pub exchange: usize,
    /// The place, as `request header authorization`.
    pub what: String,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exchange {}: {}", self.exchange, self.what)
    }
}

/// What was done to one exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedactedExchange {
    /// The places that have placeholders now.
    pub places: Vec<String>,
    /// Rules that the run needs, because a part of the answer can no longer be compared.
    pub normalisers: Vec<Normaliser>,
}

/// Why an exchange must not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotKept {
    /// What cannot be examined, and why.
    pub reason: String,
}

/// What was done to a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedactedRun {
    /// The places that have placeholders now; exchanges are numbered as they are after the removal of others.
    pub places: Vec<Replaced>,
    /// The exchanges that were removed, by their number before, counted from 1.
    pub not_kept: Vec<(usize, NotKept)>,
}

/// Redacts the exchanges of one run. It remembers the values that it has found, so that equal values get equal
/// placeholders in the whole run, and so that a value is found again in places that do not show it.
#[derive(Debug)]
pub struct Redaction {
    parts: Parts,
}

impl Redaction {
    /// Makes a redaction that also knows the secrets of the configuration.
    pub fn new(secrets: &Secrets) -> Self {
        Self { parts: Parts::new(Redactor::knowing(secrets).and_personal()) }
    }

    /// Replaces everything secret and personal in a request and its answer by placeholders.
    ///
    /// # Errors
    /// If a part of it cannot be examined, or if it has a text that looks like a placeholder. Then the exchange must not
    /// be written, as it may be half redacted.
    pub fn exchange(&mut self, exchange: &mut Exchange) -> Result<RedactedExchange, NotKept> {
        let mut redacted = RedactedExchange::default();
        self.parts.marked = false;
        self.pass(exchange, &mut redacted)?;
        if std::mem::take(&mut self.parts.marked) {
            return Err(marked());
        }
        self.echo(exchange, &mut redacted)?;
        Ok(redacted)
    }

    /// Redacts all exchanges of a run, and removes those that cannot be kept.
    pub fn run(&mut self, run: &mut GoldenRun) -> RedactedRun {
        let (mut result, mut kept) = (RedactedRun::default(), Vec::new());
        for (index, mut exchange) in std::mem::take(&mut run.exchanges).into_iter().enumerate() {
            match self.exchange(&mut exchange) {
                Ok(redacted) => kept.push((index, exchange, redacted)),
                Err(why) => result.not_kept.push((index + 1, why)),
            }
        }
        // A page can have a token that only a later request shows to be one.
        for (index, mut exchange, mut redacted) in kept {
            if let Err(why) = self.echo(&mut exchange, &mut redacted) {
                result.not_kept.push((index + 1, why));
                continue;
            }
            let number = run.exchanges.len() + 1;
            result.places.extend(redacted.places.into_iter().map(|what| Replaced { exchange: number, what }));
            for rule in redacted.normalisers {
                if !run.header.normalisers.contains(&rule) {
                    run.header.normalisers.push(rule);
                }
            }
            run.exchanges.push(exchange);
        }
        if !result.places.is_empty() {
            run.header.needs(SCHEMA_LIVE);
        }
        result
    }

    /// A text for the terminal without secrets.
    pub fn text(&mut self, text: &str) -> String {
        self.parts.text(text)
    }

    /// Replaces the values that are known by now.
    fn echo(&mut self, exchange: &mut Exchange, redacted: &mut RedactedExchange) -> Result<(), NotKept> {
        self.parts.echo_only(true);
        let done = self.pass(exchange, redacted);
        self.parts.echo_only(false);
        done
    }

    fn pass(&mut self, exchange: &mut Exchange, redacted: &mut RedactedExchange) -> Result<(), NotKept> {
        let Request { path, headers, body, .. } = &mut exchange.request;
        self.path(path, redacted);
        let kind = BodyType::of(headers);
        self.headers(headers, "request", redacted);
        match of_body(body, &kind, &mut self.parts) {
            Body::Same => {}
            Body::Clean { bytes, places, .. } => {
                *body = bytes;
                places.iter().for_each(|place| redacted.add(&format!("request {place}")));
            }
            Body::Opaque(why) => return Err(NotKept { reason: format!("the request may have secrets: {why}") }),
        }
        self.messages(exchange, redacted)?;
        let is_conversation = exchange.is_conversation();
        let Some(Expected { headers, body, .. }) = &mut exchange.response else { return Ok(()) };
        let kind = BodyType::of(headers);
        self.headers(headers, "answer", redacted);
        if is_conversation {
            // Its body is made of the messages.
            exchange.settle();
            return Ok(());
        }
        // A digest is kept as it is.
        let Some(bytes) = body.as_mut().filter(|bytes| Placeholder::digest_of(bytes).is_none()) else { return Ok(()) };
        match of_body(bytes, &kind, &mut self.parts) {
            Body::Same => {}
            Body::Clean { bytes, places, renamed } => {
                *body = Some(bytes);
                places.iter().for_each(|place| redacted.add(&format!("answer {place}")));
                let rules = renamed.into_iter().map(|pointer| Normaliser::Ignore { pointer });
                redacted.normalisers.extend(rules);
            }
            Body::Opaque(_) => {
                *body = Some(Placeholder::of_bytes(bytes).to_string().into_bytes());
                redacted.add("answer body (as its SHA-256)");
            }
        }
        Ok(())
    }

    /// The messages of a conversation.
    fn messages(&mut self, exchange: &mut Exchange, redacted: &mut RedactedExchange) -> Result<(), NotKept> {
        let is_lines = exchange.is_lines();
        let mut login = Login::default();
        for (index, message) in exchange.messages.iter_mut().enumerate() {
            let who = if message.from == Side::Client { "sent" } else { "received" };
            let place = format!("{who} message {}", index + 1);
            let Data::Text(text) = &message.data else {
                if message.from == Side::Client {
                    let reason = format!("the {place} may have secrets: it is no text");
                    return Err(NotKept { reason });
                }
                if matches!(message.data, Data::Binary(_)) {
                    message.data = message.data.clone().digested();
                    redacted.add(&format!("{place} (as its SHA-256)"));
                }
                continue;
            };
            let secret = (is_lines && message.from == Side::Client).then(|| login.secret_of(text)).flatten();
            if let Some(at) = secret
                && let Some(clean) = self.parts.field("password", &text[at..])
            {
                message.data = Data::Text(format!("{}{clean}", &text[..at]));
                redacted.add(&place);
                continue;
            }
            if let Body::Clean { bytes, places, renamed } =
                of_body(text.as_bytes(), &BodyType::default(), &mut self.parts)
            {
                let clean =
                    String::from_utf8(bytes).map_err(|_| NotKept { reason: format!("the {place} is no text") })?;
                message.data = Data::Text(clean);
                places.iter().for_each(|_| redacted.add(&place));
                let pointer = |pointer: String| format!("/*{pointer}");
                let rules = renamed.into_iter().map(|it| Normaliser::Ignore { pointer: pointer(it) });
                redacted.normalisers.extend(rules);
            }
        }
        Ok(())
    }

    fn path(&mut self, path: &mut String, redacted: &mut RedactedExchange) {
        let (at, query) = path.split_once('?').map_or((path.as_str(), None), |(at, query)| (at, Some(query)));
        let mut clean = self.parts.segments(at);
        if clean != at {
            redacted.add("request path");
        }
        if let Some(query) = query {
            let mut names = Vec::new();
            let query = self.parts.pairs(query, &mut names);
            names.iter().for_each(|name| redacted.add(&format!("query {name}")));
            clean = format!("{clean}?{query}");
        }
        *path = clean;
    }

    fn headers(&mut self, headers: &mut [(String, String)], of: &str, redacted: &mut RedactedExchange) {
        for (name, value) in headers {
            if let Some(clean) = self.parts.header(&name.to_ascii_lowercase(), value) {
                *value = clean;
                redacted.add(&format!("{of} header {name}"));
            }
        }
    }
}

/// The commands of a login in protocols of lines: `PASS x` (POP3, FTP), `AUTH x` (Redis, SMTP), `a1 LOGIN user x` (IMAP).
#[derive(Default)]
struct Login {
    /// Lines that follow a command without the secret, as the base64 lines of `AUTH LOGIN`, and have it.
    follow: usize,
}

impl Login {
    /// Where the secret of a line begins, if it has one.
    fn secret_of(&mut self, line: &str) -> Option<usize> {
        const COMMANDS: &[&str] = &["AUTH", "AUTHENTICATE", "LOGIN", "PASS", "PASSWORD"];
        const MECHANISMS: &[&str] = &["CRAM-MD5", "LOGIN", "OAUTHBEARER", "PLAIN", "XOAUTH2"];
        let is = |word: &str, list: &[&str]| list.iter().any(|one| one.eq_ignore_ascii_case(word));
        if self.follow > 0 {
            self.follow -= 1;
            return (!line.trim().is_empty()).then_some(0);
        }
        let mut words = line.split(' ').scan(0, |at, word| {
            let begin = *at;
            *at += word.len() + 1;
            Some((begin, word))
        });
        // An IMAP command has a tag before it.
        words.by_ref().take(2).find(|(_, word)| is(word, COMMANDS))?;
        let (mut at, mut word) = words.find(|(_, word)| !word.is_empty())?;
        if is(word, MECHANISMS) {
            let Some(next) = words.find(|(_, word)| !word.is_empty()) else {
                // `AUTH LOGIN` asks for the name and then for the password.
                self.follow = 2;
                return None;
            };
            (at, word) = next;
        }
        (!word.is_empty()).then_some(at)
    }
}

impl RedactedExchange {
    fn add(&mut self, place: &str) {
        if !self.places.iter().any(|it| it == place) {
            self.places.push(place.to_owned());
        }
    }
}

fn marked() -> NotKept {
    NotKept { reason: format!("it has the text {MARK}, which would be filled with a secret at a replay") }
}

/// Fails if an exchange that is kept with its secrets has the mark of a placeholder.
pub fn has_mark(exchange: &Exchange) -> Result<(), NotKept> {
    // A copy: only the answer to the question is needed.
    let mut parts = Parts::new(Redactor::new());
    let Exchange { request, response, .. } = exchange;
    let (at, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    parts.segments(at);
    parts.pairs(query, &mut Vec::new());
    let answered = response.as_ref().map_or(&[][..], |response| &response.headers);
    for (name, value) in request.headers.iter().chain(answered) {
        parts.header(&name.to_ascii_lowercase(), value);
    }
    of_body(&request.body, &BodyType::of(&request.headers), &mut parts);
    if let Some(Expected { headers, body: Some(body), .. }) = response.as_ref().filter(|_| !exchange.is_conversation())
    {
        of_body(body, &BodyType::of(headers), &mut parts);
    }
    for message in &exchange.messages {
        if let Data::Text(text) = &message.data {
            of_body(text.as_bytes(), &BodyType::default(), &mut parts);
        }
    }
    if parts.marked { Err(marked()) } else { Ok(()) }
}
