//! Compares one line with the table of languages.

use super::language::{Fault, frames, headless};
use super::lines::Lines;
use super::table::LANGUAGES;

/// Maximum number of lines above the first frame.
const BARE_LINES_MAX: usize = 3;

/// The fault that begins with line `next`, which is moved behind it, or behind that line.
pub(super) fn take(lines: &Lines<'_>, next: &mut usize) -> Option<Fault> {
    let at = *next;
    let read = LANGUAGES.iter().find_map(|it| (it.read)(lines, at, (it.head)(lines.get(at)?)?));
    let read = read.or_else(|| LANGUAGES.iter().find_map(|it| headless(it, lines, at)));
    *next = read.as_ref().map_or(0, |(_, end)| *end).max(at + 1);
    read.map(|(fault, _)| fault)
}

/// The language of the frames in a text without a head, and the frames.
pub(super) fn bare(text: &str) -> Option<(&'static str, Vec<String>)> {
    let lines = Lines::of(text);
    // Above the frames may stand an empty line, or the name of a thread.
    (0..BARE_LINES_MAX).find_map(|at| {
        LANGUAGES.iter().find_map(|it| {
            let mut next = at;
            let frames = frames(it, &lines, &mut next);
            (!frames.is_empty()).then_some((it.name, frames))
        })
    })
}
