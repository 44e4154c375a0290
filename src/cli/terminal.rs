//! Escapes text for a terminal. Text of other people, builders and programs can move the cursor, change colours, and make words
//! read in another order.
//!
//! Control characters, direction marks and invisible characters become visible escapes (`\u{202e}`). Whole ANSI sequences, which
//! builders print, are removed. [`super::ui`] passes all its output through this module, so a new view cannot forget it.
//!
//! rei's own styles become ANSI sequences only here: [`look`] puts a mark around a text, and [`shown`] turns the mark into a
//! sequence. The mark differs with each process, so text of others cannot pretend to be rei's own.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::io;
use std::sync::LazyLock;

/// The characters of a mark: 32 to the power of 12 marks exist, too many to guess one.
const MARK_CHARS: u64 = 12;
/// The first of the characters that Unicode reserves for use inside a program.
const MARK_FIRST: u32 = 0xfdd0;

/// The mark of this process.
static MARK: LazyLock<String> = LazyLock::new(|| {
    // Each `RandomState` of the standard library has its own random keys.
    let state = RandomState::new();
    let chars = (0..MARK_CHARS).map(|n| MARK_FIRST + (state.hash_one(n) % 32) as u32);
    chars.filter_map(char::from_u32).collect()
});

/// A text in a style, given by its SGR parameters. Only [`shown`] can display it.
pub fn look(sgr: &'static str, text: &str) -> String {
    let mark = &*MARK;
    format!("{mark}{sgr}m{text}{mark}0m")
}

/// The output for a terminal: rei's own styles become ANSI sequences, and everything else is escaped as in [`text`].
pub fn shown(page: &str) -> String {
    let mut parts = page.split(MARK.as_str());
    let mut out = text(parts.next().unwrap_or_default());
    for part in parts {
        // Only `look` writes the mark, so an SGR parameter follows it.
        let (sgr, rest) = part.split_once('m').unwrap_or(("0", part));
        let _ = write!(out, "\x1b[{sgr}m"); // cannot fail for a String
        out.push_str(&text(rest));
    }
    out
}

/// A writer that escapes lines of JSON for a terminal.
pub struct JsonLines<W: io::Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: io::Write> JsonLines<W> {
    /// A writer that passes the escaped lines on to `to`.
    pub fn new(to: W) -> Self {
        Self { to, line: Vec::new() }
    }
}

impl<W: io::Write> io::Write for JsonLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.to.write_all(json(&String::from_utf8_lossy(&line)).as_bytes())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether a character is dangerous or misleading on a terminal. Newlines and tabs do not count; the caller handles them.
pub fn is_dangerous(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Directions: marks, embeddings, overrides, isolates.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Invisible: joiners, fillers, separators, deprecated controls, annotations, beams and slurs, tags, selectors.
        | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with visible escapes and without ANSI sequences. Newlines and tabs stay; the carriage return at the end of a line is
/// removed.
pub fn text(text: &str) -> String {
    if !text.contains(is_dangerous) {
        return text.to_owned();
    }
    let plain = without_ansi(text);
    let mut out = String::with_capacity(plain.len());
    let mut chars = plain.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            c if is_dangerous(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c)); // cannot fail for a String
            }
            c => out.push(c),
        }
    }
    out
}

/// The same on one line: newlines and tabs become spaces.
pub fn line(text: &str) -> String {
    self::text(text).replace(['\n', '\t'], " ")
}

/// JSON with every dangerous character as an escape: a parser reads the same value.
pub fn json(json: &str) -> String {
    // The structure of JSON is plain ASCII, so such a character is inside a string. serde_json already escapes the ones below space.
    if !json.contains(is_dangerous) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_dangerous(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}"); // cannot fail for a String
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The text without ANSI escape sequences. An incomplete sequence stays.
fn without_ansi(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        match sequence(after) {
            Some(length) => rest = &after[length..],
            None => {
                out.push('\u{1b}');
                rest = after;
            }
        }
    }
    out + rest
}

/// The length of the escape sequence whose escape character stands before `text`; `None` if the sequence is incomplete or unknown.
fn sequence(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.first()? {
        // Parameters and intermediates, then one final byte.
        b'[' => {
            let end = 1 + bytes[1..].iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
            (0x40..=0x7e).contains(&bytes[end]).then_some(end + 1)
        }
        // A title or link, up to a bell or `ESC \`, on its line.
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let end = bytes.iter().position(|byte| [b'\x07', b'\x1b', b'\n'].contains(byte))?;
            match bytes[end] {
                b'\x07' => Some(end + 1),
                b'\x1b' if bytes.get(end + 1) == Some(&b'\\') => Some(end + 2),
                _ => None,
            }
        }
        // A character set.
        b'(' | b')' => bytes.get(1).is_some_and(u8::is_ascii_alphanumeric).then_some(2),
        b'7' | b'8' | b'=' | b'>' | b'c' | b'D' | b'E' | b'H' | b'M' => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dangerous_characters_become_visible_and_colours_are_removed() {
        for (given, shown) in [
            ("plain é 漢字 ✓ 👍🏽\n\tnext", "plain é 漢字 ✓ 👍🏽\n\tnext"),
            ("\u{1b}[31;1merror:\u{1b}[0m x", "error: x"),
            ("\u{1b}]0;title\u{7}x\u{1b}]8;;http://h\u{1b}\\y", "xy"),
            ("\u{1b}[2J\u{1b}[Hgone", "gone"),
            ("\u{1b}(B\u{1b}Mx", "x"),
            ("cut \u{1b}[31", "cut \\u{1b}[31"),
            ("\u{1b}]0;no end", "\\u{1b}]0;no end"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\r\nb\rc", "a\nb\\u{d}c"),
            ("nul\0bel\u{7}del\u{7f}", "nul\\u{0}bel\\u{7}del\\u{7f}"),
            ("user\u{202e}txt.exe\u{2066}\u{61c}\u{200f}", "user\\u{202e}txt.exe\\u{2066}\\u{61c}\\u{200f}"),
            ("zero\u{200b}width\u{feff}\u{e0041}", "zero\\u{200b}width\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(text(given), shown, "{given:?}");
        }
        assert_eq!(line("a\n\tb"), "a  b");
    }

    #[test]
    fn only_own_styles_become_sequences() {
        let page = format!("{} \u{1b}[32mok\u{1b}[0m \u{fdd0}32mok", look("32", "ok\u{202e}"));
        assert_eq!(shown(&page), "\u{1b}[32mok\\u{202e}\u{1b}[0m ok \u{fdd0}32mok");
    }

    #[test]
    fn exported_lines_are_escaped_completely() {
        let mut lines = JsonLines::new(Vec::new());
        for piece in ["{\"a\":\"\u{202e}".as_bytes(), b"\"}\n{}\n"] {
            io::Write::write_all(&mut lines, piece).unwrap();
        }
        assert_eq!(String::from_utf8(lines.to).unwrap(), "{\"a\":\"\\u202e\"}\n{}\n");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({ "a\u{202e}": "\u{9b}\u{7f}\u{e0041}\n\u{1b}[31m é" });
        let shown = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.contains(is_dangerous), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    proptest! {
        #[test]
        fn no_dangerous_character_is_left(given in "(\\PC|\\x1b|\\[|\\]|[0-9;]|m|\u{9b}|\u{202e}|\r|\n|\u{7}|\0){0,40}") {
            let shown = text(&given);
            prop_assert!(!shown.contains(is_dangerous), "{:?}", shown);
            prop_assert_eq!(text(&shown), shown.clone());
            let value = serde_json::Value::String(given);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&value.to_string())).unwrap(), value);
        }
    }
}
