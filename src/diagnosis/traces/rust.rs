//! Rust: `thread 'NAME' (ID) panicked at FILE:LINE:COL:` with the message below it (since 1.73), or `thread 'NAME'
//! panicked at 'MESSAGE', FILE:LINE:COL` (before); then, if enabled, `stack backtrace:`.

use crate::interface::types::StackTrace;

use super::find::{MESSAGE_LINES_MAX, ParsedTraces, frame};

pub(super) fn take(lines: &[&str], i: usize) -> Option<ParsedTraces> {
    let (thread, event) = head(lines[i])?;
    let mut next = i + 1;
    let (reason, place) = if event.starts_with("has overflowed its stack") {
        ("stack overflow".to_owned(), "")
    } else {
        let event = event.strip_prefix("panicked at ")?;
        match event.strip_prefix('\'') {
            Some(message) => old_message(lines, &mut next, message),
            None => (new_message(lines, &mut next), event.trim_end_matches(':')),
        }
    };
    let mut frames = backtrace(lines, &mut next);
    if frames.is_empty() && !place.is_empty() {
        frames.push(place.to_owned());
    }
    let thread = Some(thread.to_owned()).filter(|name| name != "<unnamed>");
    let trace = StackTrace { language: "rust".into(), reason, frames, thread };
    Some(ParsedTraces { traces: vec![trace], next })
}

/// The name of the thread, and the event.
fn head(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_at_checked(line.find("thread '")? + "thread '".len())?;
    let (name, rest) = rest.split_once('\'')?;
    let rest = rest.trim_start();
    // Newer versions print the id of the thread after its name.
    let event = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(") ")?.1,
        None => rest,
    };
    (event.starts_with("panicked at ") || event.starts_with("has overflowed")).then_some((name, event))
}

/// `MESSAGE', FILE:LINE:COL`, where the message may have several lines.
fn old_message<'a>(lines: &[&'a str], next: &mut usize, first: &'a str) -> (String, &'a str) {
    let mut reason = String::new();
    let mut line = first;
    for _ in 0..MESSAGE_LINES_MAX {
        if let Some((end, place)) = line.rsplit_once("', ") {
            reason.push_str(end);
            return (reason, place);
        }
        reason.push_str(line);
        let Some(following) = lines.get(*next) else { break };
        reason.push('\n');
        line = following;
        *next += 1;
    }
    (reason, "")
}

/// The lines up to the backtrace or the note about it. Without either, normal log lines may follow directly: then the
/// message is one line, with the two sides of an assertion.
fn new_message(lines: &[&str], next: &mut usize) -> String {
    let ahead = &lines[*next..lines.len().min(*next + MESSAGE_LINES_MAX)];
    let ends = |line: &&str| *line == "stack backtrace:" || line.starts_with("note: ");
    let side = |line: &&&str| line.starts_with("  left: ") || line.starts_with(" right: ");
    let count = match ahead.iter().position(ends) {
        Some(end) => end,
        None => ahead.len().min(1) + ahead.iter().skip(1).take_while(side).count(),
    };
    *next += count;
    ahead[..count].join("\n")
}

/// `   0: FUNCTION`, each with `             at FILE:LINE:COL` below it if the place is known.
fn backtrace(lines: &[&str], next: &mut usize) -> Vec<String> {
    let mut frames: Vec<(String, &str)> = Vec::new();
    if lines.get(*next) == Some(&"stack backtrace:") {
        *next += 1;
        while let Some(line) = lines.get(*next) {
            let text = line.trim_start();
            if let Some(place) = text.strip_prefix("at ") {
                if let Some((_, known)) = frames.last_mut() {
                    *known = place;
                }
            } else if let Some(function) = numbered(text) {
                frames.push((without_hashes(function), ""));
            } else if !text.starts_with("[... omitted") {
                break;
            }
            *next += 1;
        }
    }
    while lines.get(*next).is_some_and(|line| line.starts_with("note: ")) {
        *next += 1;
    }
    frames.iter().map(|(function, place)| frame(function, place)).collect()
}

/// The function in `0: name` or `0:     0x55e0c0 - name`.
fn numbered(text: &str) -> Option<&str> {
    let (number, rest) = text.split_once(':')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    match rest.split_once(" - ") {
        Some((address, function)) if address.starts_with("0x") => Some(function),
        _ => Some(rest),
    }
}

/// Removes hashes: `std[e28293b1aa0f68bd]::f` and `std::f::h0123456789abcdef` both become `std::f`.
fn without_hashes(function: &str) -> String {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let function = match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hex(hash) => name,
        _ => function,
    };
    let mut out = String::new();
    let mut rest = function;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once(']') {
            Some((hash, behind)) if (12..=16).contains(&hash.len()) && hex(hash) => rest = behind,
            _ => {
                out.push('[');
                rest = after;
            }
        }
    }
    out + rest
}
