//! Ruby: `FILE:LINE:in 'METHOD': MESSAGE (CLASS)`, then `\tfrom FILE:LINE:in 'METHOD'` per frame; then perhaps the same
//! again for its cause. On a terminal, some versions print the frames first: `Traceback (most recent call last):`, then
//! `\t2: from …`, outermost first. Loggers print `MESSAGE (CLASS)` or `CLASS (MESSAGE):`, then the frames.

use super::language::{Chain, Fault, Head, Language, MESSAGE_LINES_MAX, frame, frames, trace};
use super::lines::Lines;

pub(super) const RUBY: Language = Language {
    name: "ruby",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: false,
    library: &[],
    library_places: &["(<internal:"],
};

/// Above frames that are printed outermost first.
const REVERSED: &str = "Traceback (most recent call last):";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    if head.reason == REVERSED {
        return reversed(lines, at + 1);
    }
    let line = lines.get(at)?;
    if raised(line).is_none() {
        // From a logger: the frames follow directly, or behind an empty line.
        let blank = lines.get(at + 1).is_some_and(|line| line.trim().is_empty());
        let mut next = at + 1 + usize::from(blank);
        let stack = frames(&RUBY, lines, &mut next);
        let reason = head.reason.strip_suffix(':').unwrap_or(head.reason).trim();
        let reason = reason.rsplit_once(" -- : ").map_or(reason, |(_, reason)| reason);
        return (!stack.is_empty()).then(|| (Fault::single(trace(&RUBY, reason, stack)), next));
    }
    let (mut chain, mut next) = (Chain::default(), at);
    while let Some((place, first)) = lines.get(next).and_then(raised) {
        next += 1;
        let mut reason = first.to_owned();
        // More lines of the message, if frames come behind them.
        let from =
            (next..next + MESSAGE_LINES_MAX).find(|at| lines.get(*at).is_some_and(|it| it.starts_with("\tfrom ")));
        for at in next..from.unwrap_or(next) {
            reason.push('\n');
            reason.push_str(lines.get(at).unwrap_or_default());
        }
        next = from.unwrap_or(next);
        let mut stack = vec![place];
        while let Some(frame) = lines.get(next).filter(|line| line.starts_with("\tfrom ")).and_then(located) {
            stack.push(frame);
            next += 1;
        }
        chain.push(trace(&RUBY, reason, stack));
    }
    Some((chain.thrown_first(), next))
}

/// Frames, outermost first, each with its number, then the message.
fn reversed(lines: &Lines<'_>, mut next: usize) -> Option<(Fault, usize)> {
    let mut stack = Vec::new();
    while let Some(line) = lines.get(next).filter(|line| line.starts_with('\t') && line.contains(": from ")) {
        stack.extend(located(line));
        next += 1;
    }
    let (place, reason) = lines.get(next).and_then(raised).filter(|_| !stack.is_empty())?;
    stack.push(place);
    stack.reverse();
    Some((Fault::single(trace(&RUBY, reason, stack)), next + 1))
}

fn head(line: &str) -> Option<Head<'_>> {
    let logged = line.ends_with("):") || (line.ends_with(')') && line.contains(" ("));
    (line == REVERSED || logged || raised(line).is_some()).then(|| Head::new(line))
}

/// The frame and the message of `FILE:LINE:in 'METHOD': MESSAGE (CLASS)`.
fn raised(line: &str) -> Option<(String, &str)> {
    let quote = line.find(":in `").or_else(|| line.find(":in '"))?;
    let (_, behind) = line.split_at_checked(quote + ":in `".len())?;
    let end = behind.find("': ")?;
    let frame = located(line.get(..quote + ":in `".len() + end + 1)?)?;
    let message = behind.get(end + "': ".len()..)?;
    (!message.is_empty()).then_some((frame, message))
}

/// The frame of `\tfrom FILE:LINE:in 'METHOD'`.
fn located(line: &str) -> Option<String> {
    let text = match line.split_once("from ") {
        Some((front, text)) if front.chars().all(|c| c.is_whitespace() || c.is_ascii_digit() || c == ':') => text,
        _ => line.trim(),
    };
    let (place, method) = text.split_once(":in `").or_else(|| text.split_once(":in '"))?;
    let method = method.strip_suffix('\'')?;
    let (file, number) = place.rsplit_once(':')?;
    let known = !file.is_empty() && !file.starts_with(' ') && number.parse::<u32>().is_ok();
    known.then(|| frame(method, place))
}
