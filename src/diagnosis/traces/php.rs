//! PHP: `PHP Fatal error:  Uncaught TYPE: MESSAGE in FILE:LINE`, `Stack trace:`, then `#0 FILE(LINE): FUNCTION()` per call,
//! up to `{main}`; then perhaps `Next TYPE: …`, the exception around it, which was thrown. Other fatal errors are `MESSAGE
//! in FILE on line N`. Monolog prints `[object] (TYPE(code: N): MESSAGE at FILE:LINE)` and `[stacktrace]`.

use super::language::{Chain, Fault, Head, Language, MESSAGE_LINES_MAX, frame, trace};
use super::lines::Lines;

pub(super) const PHP: Language = Language {
    name: "php",
    head,
    frame: |lines, at| {
        let (place, function) = call(lines.get(at)?)?;
        Some((frame(function, &place), 1))
    },
    read,
    headless: false,
    library: &[],
    library_places: &["([internal function])"],
};

/// In front of the message of a fatal error, and of the exception in a line of Monolog.
const HEADS: [&str; 5] = ["PHP Fatal error:  ", "Fatal error: ", "PHP Parse error:  ", "Parse error: ", "[object] ("];

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let Some(mut next) = stack_of(lines, at) else {
        let (reason, place) = fatal(head.reason)?;
        return Some((Fault::single(trace(&PHP, reason, vec![place])), at + 1));
    };
    let mut text = head.reason.strip_prefix("Uncaught ").unwrap_or(head.reason).to_owned();
    for more in at + 1..next {
        text.push('\n');
        text.push_str(lines.get(more).unwrap_or_default());
    }
    let mut chain = Chain::default();
    loop {
        next += 1;
        let (reason, thrown) = thrown(&text);
        let mut stack = Vec::new();
        // Each call has the place from which its function was called: the function before it was there.
        let mut place = thrown;
        while let Some((caller, function)) = lines.get(next).and_then(call) {
            stack.push(frame(function, &place));
            place = caller;
            next += 1;
        }
        if stack.is_empty() {
            stack.push(place);
        }
        chain.push(trace(&PHP, reason, stack));
        // The exception around it follows behind an empty line.
        let around = lines.get(next + 1).and_then(|line| line.strip_prefix("Next "));
        let Some((around, end)) = around.zip(stack_of(lines, next + 1)) else { break };
        (text, next) = (around.to_owned(), end);
    }
    if lines.get(next).is_some_and(|line| line.starts_with("  thrown in ")) {
        next += 1;
    }
    Some((chain.thrown_last(), next))
}

fn head(line: &str) -> Option<Head<'_>> {
    let (at, form) = HEADS.iter().find_map(|form| Some((line.find(form)?, form)))?;
    line.get(at + form.len()..).map(|reason| Head::new(reason.trim_start()))
}

/// The index of the line above the calls, within the lines of a message.
fn stack_of(lines: &Lines<'_>, at: usize) -> Option<usize> {
    (at + 1..at + MESSAGE_LINES_MAX)
        .find(|at| lines.get(*at).is_some_and(|it| it == "Stack trace:" || it == "[stacktrace]"))
}

/// The message and the place of `MESSAGE in FILE on line N`.
fn fatal(text: &str) -> Option<(&str, String)> {
    let (front, line) = text.rsplit_once(" on line ")?;
    let (message, file) = front.rsplit_once(" in ")?;
    let line = line.trim_end().parse::<u32>().ok()?;
    Some((message, format!("{file}:{line}")))
}

/// The reason and the place of `TYPE: MESSAGE in FILE:LINE`, or of Monolog's `TYPE(code: N): MESSAGE at FILE:LINE)`.
fn thrown(text: &str) -> (String, String) {
    let text = text.trim_end().trim_end_matches(')');
    let parts = text.rsplit_once(" in ").into_iter().chain(text.rsplit_once(" at "));
    // PHP itself ends some messages with `… and defined in FILE:LINE`.
    let known =
        parts.into_iter().find(|(_, place)| place.rsplit_once(':').is_some_and(|it| it.1.parse::<u32>().is_ok()));
    match known {
        Some((reason, place)) => {
            let reason = match reason.split_once("(code: ") {
                Some((kind, rest)) => format!("{kind}{}", rest.split_once(')').map_or("", |it| it.1)),
                None => reason.to_owned(),
            };
            (reason, place.to_owned())
        }
        None => (text.to_owned(), String::new()),
    }
}

/// The place and the function of `#0 FILE(LINE): FUNCTION()`, `#1 [internal function]: f()` and `#2 {main}`.
fn call(line: &str) -> Option<(String, &str)> {
    let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
    number.parse::<u32>().ok()?;
    if rest.starts_with("{main}") {
        return Some((String::new(), "{main}"));
    }
    let (place, function) = rest.split_once(": ")?;
    let function = function.split_once('(').map_or(function, |(function, _)| function);
    let place = match place.strip_suffix(')').and_then(|it| it.rsplit_once('(')) {
        Some((file, line)) => format!("{file}:{line}"),
        None if place == "[internal function]" => place.to_owned(),
        None => return None,
    };
    Some((place, function))
}
