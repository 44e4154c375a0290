//! The last meaningful lines of a log, which explain an end without a stack trace.
//!
//! Routine output of a service (requests, levels below a warning) differs each time and explains nothing, so it is left
//! out. Lines about an end have priority over lines about an error, and these over all other lines. Indented lines
//! below a line belong to it.

use regex::Regex;

use super::record::{FIELDS, Record};

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

/// The last line with words, without its timestamp: a message of the service if there is one, even one below a warning,
/// and else a request. `text` must not contain ANSI sequences.
pub(super) fn last_line(text: &str) -> Option<String> {
    let forms = Forms::new()?;
    let lines: Vec<&str> = text.lines().collect();
    let lines = &lines[lines.len().saturating_sub(LINES_LOOK_MAX)..];
    let said: Vec<String> = lines.iter().map(|line| forms.read(line).1).collect();
    let worded = |words: &&String| words.contains(char::is_alphabetic) && !is_echo(&words.to_ascii_lowercase());
    let message = |words: &&String| worded(words) && !forms.request.is_match(words);
    said.iter().rfind(message).or_else(|| said.iter().rfind(worded)).cloned()
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
    request: Regex,
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
        let request = concat!(
            r"(?:^|[\s\x22])(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT) /",
            r"|HTTP/[0-9.]+\x22 [0-9]{3}(?-u:\b)",
        );
        let routine = concat!(
            r"^[^A-Za-z]*(?:INFO|DEBUG|TRACE|info|debug|trace|Info|Debug|Trace)(?-u:\b)",
            r"|level=(?:info|debug|trace)(?-u:\b)|(?i-u:\b(?:listening|serving) (?:on|at)\b)",
        );
        let routine = format!("{routine}|{request}");
        Some(Self {
            stamp: Regex::new(stamp).ok()?,
            routine: Regex::new(&routine).ok()?,
            request: Regex::new(request).ok()?,
        })
    }

    /// The importance of a line, and its text.
    fn read(&self, line: &str) -> (Importance, String) {
        let plain = self.stamp.find(line).and_then(|stamp| line.get(stamp.end()..)).unwrap_or(line);
        if let Some((level, words)) = structured(plain) {
            let words = cut(&words).to_owned();
            let importance = match level.as_str() {
                "info" | "debug" | "trace" | "notice" => Importance::Nothing,
                "fatal" | "panic" | "critical" | "crit" | "alert" | "emergency" | "emerg" => Importance::End,
                "error" | "err" => Importance::Error,
                _ => importance(&words),
            };
            return (importance, words);
        }
        let plain = cut(plain);
        let words = plain.trim().to_owned();
        if !words.contains(char::is_alphabetic) || self.routine.is_match(plain) {
            return (Importance::Nothing, words);
        }
        (importance(&words), words)
    }
}

/// True for a message of a runner, in lower case.
fn is_echo(words: &str) -> bool {
    ECHOES.iter().any(|echo| words.starts_with(echo))
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LINE_BYTES_MAX)]
}

fn importance(words: &str) -> Importance {
    let lower = words.to_ascii_lowercase();
    let has = |marks: &[&str]| marks.iter().any(|mark| lower.contains(mark));
    match () {
        () if is_echo(&lower) => Importance::Nothing,
        () if has(&ENDS) => Importance::End,
        () if has(&ERRORS) => Importance::Error,
        () => Importance::Something,
    }
}

/// The level and the message of a line in JSON, or in `key=value` pairs with a level and a message. Other fields are
/// times, processes and requests.
fn structured(line: &str) -> Option<(String, String)> {
    if line.starts_with('{') {
        let record = Record::parse(line)?;
        let words = record.words();
        return (!words.is_empty()).then(|| (record.level(), words.join(": ")));
    }
    let line = cut(line);
    let pair = |name: &str| {
        let marked = format!("{name}=");
        let at = line.find(&marked).filter(|at| *at == 0 || line[..*at].ends_with(' '))?;
        let value = &line[at + marked.len()..];
        match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().map(str::to_owned),
            None => value.split(' ').next().map(str::to_owned),
        }
    };
    let level = pair("level")?;
    let mut words: Vec<String> = FIELDS.iter().filter_map(|name| pair(name)).collect();
    words.dedup();
    (!words.is_empty()).then(|| (level.to_ascii_lowercase(), words.join(": ")))
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
    fn a_service_that_only_printed_routine_lines_has_a_last_line() {
        for (text, line) in [
            ("", None),
            ("1 2 3\nexit status 2\n", None),
            ("{\"level\":\"info\",\"msg\":\"the license ends today\"}\nGET /a 200\n", Some("the license ends today")),
            ("GET /a 200\nGET /b 200\n\n", Some("GET /b 200")),
            ("2026-11-22T15:01:10Z INFO no work left, leaving\nexit status 3\n", Some("INFO no work left, leaving")),
        ] {
            assert_eq!((last_lines(text), last_line(text).as_deref()), (vec![], line), "{text}");
        }
    }

    #[test]
    fn a_long_line_in_json_is_read_whole() {
        let long =
            format!("{{\"payload\":\"{}\",\"level\":50,\"err\":{{\"message\":\"no disk\"}}}}\n", "x".repeat(9_000));
        assert_eq!(last_lines(&long), ["no disk"]);
        let ecs = "{\"log\":{\"level\":\"fatal\"},\"message\":\"the ledger is closed\\n\\tat a.B\"}\nbye\n";
        assert_eq!(last_lines(ecs), ["the ledger is closed"]);
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
