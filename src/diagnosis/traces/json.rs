//! Traces in the fields of a JSON log: a string of several lines, with any trace that a language prints; a list of frames
//! under a usual name. The names differ with each logger, so every string is read, and only frames without a head need a
//! usual name: `stacktrace` (zap), `stack_trace` (logback, Elastic), `stack` (pino, winston), `exc_info` (Python), `@x`
//! (Serilog), `backtrace` (Ruby), `frames` (structlog).

use serde_json::{Map, Value};

use super::super::record::Record;
use super::language;
use super::language::Fault;
use super::lines::Lines;
use super::scan;
use crate::interface::types::StackTrace;

/// Maximum depth of a field.
const DEPTH_MAX: usize = 5;
/// Maximum number of values of one line that are read.
const VALUES_MAX: usize = 512;
/// Maximum number of faults of one line: the first ones, because an error stands before its causes.
const FAULTS_MAX: usize = 4;
/// Last parts of the names of fields with frames, in lower case, without `_`.
const STACKS: [&str; 9] =
    ["stack", "stacktrace", "exception", "excinfo", "backtrace", "traceback", "trace", "extendedstacktrace", "@x"];
/// Fields of a frame.
const FUNCTIONS: [&str; 4] = ["function", "func", "method", "name"];
const FILES: [&str; 4] = ["filename", "file", "source", "fileName"];
const NUMBERS: [&str; 3] = ["lineno", "line", "lineNumber"];
/// Fields beside a stack that say what failed.
const TYPES: [&str; 4] = ["type", "class", "exc_type", "name"];
const MESSAGES: [&str; 4] = ["message", "msg", "exc_value", "value"];

/// The faults in a line of a JSON log whose level is no lower than an error.
pub(super) fn faults(line: &str) -> Vec<Fault> {
    let Some(record) = Record::parse(line) else { return Vec::new() };
    if ["trace", "debug", "info", "notice", "warn", "warning"].contains(&record.level().as_str()) {
        return Vec::new();
    }
    let mut search = Search { faults: Vec::new(), values: 0, words: record.words().join(": ") };
    search.object(record.fields(), 0);
    search.faults
}

struct Search {
    faults: Vec<Fault>,
    values: usize,
    /// What the line says.
    words: String,
}

impl Search {
    fn object(&mut self, map: &Map<String, Value>, depth: usize) {
        for (key, value) in map {
            self.values += 1;
            if self.values > VALUES_MAX || self.faults.len() >= FAULTS_MAX || depth > DEPTH_MAX {
                return;
            }
            match value {
                Value::String(text) if text.contains('\n') => self.text(map, key, text, depth),
                Value::Array(list) => self.list(map, key, list, depth),
                Value::Object(inner) => self.object(inner, depth + 1),
                Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
    }

    fn text(&mut self, map: &Map<String, Value>, key: &str, text: &str, depth: usize) {
        let (lines, mut next, before) = (Lines::of(text), 0, self.faults.len());
        while next < lines.len() && self.faults.len() < FAULTS_MAX {
            self.faults.extend(scan::take(&lines, &mut next));
        }
        let unknown = self.faults.len() == before && is_stack(key);
        if let Some((language, frames)) = unknown.then(|| scan::bare(text)).flatten() {
            self.bare(map, key, language, frames, depth);
        }
    }

    fn list(&mut self, map: &Map<String, Value>, key: &str, list: &[Value], depth: usize) {
        let lines: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
        let mut frames: Vec<String> = list.iter().filter_map(frame).collect();
        if is_stack(key) && lines.len() == list.len() && !lines.is_empty() {
            let text = lines.join("\n");
            let read = scan::bare(&text).unwrap_or(("other", lines.into_iter().map(str::to_owned).collect()));
            self.bare(map, key, read.0, read.1, depth);
        } else if (is_stack(key) || key == "frames") && frames.len() == list.len() && !frames.is_empty() {
            if key == "frames" {
                // Python's loggers have the innermost frame last.
                frames.reverse();
            }
            self.bare(map, key, if key == "frames" { "python" } else { "other" }, frames, depth);
        } else {
            list.iter().filter_map(Value::as_object).for_each(|inner| self.object(inner, depth + 1));
        }
    }

    /// A stack without a head: the fields beside it say what failed, or else the words of the line.
    fn bare(&mut self, map: &Map<String, Value>, key: &str, language: &str, frames: Vec<String>, depth: usize) {
        let prefix = key.rfind('.').and_then(|dot| key.get(..=dot)).unwrap_or_default();
        let field = |names: &[&str]| names.iter().find_map(|name| map.get(&format!("{prefix}{name}"))?.as_str());
        let said: Vec<&str> = [field(&TYPES), field(&MESSAGES)].into_iter().flatten().collect();
        let beside = (depth > 0 || !prefix.is_empty()) && !said.is_empty();
        let reason = if beside { said.join(": ") } else { self.words.clone() };
        self.faults.push(Fault::single(StackTrace { language: language.into(), reason, frames, thread: None }));
    }
}

fn is_stack(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).replace('_', "").to_ascii_lowercase();
    STACKS.contains(&name.as_str())
}

/// The frame of an object with a function or a file.
fn frame(value: &Value) -> Option<String> {
    let map = value.as_object()?;
    let text = |names: &[&str]| names.iter().find_map(|name| map.get(*name)?.as_str()).unwrap_or_default();
    let (function, file) = (text(&FUNCTIONS), text(&FILES));
    let line = NUMBERS.iter().find_map(|name| {
        let line = map.get(*name)?;
        line.as_u64().or_else(|| line.as_str()?.parse().ok())
    });
    let function = match text(&["class", "declaringClass"]) {
        "" => function.to_owned(),
        class => format!("{class}.{function}"),
    };
    let place = line.map_or(file.to_owned(), |line| format!("{file}:{line}"));
    (!function.is_empty() && (line.is_some() || !file.is_empty())).then(|| language::frame(&function, &place))
}
