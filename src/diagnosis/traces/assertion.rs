//! C: ``PROGRAM: FILE:LINE: FUNCTION: Assertion `CONDITION' failed.``, from the C library's `assert`.

use super::language::{Fault, Head, Language, frame, trace};
use super::lines::Lines;

pub(super) const ASSERTION: Language =
    Language { name: "c", head, frame: |_, _| None, read, headless: false, library: &[], library_places: &[] };

const MARK: &str = ": Assertion `";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let (front, _) = lines.get(at)?.split_once(MARK)?;
    // The program and the function may be missing; the place is never.
    let parts: Vec<&str> = front.splitn(3, ": ").collect();
    let place = parts.iter().position(|part| part.rsplit_once(':').is_some_and(|it| it.1.parse::<u32>().is_ok()))?;
    let function = parts.get(place + 1).copied().unwrap_or_default();
    let stack = vec![frame(function, parts.get(place)?)];
    Some((Fault::single(trace(&ASSERTION, head.reason, stack)), at + 1))
}

fn head(line: &str) -> Option<Head<'_>> {
    let at = line.find(MARK)? + ": ".len();
    let reason = line.get(at..)?.strip_suffix("' failed.")?;
    // With the closing quote, without the full stop.
    line.get(at..at + reason.len() + "' failed".len()).map(Head::new)
}
