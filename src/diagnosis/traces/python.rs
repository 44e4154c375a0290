//! Python: `Traceback (most recent call last):`, then two or three lines per frame, outermost first, then `TYPE:
//! MESSAGE`. Chained exceptions are printed one after the other; the uncaught one is last. Exception groups have `|`
//! and `+` in front of each line. `Fatal Python error: …` comes from the interpreter itself, innermost frame first.

use crate::interface::types::StackTrace;

use super::find::{ParsedTraces, frame};

pub(super) fn take(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    match lines[i].strip_prefix("Fatal Python error: ") {
        Some(reason) => Some(fatal(lines, i + 1, reason)),
        None => traceback(lines, i),
    }
}

fn traceback(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    let heads = ["Exception Group Traceback (most recent call last):", "Traceback (most recent call last):"];
    let column = heads.iter().find_map(|head| lines[i].strip_suffix(head).map(str::len))?;
    // In front of it is nothing, a logger's prefix, or the lines of a group, which the following lines have, too.
    let drawing = |text: &str| !text.is_empty() && text.bytes().all(|byte| b" |+-".contains(&byte));
    let column = if drawing(&lines[i][..column]) { column } else { 0 };
    let (mut frames, mut reason, mut next) = (Vec::new(), String::new(), i + 1);
    while let Some(line) = lines.get(next) {
        let Some((front, line)) = line.split_at_checked(column) else { break };
        if column > 0 && !drawing(front) {
            break;
        }
        if let Some(place) = line.strip_prefix("  File ") {
            frames.extend(located(place));
        } else if !line.starts_with(' ') {
            // An empty line means that the log was cut inside the trace.
            reason = line.to_owned();
            next += usize::from(!line.is_empty());
            break;
        }
        next += 1;
    }
    frames.reverse();
    let trace = StackTrace { language: "python".into(), reason, frames, thread: None };
    let traces = if trace.frames.is_empty() && trace.reason.is_empty() { Vec::new() } else { vec![trace] };
    Some(ParsedTraces { traces, next })
}

/// The frame of `"PATH", line N, in FUNCTION`, or of `"PATH", line N in FUNCTION` in the interpreter's fatal errors.
fn located(place: &str) -> Option<String> {
    let (path, rest) = place.strip_prefix('"')?.split_once("\", line ")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (line, rest) = rest.split_at(digits);
    let function = rest.strip_prefix(", in ").or_else(|| rest.strip_prefix(" in ")).unwrap_or("<module>");
    Some(frame(function, &format!("{path}:{line}")))
}

fn fatal(lines: &[&str], mut next: usize, reason: &str) -> ParsedTraces {
    // The reason, perhaps a line about the state of the interpreter, an empty line, then a block per thread.
    const BLANKS_MAX: usize = 3;
    let mut traces: Vec<StackTrace> = Vec::new();
    let mut plain = 0;
    while let Some(line) = lines.get(next) {
        if let Some(heading) = line.strip_suffix(" (most recent call first):") {
            let thread = Some(if heading.starts_with("Current thread") { "current" } else { "other" }.to_owned());
            traces.push(StackTrace {
                language: "python".into(),
                reason: reason.into(),
                thread,
                ..StackTrace::default()
            });
        } else if let (Some(place), Some(trace)) = (line.strip_prefix("  File "), traces.last_mut()) {
            trace.frames.extend(located(place));
        } else {
            plain += 1;
            if plain > BLANKS_MAX || (!line.is_empty() && !traces.is_empty()) {
                break;
            }
        }
        next += 1;
    }
    if traces.is_empty() {
        traces.push(StackTrace { language: "python".into(), reason: reason.into(), ..StackTrace::default() });
    }
    // The thread that failed is the most important, so it comes last.
    traces.sort_by_key(|trace| trace.thread.as_deref() != Some("other"));
    ParsedTraces { traces, next }
}
