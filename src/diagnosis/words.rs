//! The last meaningful lines of a log, which explain an end without a stack trace.
//!
//! Routine output of a service (requests, levels below a warning) differs each time and explains nothing, so it is left
//! out. Lines about an end have priority over lines about an error, and these over all other lines. Indented lines
//! below a line belong to it.

use regex::Regex;
use serde_json::Value;

/// Number of lines examined from the end of the log; earlier lines did not end the process. This is also the maximum
/// number of lines after a trace.
pub(super) const LINES_LOOK_MAX: usize = 32;
/// Maximum number of lines taken: a message and its place.
const LINES_MAX: usize = 4;
/// Maximum length of a line taken, in bytes.
const LINE_BYTES_MAX: usize = 512;

/// Words, in lower case, in lines about an end, for languages and libraries without a trace parser.
const ENDS: [&str; 22] = [
    "fatal",
    "panic",
    "terminate called",
    "terminating",
    "uncaught",
    "unhandled",
    "abort",
    "assert",
    "sanitizer:",
    "deadlock",
    "double free",
    "corrupt",
    "invalid pointer",
    "invalid size",
    "smashing detected",
    "overflowed its stack",
    "segmentation fault",
    "out of memory",
    "exception in thread",
    "critical",
    "emerg",
    "runtime error:",
];
/// Words in lines about an error.
const ERRORS: [&str; 12] = [
    "error",
    "exception",
    "fail",
    "cannot",
    "can't",
    "could not",
    "unable to",
    "refused",
    "denied",
    "not found",
    "no such",
    "invalid",
];
/// Messages that a runner adds after its program has exited. They say no more than the exit status.
const ECHOES: [&str; 4] = ["exit status ", "exited with code ", "npm err! code ", "make: *** "];
/// Fields of a structured line that say what happened, by priority.
const FIELDS: [&str; 6] = ["msg", "message", "event", "error", "err", "exception"];

/// The importance of a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Importance {
    Nothing,
    Something,
    Error,
    End,
}

/// The last meaningful lines, at most [`LINES_MAX`], without timestamps; none if all lines are routine. `text` must not
/// contain ANSI sequences.
pub(super) fn last_lines(text: &str) -> Vec<String> {
    let Some(forms) = Forms::new() else { return Vec::new() };
    let lines: Vec<&str> = text.lines().collect();
    let lines: Vec<&str> = lines[lines.len().saturating_sub(LINES_LOOK_MAX)..].to_vec();
    let read: Vec<(Importance, String)> = lines.iter().map(|line| forms.read(line)).collect();
    let Some(best) = read.iter().map(|(importance, _)| *importance).max().filter(|best| *best != Importance::Nothing)
    else {
        return Vec::new();
    };
    let last = read.iter().rposition(|(importance, _)| *importance == best).unwrap_or_default();
    // A message of several lines begins with the first of the lines with the same importance.
    let mut first = last;
    while best != Importance::Something && first > 0 && read[first - 1].0 == best && last - first + 1 < LINES_MAX {
        first -= 1;
    }
    let mut words: Vec<String> = Vec::new();
    for at in first..read.len() {
        let follows = at > last;
        let announced = at > 0 && at == last + 1 && read[last].1.ends_with(':');
        if words.len() == LINES_MAX || (follows && !announced && !belongs(lines[at])) {
            break;
        }
        if !read[at].1.is_empty() && !words.contains(&read[at].1) {
            words.push(read[at].1.clone());
        }
    }
    words
}

/// All lines about an error or an end, without timestamps. `text` must not contain ANSI sequences.
pub(super) fn important_lines(text: &str) -> Vec<String> {
    let Some(forms) = Forms::new() else { return Vec::new() };
    let read = text.lines().map(|line| forms.read(line)).filter(|(importance, _)| *importance >= Importance::Error);
    read.map(|(_, words)| words).collect()
}

/// True if a line belongs to the message above it.
fn belongs(line: &str) -> bool {
    line.starts_with([' ', '\t']) || line.starts_with("#0 ") || line.starts_with("at ") || line.starts_with("from ")
}

/// Regular expressions for the forms of lines.
struct Forms {
    stamp: Regex,
    routine: Regex,
}

