//! Go: `panic: REASON` or `fatal error: REASON`, then one block per goroutine: `goroutine N [STATE]:`, and for each
//! frame a line with the call and below it `\tFILE:LINE +0xOFFSET`. A server prints `http: panic serving ADDRESS: REASON`.

use super::language::{Fault, Head, Language, frame, frames, trace};
use super::lines::Lines;

pub(super) const GO: Language = Language {
    name: "go",
    head,
    frame: located,
    read,
    headless: false,
    library: &["runtime.", "internal/runtime/", "panic (", "runtime/debug.", "net/http.", "testing."],
    library_places: &[],
};

/// Maximum number of lines between the reason and the first goroutine: the signal, repeated panics, the runtime's own
/// stack.
const HEAD_LINES_MAX: usize = 64;
/// Maximum number of goroutines. A server has thousands; the first one has panicked.
const GOROUTINES_MAX: usize = 4;
/// In front of the address of a client, and the reason.
const SERVING: &str = "http: panic serving ";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let mut reason = head.reason;
    let mut next = at + 1;
    while lines.get(next).and_then(state).is_none() {
        // If a recovered value was panicked again, it is on a line of its own, and the last one counts.
        reason = lines.get(next).and_then(|line| line.strip_prefix("\tpanic: ")).unwrap_or(reason);
        next += 1;
        if next > at + HEAD_LINES_MAX || lines.get(next).is_none() {
            return None;
        }
    }
    for note in [" [recovered]", " [recovered, repanicked]"] {
        reason = reason.strip_suffix(note).unwrap_or(reason);
    }
    let mut traces = Vec::new();
    while let Some(thread) = lines.get(next).and_then(state) {
        next += 1;
        let mut stack = frames(&GO, lines, &mut next);
        while created(lines, &mut next) {
            stack.extend(frames(&GO, lines, &mut next));
        }
        if traces.len() < GOROUTINES_MAX {
            let mut trace = trace(&GO, reason, stack);
            trace.thread = Some(thread);
            traces.push(trace);
        }
        if lines.get(next).is_some_and(str::is_empty) && lines.get(next + 1).and_then(state).is_some() {
            next += 1;
        }
    }
    // The goroutine that panicked is printed first, and it is the most important.
    traces.reverse();
    let main = traces.len() - 1;
    Some((Fault { traces, main, root: main }, next))
}

fn head(line: &str) -> Option<Head<'_>> {
    let fatal = line.strip_prefix("panic: ").or_else(|| line.strip_prefix("fatal error: "));
    let served = || line.split_once(SERVING)?.1.split_once(": ").map(|(_, reason)| reason);
    fatal.or_else(served).map(Head::new)
}

/// `goroutine 17 [running]` from its heading, without the addresses that some settings add.
fn state(line: &str) -> Option<String> {
    let heading = line.strip_suffix(':')?.strip_prefix("goroutine ")?;
    let (number, state) = heading.split_once(' ')?;
    let state = if state.starts_with("gp=") { state.get(state.find('[')?..)? } else { state };
    (state.starts_with('[') && state.ends_with(']')).then(|| format!("goroutine {number} {state}"))
}

/// True if the next lines are no frame but belong to the stack: where the goroutine was created, or how many frames are
/// left out. `next` is moved behind them.
fn created(lines: &Lines<'_>, next: &mut usize) -> bool {
    let Some(line) = lines.get(*next) else { return false };
    let place = lines.get(*next + 1).is_some_and(|place| place.starts_with('\t'));
    let count = match () {
        () if line.starts_with("created by ") && place => 2,
        () if line.starts_with("...") && line.ends_with("frames elided...") => 1,
        () => 0,
    };
    *next += count;
    count > 0
}

/// `main.(*Server).lookup(...)` or `main.f({0x1, 0x2}, 0x3)`, and below it the place.
fn located(lines: &Lines<'_>, at: usize) -> Option<(String, usize)> {
    let call = lines.get(at)?;
    let place = lines.get(at + 1)?.strip_prefix('\t')?;
    if call.starts_with([' ', '\t']) || call.starts_with("created by ") || call.is_empty() {
        return None;
    }
    // The last parentheses contain the arguments.
    let function = call.rfind('(').filter(|_| call.ends_with(')')).map_or(call, |at| &call[..at]);
    let place = place.split_once(" +0x").map_or(place, |(place, _)| place);
    place.rsplit_once(':')?.1.parse::<u32>().ok()?;
    Some((frame(function, place), 2))
}
