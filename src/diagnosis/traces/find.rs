//! Finds all traces in a text, with the parsers of all languages.

use std::collections::VecDeque;

use super::{go, java, node, python, rust};
use crate::interface::types::StackTrace;
use crate::redact::strip_ansi;

/// Size of the end of a log that is parsed, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Maximum number of traces: the last ones, because the last one ended the process.
pub const TRACES_MAX: usize = 16;
/// Maximum number of frames of each trace, innermost first.
pub const FRAMES_MAX: usize = 64;
/// Maximum length of a reason or a frame, in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Maximum number of lines of a message before its frames begin.
pub(super) const MESSAGE_LINES_MAX: usize = 16;

/// A trace, and the index of the line after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::diagnosis) struct Found {
    pub trace: StackTrace,
    pub end: usize,
}

/// The result of a parser: traces, the most important one last, and the index of the next line.
pub(super) struct ParsedTraces {
    pub traces: Vec<StackTrace>,
    pub next: usize,
}

/// All traces in the text, at most [`TRACES_MAX`], in the order of their ends. Bytes that are not UTF-8 are replaced.
pub fn parse(log: &[u8]) -> Vec<StackTrace> {
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(TEXT_BYTES_MAX)..]);
    find(&text).0.into_iter().map(|found| found.trace).collect()
}

/// Like [`parse`], with the positions of the traces and the number of lines.
pub(in crate::diagnosis) fn find(text: &str) -> (Vec<Found>, usize) {
    let plain = strip_ansi(text);
    let lines: Vec<&str> = plain.lines().map(without_timestamp).collect();
    let (mut found, mut i) = (VecDeque::new(), 0);
    while i < lines.len() {
        let parsers = [rust::take, go::take, python::take, java::take, node::take];
        let Some(taken) = parsers.iter().find_map(|take| take(&lines, i)) else {
            i += 1;
            continue;
        };
        i = taken.next.max(i + 1);
        for trace in taken.traces {
            found.push_back(Found { trace: bounded(trace), end: i });
            if found.len() > TRACES_MAX {
                found.pop_front();
            }
        }
    }
    (found.into(), lines.len())
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

fn bounded(trace: StackTrace) -> StackTrace {
    let cut = |text: String| text[..text.floor_char_boundary(LINE_BYTES_MAX)].to_owned();
    StackTrace {
        reason: cut(trace.reason),
        frames: trace.frames.into_iter().take(FRAMES_MAX).map(cut).collect(),
        thread: trace.thread.map(cut),
        ..trace
    }
}

/// `function (place)`, the form that fingerprints use.
pub(super) fn frame(function: &str, place: &str) -> String {
    if place.is_empty() { function.to_owned() } else { format!("{function} ({place})") }
}
