//! Finds all traces in a text, with the rows of the table.

use std::collections::VecDeque;

use crate::interface::types::StackTrace;
use crate::redact::strip_ansi;

use super::json;
use super::language::Fault;
use super::lines::Lines;
use super::scan;

/// Size of the end of a log that is parsed, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Maximum number of traces: the last ones, because the last one ended the process.
pub const TRACES_MAX: usize = 16;
/// Maximum number of frames of each trace, innermost first.
pub const FRAMES_MAX: usize = 64;
/// Maximum length of a reason or a frame, in bytes.
const LINE_BYTES_MAX: usize = 1024;

/// A fault, and the index of the line after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::diagnosis) struct Found {
    pub fault: Fault,
    pub end: usize,
}

/// The last traces in the text, at most [`TRACES_MAX`], in the order of their faults' ends. Bytes that are not UTF-8 are
/// replaced.
pub fn parse(log: &[u8]) -> Vec<StackTrace> {
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(TEXT_BYTES_MAX)..]);
    let traces: Vec<StackTrace> = find(&text).0.into_iter().flat_map(|found| found.fault.traces).collect();
    traces[traces.len().saturating_sub(TRACES_MAX)..].to_vec()
}

/// The last faults in the text, at most [`TRACES_MAX`], with their positions, and the number of lines.
pub(in crate::diagnosis) fn find(text: &str) -> (Vec<Found>, usize) {
    let plain = strip_ansi(text);
    let lines = Lines::of(&plain);
    (find_in(&lines), lines.len())
}

/// The faults in these lines.
pub(super) fn find_in(lines: &Lines<'_>) -> Vec<Found> {
    let (mut found, mut next) = (VecDeque::new(), 0);
    while let Some(line) = lines.get(next) {
        let faults = if line.starts_with('{') {
            next += 1;
            lines.whole(next - 1).map(json::faults).unwrap_or_default()
        } else {
            scan::take(lines, &mut next).into_iter().collect()
        };
        for fault in faults {
            found.push_back(Found { fault: bounded(fault), end: next });
            if found.len() > TRACES_MAX {
                found.pop_front();
            }
        }
    }
    found.into()
}

fn bounded(fault: Fault) -> Fault {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX));
        text
    };
    let one = |trace: StackTrace| StackTrace {
        reason: cut(trace.reason),
        frames: trace.frames.into_iter().take(FRAMES_MAX).map(cut).collect(),
        thread: trace.thread.map(cut),
        ..trace
    };
    Fault { traces: fault.traces.into_iter().map(one).collect(), ..fault }
}
