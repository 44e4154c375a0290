//! Java: `Exception in thread "NAME" TYPE: MESSAGE` (or only the type, from a logger), then `\tat
//! PACKAGE.CLASS.METHOD(FILE:LINE)` per frame, then perhaps `Caused by: …` with its own frames; the root cause is last.

use crate::interface::types::StackTrace;

use super::find::{MESSAGE_LINES_MAX, ParsedTraces, frame};

pub(super) fn take(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    let (thread, reason) = head(lines[i])?;
    // A message may have several lines. Without `Exception in thread`, the frames must follow directly.
    let reach = if thread.is_some() { MESSAGE_LINES_MAX } else { 1 };
    let ahead = &lines[i + 1..lines.len().min(i + 1 + reach)];
    let message = ahead.iter().position(|line| located(line).is_some())?;
    let mut reason = std::iter::once(reason).chain(ahead[..message].iter().copied()).collect::<Vec<_>>().join("\n");
    let mut next = i + 1 + message;
    let mut traces = Vec::new();
    loop {
        let mut frames = Vec::new();
        while let Some(line) = lines.get(next) {
            match located(line) {
                Some(frame) => frames.push(frame),
                None if line.trim_start().starts_with("... ") && line.ends_with(" more") => {}
                None => break,
            }
            next += 1;
        }
        traces.push(StackTrace { language: "java".into(), reason, frames, thread: thread.map(str::to_owned) });
        let Some(cause) = lines.get(next).and_then(|line| cause(line)) else { break };
        reason = cause.to_owned();
        next += 1;
    }
    Some(ParsedTraces { traces, next })
}

/// The thread, if it is named, and the exception.
fn head(line: &str) -> Option<(Option<&str>, &str)> {
    if let Some(rest) = line.strip_prefix("Exception in thread \"") {
        let (thread, reason) = rest.split_once("\" ")?;
        return Some((Some(thread), reason));
    }
    // `com.example.OrderException: message`: any dotted name.
    let name = line.split([':', ' ']).next()?;
    let dotted = name.contains('.') && name.split('.').all(|part| !part.is_empty() && part.chars().all(is_name));
    dotted.then_some((None, line))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The frame of `\tat java.base/java.lang.Integer.parseInt(Integer.java:668)`.
fn located(line: &str) -> Option<String> {
    let (function, place) = line.trim_start().strip_prefix("at ")?.strip_suffix(')')?.rsplit_once('(')?;
    // A frame of Node has a space before its parenthesis.
    (!function.contains(' ') && function.contains('.')).then(|| frame(function, place))
}

fn cause(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("Caused by: ").or_else(|| line.strip_prefix("Suppressed: "))
}
