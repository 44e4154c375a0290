//! Python: `Traceback (most recent call last):`, then two or three lines per frame, outermost first, then `TYPE:
//! MESSAGE`. Chained exceptions are printed one after the other; the uncaught one is last. An exception group has `|` and
//! `+` in front of each line; the exceptions in it follow, each below its number. `Fatal Python error: …` comes from the
//! interpreter itself, innermost frame first.

use crate::interface::types::StackTrace;

use super::language::{Chain, Fault, Head, Language, MESSAGE_LINES_MAX, frame, trace};
use super::lines::Lines;

pub(super) const PYTHON: Language = Language {
    name: "python",
    head,
    frame: |lines, at| Some((located(lines.get(at)?.trim_start().strip_prefix("File ")?)?, 1)),
    read,
    headless: false,
    library: &[],
    library_places: &["(<frozen ", "/asyncio/taskgroups.py:"],
};

const HEADS: [&str; 2] = ["Exception Group Traceback (most recent call last):", "Traceback (most recent call last):"];
/// Of the interpreter itself.
const FATAL: &str = "Fatal Python error: ";
/// Between an exception and the one that was raised from it: the first one is the cause.
const DIRECT: &str = "The above exception was the direct cause of the following exception:";
/// Between an exception and another one that was raised while it was handled. The first one was expected, or the handler
/// has hidden it: it need not be the cause.
const DURING: &str = "During handling of the above exception, another exception occurred:";

/// Maximum number of exceptions of one chain or group that are kept.
const LINKED_MAX: usize = 12;

/// How a traceback belongs to the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It was raised from the one before it.
    Direct,
    /// It was raised while the one before it was handled.
    During,
    /// It begins an exception of the group before it.
    Member,
}

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    if lines.get(at)?.starts_with(FATAL) {
        return Some(fatal(lines, at + 1, head.reason));
    }
    let (first, mut next) = traceback(lines, at)?;
    let mut all = vec![(first, Link::During)];
    while let Some((link, at)) = linked(lines, next) {
        let Some((trace, behind)) = traceback(lines, at) else { break };
        next = behind;
        // Of a chain or a group that is too long, the first ones and the last one are kept.
        all.truncate(LINKED_MAX - 1);
        all.push((trace, link));
    }
    all.retain(|(trace, _)| !trace.frames.is_empty() || !trace.reason.is_empty());
    // The thrown exception is the last one before the members of a group. The first member and its causes say why.
    let members = |from: usize| all.iter().skip(from).position(|it| it.1 == Link::Member).map(|at| from + at);
    let first = members(0).filter(|first| *first > 0);
    let main = first.unwrap_or(all.len()).checked_sub(1)?;
    let mut root = first.map_or(main, |first| members(first + 1).unwrap_or(all.len()) - 1);
    while root > 0 && all.get(root).is_some_and(|it| it.1 == Link::Direct) {
        root -= 1;
    }
    Some((Fault { traces: all.into_iter().map(|it| it.0).collect(), main, root }, next))
}

fn head(line: &str) -> Option<Head<'_>> {
    line.strip_prefix(FATAL).or_else(|| HEADS.iter().any(|head| line.ends_with(head)).then_some("")).map(Head::new)
}

/// True for the lines of a group, in front of each of its lines.
fn is_drawing(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| b" |+-".contains(&byte))
}

fn traceback(lines: &Lines<'_>, at: usize) -> Option<(StackTrace, usize)> {
    let line = lines.get(at)?;
    let column = HEADS.iter().find_map(|head| line.strip_suffix(head).map(str::len))?;
    // In front of it is nothing, a logger's prefix, or the lines of a group, which the following lines have, too.
    let column = if is_drawing(line.get(..column)?) { column } else { 0 };
    let (mut frames, mut reason, mut next) = (Vec::new(), String::new(), at + 1);
    while let Some(line) = lines.get(next) {
        let Some((front, line)) = line.split_at_checked(column) else { break };
        if column > 0 && !is_drawing(front) {
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
    Some((trace(&PYTHON, reason, frames), next))
}

/// How the next traceback belongs to the one that ends before `next`, and the index of its head.
fn linked(lines: &Lines<'_>, next: usize) -> Option<(Link, usize)> {
    let mut link = None;
    for at in next..next + MESSAGE_LINES_MAX {
        let text = lines.get(at)?.trim_start_matches([' ', '|', '+', '-']);
        if HEADS.contains(&text) {
            return link.map(|link| (link, at));
        }
        link = match () {
            () if text == DIRECT => Some(Link::Direct),
            () if text == DURING => Some(Link::During),
            // `+-+---------------- 1 ----------------`
            () if text.ends_with("----") && text.trim_end_matches('-').trim_end().parse::<u32>().is_ok() => {
                Some(Link::Member)
            }
            () => link,
        };
    }
    None
}

/// The frame of `"PATH", line N, in FUNCTION`, or of `"PATH", line N in FUNCTION` in the interpreter's fatal errors.
fn located(place: &str) -> Option<String> {
    let (path, rest) = place.strip_prefix('"')?.split_once("\", line ")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (line, rest) = rest.split_at(digits);
    let function = rest.strip_prefix(", in ").or_else(|| rest.strip_prefix(" in ")).unwrap_or("<module>");
    Some(frame(function, &format!("{path}:{line}")))
}

fn fatal(lines: &Lines<'_>, mut next: usize, reason: &str) -> (Fault, usize) {
    // The reason, perhaps a line about the state of the interpreter, an empty line, then a block per thread.
    const BLANKS_MAX: usize = 3;
    let mut traces: Vec<StackTrace> = Vec::new();
    let mut plain = 0;
    while let Some(line) = lines.get(next) {
        if let Some(heading) = line.strip_suffix(" (most recent call first):") {
            let mut thread = trace(&PYTHON, reason, Vec::new());
            thread.thread = Some(if heading.starts_with("Current thread") { "current" } else { "other" }.to_owned());
            traces.push(thread);
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
    // The thread that failed is the most important.
    let mut chain = Chain::default();
    let current = traces.iter().position(|trace| trace.thread.as_deref() != Some("other"));
    let failed = current.map(|at| traces.remove(at)).unwrap_or_else(|| trace(&PYTHON, reason, Vec::new()));
    traces.into_iter().for_each(|other| chain.aside(other));
    chain.push(failed);
    (chain.thrown_first(), next)
}
