//! Node: `TYPE: MESSAGE`, then `    at FUNCTION (FILE:LINE:COL)` or `    at FILE:LINE:COL` per frame, then perhaps, in
//! braces, `[cause]: …` with its own frames. The engine itself ends with `FATAL ERROR: …`.

use super::language::{Chain, Fault, Head, Language, frame, frames, message, trace};
use super::lines::Lines;

pub(super) const NODE: Language = Language {
    name: "node",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: true,
    library: &["node:internal/"],
    library_places: &["(node:internal/"],
};

/// Maximum number of lines with properties between an error's frames and its cause.
const PROPERTIES_MAX: usize = 16;
/// Of the engine itself, which has no frames of the program.
const FATAL: &str = "FATAL ERROR: ";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    if lines.get(at)?.starts_with(FATAL) {
        return Some((Fault::single(trace(&NODE, head.reason, Vec::new())), at + 1));
    }
    let (mut reason, mut next) = message(&NODE, lines, at, head.reason, true)?;
    let (mut chain, mut braces) = (Chain::default(), false);
    loop {
        let mut stack = frames(&NODE, lines, &mut next);
        // `... 4 lines matching cause stack trace ...`
        while lines.get(next).is_some_and(|line| line.trim_start().starts_with("... ")) {
            next += 1;
            stack.extend(frames(&NODE, lines, &mut next));
        }
        chain.push(trace(&NODE, reason, stack));
        braces |= lines.get(next - 1).is_some_and(|line| line.ends_with('{'));
        let Some((cause, behind)) = cause(lines, next) else { break };
        (reason, next) = (cause.to_owned(), behind);
    }
    // The other errors of an aggregate, and properties, up to the brace that closes the first error.
    while braces && lines.get(next).is_some_and(|line| line.starts_with(' ')) {
        next += 1;
    }
    next += usize::from(braces && lines.get(next) == Some("}"));
    // The outer error is printed first, and its root cause last.
    Some((chain.thrown_first(), next))
}

/// The cause that is printed behind the frames which end before `next`, and the index of the line after its message.
fn cause<'a>(lines: &Lines<'a>, next: usize) -> Option<(&'a str, usize)> {
    let first = lines.get(next)?;
    if let Some(cause) = first.strip_prefix("caused by: ") {
        return Some((cause, next + 1));
    }
    // Only an error that continues in braces or brackets has properties; one of them may be its cause.
    if !lines.get(next.checked_sub(1)?)?.ends_with(['{', '[']) {
        return None;
    }
    for at in next..next + PROPERTIES_MAX {
        let line = lines.get(at)?;
        let text = line.strip_prefix("  ")?.trim_start();
        if let Some(cause) = text.strip_prefix("[cause]: ") {
            let bare = cause.strip_suffix(" {").unwrap_or(cause);
            let bare = bare.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(bare);
            return Some((bare, at + 1));
        }
        // An error in the list of an aggregate.
        if error(text).is_some() && lines.get(at + 1).and_then(located).is_some() {
            return Some((text, at + 1));
        }
    }
    None
}

fn head(line: &str) -> Option<Head<'_>> {
    line.strip_prefix(FATAL).or_else(|| error(line)).map(Head::new)
}

/// The error, if the line begins with the name of one: `TypeError: …`, `Uncaught Error [ERR_X]: …`.
fn error(line: &str) -> Option<&str> {
    let line = line.strip_prefix("Uncaught ").unwrap_or(line);
    let name = line.split([':', ' ']).next()?;
    let identifier = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
    let behind = line.get(name.len()..)?;
    let ends = behind.is_empty() || behind.starts_with(':') || behind.starts_with(" [");
    (identifier && ends && name.starts_with(char::is_uppercase)).then_some(line)
}

fn located(line: &str) -> Option<String> {
    let text = line.strip_prefix("    ")?.trim_start().strip_prefix("at ")?;
    let text = text.strip_suffix(" {").or_else(|| text.strip_suffix(',')).unwrap_or(text);
    let text = text.strip_prefix("async ").unwrap_or(text);
    let (function, place) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, place)) => (function, place),
        None => ("", text),
    };
    // `new Promise (<anonymous>)`, `Array.map (native)` and `Promise.all (index 0)` have no line number; every other
    // place has one.
    let known = place.starts_with('<') || place == "native" || place.starts_with("index ");
    (known || place.rsplit_once(':')?.1.parse::<u32>().is_ok()).then(|| frame(function, place))
}
