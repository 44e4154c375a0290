//! Rust: `thread 'NAME' (ID) panicked at FILE:LINE:COL:` with the message below it (since 1.73), or `thread 'NAME'
//! panicked at 'MESSAGE', FILE:LINE:COL` (before); then, if enabled, `stack backtrace:`. A `main` that returns an error
//! prints `Error: MESSAGE`, and with `anyhow` below it `Caused by:` and perhaps `Stack backtrace:`.

use super::language::{Chain, Fault, Head, Language, MESSAGE_LINES_MAX, frame, trace};
use super::lines::Lines;

pub(super) const RUST: Language = Language {
    name: "rust",
    head,
    frame: |lines, at| {
        let function = numbered(lines.get(at)?.trim_start()).filter(|it| !it.is_empty())?;
        let place = lines.get(at + 1).and_then(|line| line.trim_start().strip_prefix("at "));
        Some((frame(&without_hashes(function), place.unwrap_or_default()), 1 + usize::from(place.is_some())))
    },
    read,
    headless: false,
    library: &["__rustc::", "rust_begin_unwind", "core::", "<core::", "std::", "<std::", "anyhow::", "<anyhow::"],
    library_places: &["(/rustc/"],
};

/// Beginnings of messages of the runtime that ends a process without a panic.
const FATAL: [&str; 2] = ["memory allocation of ", "fatal runtime error: "];
/// Below the message that a thread has overflowed its stack.
const OVERFLOW: &str = "fatal runtime error: stack overflow";
/// In front of the error that `main` returned.
const RETURNED: &str = "Error: ";
/// Maximum number of causes of such an error that are read.
const CAUSES_MAX: usize = 32;

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let line = lines.get(at)?;
    if line.starts_with(RETURNED) {
        return returned(lines, at, head.reason);
    }
    let Some(name) = head.thread else { return Some((Fault::single(trace(&RUST, line, Vec::new())), at + 1)) };
    let mut next = at + 1;
    let (reason, place) = match head.reason.strip_prefix("panicked at ") {
        None => {
            next += usize::from(lines.get(next).is_some_and(|line| line.starts_with(OVERFLOW)));
            ("stack overflow".to_owned(), "")
        }
        Some(event) => match event.strip_prefix('\'') {
            Some(message) => old_message(lines, &mut next, message),
            None => (new_message(lines, &mut next), event.trim_end_matches(':')),
        },
    };
    let mut frames = backtrace(lines, &mut next);
    if frames.is_empty() && !place.is_empty() {
        frames.push(place.to_owned());
    }
    let mut trace = trace(&RUST, reason, frames);
    trace.thread = Some(name.to_owned()).filter(|name| name != "<unnamed>");
    Some((Fault::single(trace), next))
}

/// The name of the thread and the event, or a fatal error.
fn head(line: &str) -> Option<Head<'_>> {
    if FATAL.iter().any(|it| line.starts_with(it)) {
        return Some(Head::new(line));
    }
    panic(line).or_else(|| line.strip_prefix(RETURNED).map(Head::new))
}

fn panic(line: &str) -> Option<Head<'_>> {
    let (_, rest) = line.split_at_checked(line.find("thread '")? + "thread '".len())?;
    let (name, rest) = rest.split_once('\'')?;
    let rest = rest.trim_start();
    // Newer versions print the id of the thread after its name.
    let event = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(") ")?.1,
        None => rest,
    };
    let known = event.starts_with("panicked at ") || event.starts_with("has overflowed its stack");
    known.then_some(Head { reason: event, thread: Some(name) })
}

/// An error that `main` returned, with its causes: the last one is the root.
fn returned(lines: &Lines<'_>, at: usize, reason: &str) -> Option<(Fault, usize)> {
    // Behind an empty line. Without causes, a program in any language could have printed this line.
    let mut next = at + 2;
    if lines.get(next)? != "Caused by:" {
        return None;
    }
    next += 1;
    let mut causes = vec![reason];
    while let Some(cause) =
        lines.get(next).and_then(|line| line.strip_prefix("    ")).filter(|_| causes.len() < CAUSES_MAX)
    {
        causes.push(numbered(cause.trim_start()).unwrap_or(cause).trim());
        next += 1;
    }
    if lines.get(next + 1) == Some("Stack backtrace:") {
        next += 1;
    }
    let frames = backtrace(lines, &mut next);
    let (mut chain, last) = (Chain::default(), causes.len() - 1);
    for (index, cause) in causes.into_iter().enumerate() {
        chain.push(trace(&RUST, cause, if index == last { frames.clone() } else { Vec::new() }));
    }
    Some((chain.thrown_first(), next))
}

/// `MESSAGE', FILE:LINE:COL`, where the message may have several lines.
fn old_message<'a>(lines: &Lines<'a>, next: &mut usize, first: &'a str) -> (String, &'a str) {
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
fn new_message(lines: &Lines<'_>, next: &mut usize) -> String {
    let ahead: Vec<&str> = (*next..*next + MESSAGE_LINES_MAX).map_while(|at| lines.get(at)).collect();
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
fn backtrace(lines: &Lines<'_>, next: &mut usize) -> Vec<String> {
    let mut frames = Vec::new();
    if lines.get(*next).is_some_and(|line| line.eq_ignore_ascii_case("stack backtrace:")) {
        *next += 1;
        while let Some(line) = lines.get(*next) {
            if let Some((frame, count)) = (RUST.frame)(lines, *next) {
                frames.push(frame);
                *next += count;
            } else if line.trim_start().starts_with("[... omitted") || line.trim_start().starts_with("at ") {
                *next += 1;
            } else {
                break;
            }
        }
    }
    while lines.get(*next).is_some_and(|line| line.starts_with("note: ")) {
        *next += 1;
    }
    frames
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
