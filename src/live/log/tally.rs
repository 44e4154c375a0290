//! Cuts output into lines, and counts them.

use regex::Regex;

use super::combined;
use super::fields::Fields;
use super::keyed;
use super::rules::Rules;
use super::{duration, fields};
use crate::config::LogFormat;
use crate::live::{Class, Route, Sample};

/// The longest line that is read, in bytes. Of a longer one nothing is kept; it is counted as unread.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// The bytes at the beginning of a line in which a word for its level is looked for.
const LEVEL_BYTES: usize = 80;
/// Levels of lines that are errors, in lower case.
const ERRORS: &[&str] =
    &["error", "err", "fatal", "critical", "crit", "panic", "dpanic", "alert", "emerg", "emergency", "severe"];
/// The level from which pino and bunyan count errors.
const ERROR_NUMBER: u64 = 50;
/// How the agent of rei's own requests begins.
const OWN_AGENT: &str = "rei/";

/// Counts the requests of an access log.
#[derive(Debug)]
pub struct Tally {
    rules: Rules,
    pattern: Option<Regex>,
    /// The beginning of a line whose end was not there yet; at most [`LINE_BYTES_MAX`].
    begun: Vec<u8>,
    /// Whether the present line is longer than that.
    is_long: bool,
    sample: Sample,
}

impl Tally {
    /// Nothing was counted yet.
    ///
    /// # Errors
    /// If the pattern of the rules cannot be compiled within its bound.
    pub fn new(rules: Rules) -> Result<Self, regex::Error> {
        let pattern = rules.pattern()?;
        Ok(Self { rules, pattern, begun: Vec::new(), is_long: false, sample: Sample::default() })
    }

    /// Takes output.
    pub fn take(&mut self, output: &[u8]) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.is_long |= self.begun.len() + text.len() > LINE_BYTES_MAX;
            match (self.is_long, is_whole) {
                (false, false) => self.begun.extend_from_slice(text),
                (true, false) => self.begun = Vec::new(),
                (true, true) => {
                    (self.begun, self.is_long) = (Vec::new(), false);
                    self.unread(1);
                }
                (false, true) if self.begun.is_empty() => self.line(text),
                (false, true) => {
                    let mut line = std::mem::take(&mut self.begun);
                    line.extend_from_slice(text);
                    self.line(&line);
                }
            }
        }
    }

    /// Takes output that comes faster than it can be read: its lines are counted as unread.
    pub fn skip(&mut self, output: &[u8]) {
        self.unread(output.iter().filter(|byte| **byte == b'\n').count() as u64);
        self.begun = Vec::new();
        // The rest of the last line is no line of its own.
        self.is_long = !output.ends_with(b"\n");
    }

    /// Whether nothing was counted since the last call of [`Tally::finish`].
    pub fn is_empty(&self) -> bool {
        self.sample.is_empty()
    }

    /// What was counted since the last call.
    pub fn finish(&mut self) -> Sample {
        std::mem::take(&mut self.sample)
    }

    /// Adds what was counted before.
    pub fn add(&mut self, sample: &Sample) {
        self.sample.merge(sample);
    }

    fn unread(&mut self, lines: u64) {
        self.sample.unread = self.sample.unread.saturating_add(lines);
    }

    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        if text.trim().is_empty() {
            return;
        }
        let (rules, sample) = (&self.rules, &mut self.sample);
        let (keys, unit) = (&rules.keys, rules.unit);
        let read = match &rules.format {
            LogFormat::Combined => combined::parse(text, true, unit).map(|found| count(&found, text, rules, sample)),
            LogFormat::Common => combined::parse(text, false, unit).map(|found| count(&found, text, rules, sample)),
            LogFormat::Json => keyed::json(text, keys, unit, |found| count(found, text, rules, sample)),
            LogFormat::Logfmt => keyed::logfmt(text, keys, unit).map(|found| count(&found, text, rules, sample)),
            LogFormat::Pattern(_) => {
                let found = self.pattern.as_ref().and_then(|pattern| matched(pattern, text, rules));
                found.map(|found| count(&found, text, rules, sample))
            }
        };
        if read.is_none() {
            self.unread(1);
            if has_error_word(text) {
                self.error(text);
            }
        }
    }

    fn error(&mut self, message: &str) {
        self.sample.error_lines = self.sample.error_lines.saturating_add(1);
        self.sample.errors.add(message);
    }
}