impl Forms {
    /// Never `None`: the expressions are constants, and the test `the_lines_that_explain_the_end_are_taken` uses them.
    fn new() -> Option<Self> {
        let stamp = concat!(
            r"^\s*[\[(]?(?:[A-Z][a-z]{2},? +)?",
            r"(?:\d{4}[-/.]\d\d[-/.]\d\d|\d{1,2}[ /][A-Z][a-z]{2}[ /]\d{4}|[A-Z][a-z]{2} +\d{1,2}|\d{8}|[IWEF]\d{4})?",
            r"[T ,:]*\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?[\])]?[\s:|]*",
        );
        // Routine lines: a level below a warning; a request, by its method, path or protocol; a message that the
        // service listens.
        let routine = concat!(
            r"^[^A-Za-z]*(?:INFO|DEBUG|TRACE|info|debug|trace|Info|Debug|Trace)(?-u:\b)",
            r"|level=(?:info|debug|trace)(?-u:\b)|(?:^|[\s\x22])(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT) /",
            r"|HTTP/[0-9.]+\x22 [0-9]{3}(?-u:\b)|(?i-u:\b(?:listening|serving) (?:on|at)\b)",
        );
        Some(Self { stamp: Regex::new(stamp).ok()?, routine: Regex::new(routine).ok()? })
    }

    /// The importance of a line, and its text.
    fn read(&self, line: &str) -> (Importance, String) {
        let line = &line[..line.floor_char_boundary(LINE_BYTES_MAX)];
        let plain = self.stamp.replace(line, "");
        if let Some((level, words)) = structured(&plain) {
            let importance = match level.as_str() {
                "info" | "debug" | "trace" | "notice" => Importance::Nothing,
                "fatal" | "panic" | "critical" | "crit" | "alert" | "emergency" | "emerg" => Importance::End,
                "error" | "err" => Importance::Error,
                _ => importance(&words),
            };
            return (importance, words);
        }
        let words = plain.trim().to_owned();
        if !words.contains(char::is_alphabetic) || self.routine.is_match(&plain) {
            return (Importance::Nothing, words);
        }
        (importance(&words), words)
    }
}

fn importance(words: &str) -> Importance {
    let lower = words.to_ascii_lowercase();
    let has = |marks: &[&str]| marks.iter().any(|mark| lower.contains(mark));
    match () {
        () if ECHOES.iter().any(|echo| lower.starts_with(echo)) => Importance::Nothing,
        () if has(&ENDS) => Importance::End,
        () if has(&ERRORS) => Importance::Error,
        () => Importance::Something,
    }
}

/// The level and the message of a line in JSON, or in `key=value` pairs with a level and a message. Other fields are
/// times, processes and requests.
fn structured(line: &str) -> Option<(String, String)> {
    let field = |get: &dyn Fn(&str) -> Option<String>| {
        let level = ["level", "severity", "lvl", "log.level"].iter().find_map(|name| get(name));
        let mut words: Vec<String> = FIELDS.iter().filter_map(|name| get(name)).collect();
        words.dedup();
        (!words.is_empty()).then(|| (level.unwrap_or_default().to_ascii_lowercase(), words.join(": ")))
    };
    if line.starts_with('{') {
        let map: serde_json::Map<String, Value> = serde_json::from_str(line).ok()?;
        return field(&|name| match map.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Object(inner) => inner.get("message").and_then(Value::as_str).map(str::to_owned),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        });
    }
    let pair = |name: &str| {
        let marked = format!("{name}=");
        let at = line.find(&marked).filter(|at| *at == 0 || line[..*at].ends_with(' '))?;
        let value = &line[at + marked.len()..];
        match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().map(str::to_owned),
            None => value.split(' ').next().map(str::to_owned),
        }
    };
    pair("level").and_then(|_| field(&pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_explain_the_end_are_taken() {
        for (text, words) in [
            ("", &[][..]),
            ("GET / 200\n\n", &[]),
            ("bye\nexit status 2\n", &["bye"]),
            ("bye\nGET / 200\n2026-01-01T10:00:00Z INFO served\n", &["bye"]),
            ("ERROR: timeout of order 7\nFATAL: no memory\n  in pool 3\nbye\n", &["FATAL: no memory", "in pool 3"]),
            (
                "Unhandled exception:\nBad state: no element\n#0 main\n",
                &["Unhandled exception:", "Bad state: no element", "#0 main"],
            ),
            ("level=error msg=\"no disk\" ts=1 err=ENOSPC\nbye\n", &["no disk: ENOSPC"]),
            ("{\"level\":\"info\",\"msg\":\"error page served\"}\nbye\n", &["bye"]),
            ("[12/01/26 10:00:00] x\nI0102 10:00:00.000 y\nE0102 10:00:00.000 cannot z\n", &["cannot z"]),
        ] {
            assert_eq!(last_lines(text), words, "{text}");
        }
    }

    #[test]
    fn the_result_is_limited() {
        let hostile = [" panic\n".repeat(10_000), "é".repeat(100_000), "{".repeat(100_000), "\u{0}\n".repeat(99)];
        for text in hostile {
            let words = last_lines(&text);
            assert!(words.len() <= LINES_MAX && words.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        }
    }
}
