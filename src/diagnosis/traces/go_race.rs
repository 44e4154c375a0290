//! Go's race detector: `WARNING: DATA RACE`, then a stack for each of two accesses, `Read at 0x… by goroutine 7:`, with two
//! lines per frame, then where the goroutines were created.

use super::language::{Fault, Head, Language, frame, frames, is_access, race};
use super::lines::Lines;

pub(super) const GO_RACE: Language = Language {
    name: "go",
    head: |line| (line == "WARNING: DATA RACE").then(|| Head::new(line)),
    frame: located,
    read,
    headless: false,
    library: &[],
    library_places: &[],
};

fn read<'a>(lines: &Lines<'a>, at: usize, _: Head<'a>) -> Option<(Fault, usize)> {
    let (mut sides, mut next) = (Vec::new(), at + 1);
    while let Some(title) = lines.get(next).filter(|line| line.is_empty() || line.ends_with(':')) {
        next += 1;
        let stack = frames(&GO_RACE, lines, &mut next);
        // The two accesses come first.
        if is_access(title) && sides.len() < 2 {
            sides.push(stack);
        }
    }
    next += usize::from(lines.get(next).is_some_and(|line| line.starts_with("==================")));
    Some((race(&GO_RACE, sides), next))
}

/// `  main.(*Store).Bump()`, and below it `      race/main.go:7 +0x35`.
fn located(lines: &Lines<'_>, at: usize) -> Option<(String, usize)> {
    let function = lines.get(at)?.strip_prefix("  ")?.strip_suffix(')')?.rsplit_once('(')?.0;
    let place = lines.get(at + 1)?.strip_prefix("      ")?;
    let place = place.split_once(" +0x").map_or(place, |(place, _)| place);
    Some((frame(function, place), 2))
}
