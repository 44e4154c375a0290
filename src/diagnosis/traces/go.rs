//! Go: `panic: REASON` or `fatal error: REASON`, then one block per goroutine: `goroutine N [STATE]:`, and for each
//! frame a line with the call and below it `\tFILE:LINE +0xOFFSET`.

use crate::interface::types::StackTrace;

use super::find::{ParsedTraces, frame};

/// Maximum number of lines between the reason and the first goroutine: the signal, repeated panics, the runtime's own
/// stack.
const HEAD_LINES_MAX: usize = 64;
/// Maximum number of goroutines. A server has thousands; the first one has panicked.
const GOROUTINES_MAX: usize = 4;

pub(super) fn take(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    let mut reason = reason(lines[i])?.to_owned();
    let ahead = lines.iter().enumerate().skip(i + 1).take(HEAD_LINES_MAX);
    let mut next = ahead.clone().find(|(_, line)| state(line).is_some()).map(|(at, _)| at)?;
    // If a recovered value was panicked again, it is on a line of its own, and the last one counts.
    for line in &lines[i + 1..next] {
        if let Some(again) = line.strip_prefix("\tpanic: ") {
            reason = again.to_owned();
        }
    }
    for note in [" [recovered]", " [recovered, repanicked]"] {
        reason.truncate(reason.strip_suffix(note).unwrap_or(&reason).len());
    }
    let mut traces = Vec::new();
    while let Some(thread) = lines.get(next).and_then(|line| state(line)) {
        next += 1;
        let frames = frames(lines, &mut next);
        if traces.len() < GOROUTINES_MAX {
            traces.push(StackTrace {
                language: "go".into(),
                reason: reason.clone(),
                frames,
                thread: Some(thread.into()),
            });
        }
        if lines.get(next).is_some_and(|line| line.is_empty())
            && lines.get(next + 1).is_some_and(|it| state(it).is_some())
        {
            next += 1;
        }
    }
    // The goroutine that panicked is printed first, and it is the most important.
    traces.reverse();
    Some(ParsedTraces { traces, next })
}

fn reason(line: &str) -> Option<&str> {
    line.strip_prefix("panic: ").or_else(|| line.strip_prefix("fatal error: "))
}

/// `goroutine 17 [running]` from its heading.
fn state(line: &str) -> Option<&str> {
    let heading = line.strip_suffix(':')?;
    (heading.starts_with("goroutine ") && heading.ends_with(']')).then_some(heading)
}

fn frames(lines: &[&str], next: &mut usize) -> Vec<String> {
    let mut frames = Vec::new();
    while let [call, place, ..] = &lines[(*next).min(lines.len())..] {
        let Some(place) = place.strip_prefix('\t') else { break };
        // The place where the goroutine was started is no frame.
        if !call.starts_with("created by ") {
            // `main.(*Server).lookup(...)`, `main.f({0x1, 0x2}, 0x3)`: the last parentheses contain the arguments.
            let function = call.rfind('(').filter(|_| call.ends_with(')')).map_or(*call, |at| &call[..at]);
            let place = place.split_once(" +0x").map_or(place, |(place, _)| place);
            frames.push(frame(function, place));
        }
        *next += 2;
    }
    if lines.get(*next).is_some_and(|line| line.starts_with("...") && line.ends_with("frames elided...")) {
        *next += 1;
        frames.extend(self::frames(lines, next));
    }
    frames
}
