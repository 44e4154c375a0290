//! Node: `TYPE: MESSAGE`, then `    at FUNCTION (FILE:LINE:COL)` or `    at FILE:LINE:COL` per frame, then perhaps, in
//! braces, `[cause]: …` with its own frames. The engine itself ends with `FATAL ERROR: …`.

use crate::interface::types::StackTrace;

use super::find::{MESSAGE_LINES_MAX, ParsedTraces, frame};

/// Maximum number of lines with properties between an error's frames and its cause.
const PROPERTIES_MAX: usize = 16;

pub(super) fn take(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    if let Some(reason) = lines[i].strip_prefix("FATAL ERROR: ") {
        let trace = StackTrace { language: "node".into(), reason: reason.into(), ..StackTrace::default() };
        return Some(ParsedTraces { traces: vec![trace], next: i + 1 });
    }
    let first = head(lines[i])?;
    let ahead = &lines[i + 1..lines.len().min(i + 1 + MESSAGE_LINES_MAX)];
    let message = ahead.iter().position(|line| located(line).is_some() || head(line).is_some())?;
    located(ahead[message])?;
    let mut reason = std::iter::once(first).chain(ahead[..message].iter().copied()).collect::<Vec<_>>().join("\n");
    let mut next = i + 1 + message;
    let mut traces = Vec::new();
    loop {
        let mut frames = Vec::new();
        while let Some(frame) = lines.get(next).and_then(|line| located(line)) {
            frames.push(frame);
            next += 1;
        }
        traces.push(StackTrace { language: "node".into(), reason, frames, thread: None });
        // Only an error that continues in braces has properties; one of them may be its cause.
        if !lines[next - 1].ends_with(" {") {
            break;
        }
        let inside = lines[next..].iter().take(PROPERTIES_MAX).take_while(|line| line.starts_with("  "));
        let cause = inside.clone().position(|line| line.trim_start().starts_with("[cause]: "));
        let Some(cause) = cause else { break };
        let line = lines[next + cause].trim_start().trim_start_matches("[cause]: ");
        reason = line.to_owned();
        next += cause + 1;
        if lines.get(next).and_then(|line| located(line)).is_none() {
            break;
        }
    }
    // The outer error is printed first. As in Java, its root cause, which comes last, is the most important.
    Some(ParsedTraces { traces, next })
}

/// The error, if the line begins with the name of one: `TypeError: …`, `Uncaught Error [ERR_X]: …`.
fn head(line: &str) -> Option<&str> {
    let line = line.strip_prefix("Uncaught ").unwrap_or(line);
    let name = line.split([':', ' ']).next()?;
    let identifier = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
    let behind = &line[name.len()..];
    let ends = behind.is_empty() || behind.starts_with(':') || behind.starts_with(" [");
    (identifier && ends && name.starts_with(char::is_uppercase)).then_some(line)
}

fn located(line: &str) -> Option<String> {
    let text = line.strip_prefix("    ")?.trim_start().strip_prefix("at ")?;
    let text = text.strip_suffix(" {").unwrap_or(text);
    let (function, place) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, place)) => (function.strip_prefix("async ").unwrap_or(function), place),
        None => ("", text),
    };
    // `new Promise (<anonymous>)` and `Array.map (native)` have no line number; every other place has one.
    let known = place.starts_with('<') || place == "native" || place.rsplit(':').next()?.parse::<u32>().is_ok();
    known.then(|| if function.is_empty() { place.to_owned() } else { frame(function, place) })
}
