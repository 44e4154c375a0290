//! The lines of a text, as the parsers see them.

#[cfg(test)]
use std::cell::Cell;

/// Maximum length of a line that parsers see, in bytes: a message can carry a whole request.
pub(super) const LINE_LOOK_MAX: usize = 8 << 10;

/// The lines of a text, without timestamps.
pub(super) struct Lines<'a> {
    lines: Vec<&'a str>,
    /// How many lines the parsers have asked for, for the test that this grows no faster than the text.
    #[cfg(test)]
    pub looks: Cell<usize>,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Self {
        Self {
            lines: text.lines().map(without_timestamp).collect(),
            #[cfg(test)]
            looks: Cell::new(0),
        }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The beginning of a line.
    pub fn get(&self, at: usize) -> Option<&'a str> {
        let line = self.whole(at)?;
        Some(&line[..line.floor_char_boundary(LINE_LOOK_MAX)])
    }

    /// A line, however long it is. Ask for it once.
    pub fn whole(&self, at: usize) -> Option<&'a str> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.lines.get(at).copied()
    }
}

/// A line without the timestamp (`2026-11-22T15:01:10.250Z `) and the stream name that a logger may have put in front
/// of it.
fn without_timestamp(line: &str) -> &str {
    let bytes = line.as_bytes();
    let dated = bytes.len() > 20 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[10] == b'T';
    let Some((_, rest)) = line.split_once(' ').filter(|_| dated) else { return line };
    let stream = ["stderr", "stdout", "err", "out"].iter().find_map(|name| rest.strip_prefix(name));
    stream.and_then(|rest| rest.strip_prefix([' ', ':', '|']).or(rest.is_empty().then_some(""))).unwrap_or(rest)
}