/// Counts a line that could be read.
fn count(found: &Fields<'_>, line: &str, rules: &Rules, sample: &mut Sample) {
    let is_error = match &found.level {
        Some(level) => is_error(level),
        None => found.status.is_none() && has_error_word(line),
    };
    if is_error {
        sample.error_lines = sample.error_lines.saturating_add(1);
        sample.errors.add(found.message.as_deref().unwrap_or(line));
    }
    // A line without a status is another line of the runtime's log.
    let Some(status) = found.status else { return };
    if is_own(found, rules) {
        return;
    }
    // 0: the client was gone before there was an answer. 499 is nginx' word for the same.
    let class = Class::of_status(status).unwrap_or(Class::ClientError);
    let route = match (found.method.as_deref(), found.path.as_deref()) {
        (Some(method), Some(path)) => Route::of_request(method, path),
        (None, Some(path)) => Route::named("", Route::of_request("GET", path).name().trim_start_matches("GET ")),
        (Some(method), None) => Route::named(method, ""),
        (None, None) => Route::unnamed(),
    };
    let counts = sample.route(route);
    counts.add(class, 1);
    if let Some(us) = found.duration_us {
        counts.latencies.add(us, 1);
    }
    counts.bytes_out = counts.bytes_out.saturating_add(found.bytes.unwrap_or(0));
}

/// Whether rei itself made the request.
fn is_own(found: &Fields<'_>, rules: &Rules) -> bool {
    let path = found.path.as_deref().and_then(|path| path.split('?').next());
    found.agent.as_deref().is_some_and(|agent| agent.starts_with(OWN_AGENT))
        || path.is_some_and(|path| rules.own_paths.iter().any(|own| own == path))
}

/// Reads a line by the named groups of a pattern.
fn matched<'a>(pattern: &Regex, line: &'a str, rules: &Rules) -> Option<Fields<'a>> {
    let groups = pattern.captures(line)?;
    let group = |name: &str| groups.name(name).map(|group| group.as_str());
    let text = |name: &str| group(name).map(Into::into);
    let named = pattern.capture_names().flatten().find(|name| name.starts_with("duration"));
    let unit = rules.unit.or_else(|| named.and_then(duration::unit_of));
    let mut found = Fields {
        status: group("status").and_then(fields::status),
        method: text("method"),
        path: text("path"),
        duration_us: named.and_then(group).and_then(|value| duration::read_us(value, unit)),
        bytes: group("bytes").and_then(|bytes| bytes.parse().ok()),
        agent: text("agent"),
        level: text("level"),
        message: text("message"),
    };
    if let Some(request) = group("request") {
        found.set_request(request);
    }
    Some(found)
}

fn is_error(level: &str) -> bool {
    match level.parse::<u64>() {
        Ok(number) => number >= ERROR_NUMBER,
        Err(_) => ERRORS.contains(&level.to_ascii_lowercase().as_str()),
    }
}

/// Whether a line without keys begins with a word for an error: `ERROR`, or `[error]` of nginx.
fn has_error_word(line: &str) -> bool {
    let begin = &line[..line.floor_char_boundary(LEVEL_BYTES)];
    begin.split(|c: char| !c.is_ascii_alphabetic() && c != '[').any(|word| {
        let plain = word.trim_start_matches('[');
        let is_marked =
            plain.len() < word.len() || (plain.len() > 3 && plain.bytes().all(|byte| byte.is_ascii_uppercase()));
        is_marked && is_error(plain)
    })
}
