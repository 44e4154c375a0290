//! What a language is to this module: a row of the table, and the parts that the rows share.

use crate::interface::types::StackTrace;

use super::lines::Lines;

/// Maximum number of lines of a message before its frames begin.
pub(super) const MESSAGE_LINES_MAX: usize = 16;
/// Maximum number of exceptions of one chain that are kept: the thrown one, the root cause, and the first ones between
/// them.
const CHAIN_MAX: usize = 8;
/// Maximum number of other stacks of one fault that are kept: suppressed exceptions, the place of the allocation.
const ASIDES_MAX: usize = 4;

/// A language, or a library that ends processes: how its traces look.
pub(super) struct Language {
    /// The name in [`StackTrace::language`].
    pub name: &'static str,
    /// The form of a first line: the reason and the thread in it.
    pub head: for<'a> fn(&'a str) -> Option<Head<'a>>,
    /// The form of a frame: the frame that begins with this line, and its number of lines.
    pub frame: fn(&Lines<'_>, usize) -> Option<(String, usize)>,
    /// Reads the trace that begins with this line; `None` if no trace follows the head.
    pub read: for<'a> fn(&Lines<'a>, usize, Head<'a>) -> Option<(Fault, usize)>,
    /// True if several frames in a row are a trace, even if the line above them is no head: a logger wrote that line.
    pub headless: bool,
    /// Beginnings of the frames of the panic handling and of the standard library. They say little about the fault.
    pub library: &'static [&'static str],
    /// Parts of the places of such frames.
    pub library_places: &'static [&'static str],
}

/// What the first line of a trace says.
pub(super) struct Head<'a> {
    pub reason: &'a str,
    pub thread: Option<&'a str>,
}

impl<'a> Head<'a> {
    pub fn new(reason: &'a str) -> Self {
        Self { reason, thread: None }
    }
}

/// One fault: the exception that was thrown, with its causes and with other stacks about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::diagnosis) struct Fault {
    /// In the order of the text, at least one; other stacks come first.
    pub traces: Vec<StackTrace>,
    /// The index of the exception that was thrown: it says what failed.
    pub main: usize,
    /// The index of its root cause: its frames say where.
    pub root: usize,
}

impl Fault {
    pub fn single(trace: StackTrace) -> Self {
        Self { traces: vec![trace], main: 0, root: 0 }
    }

    /// The reason of the exception that was thrown, and that of its root cause.
    pub fn reason(&self) -> String {
        let of = |index: usize| self.traces.get(index).map_or("", |trace| trace.reason.as_str());
        match (of(self.main), of(self.root)) {
            (main, root) if main == root || root.is_empty() => main.to_owned(),
            ("", root) => root.to_owned(),
            (main, root) => format!("{main}; caused by: {root}"),
        }
    }

    /// The stack of the root cause, or of the thrown exception if the cause has none.
    pub fn stack(&self) -> Option<&StackTrace> {
        let root = self.traces.get(self.root).filter(|trace| !trace.frames.is_empty());
        root.or_else(|| self.traces.get(self.main))
    }
}

/// The exceptions of a fault, while they are read.
#[derive(Default)]
pub(super) struct Chain {
    asides: Vec<StackTrace>,
    chain: Vec<StackTrace>,
}

impl Chain {
    /// Adds the next exception of the chain. Of a chain that is too long, the last one is kept.
    pub fn push(&mut self, trace: StackTrace) {
        self.chain.truncate(CHAIN_MAX - 1);
        self.chain.push(trace);
    }

    /// Adds a stack that is no part of the chain.
    pub fn aside(&mut self, trace: StackTrace) {
        if self.asides.len() < ASIDES_MAX {
            self.asides.push(trace);
        }
    }

    /// The fault whose thrown exception was added first and whose root cause was added last.
    pub fn thrown_first(self) -> Fault {
        let main = self.asides.len();
        let root = main + self.chain.len().saturating_sub(1);
        Fault { traces: [self.asides, self.chain].concat(), main, root }
    }

    /// The fault whose root cause was added first and whose thrown exception was added last.
    pub fn thrown_last(self) -> Fault {
        let fault = self.thrown_first();
        Fault { main: fault.root, root: fault.main, ..fault }
    }
}

/// A trace in this language.
pub(super) fn trace(language: &Language, reason: impl Into<String>, frames: Vec<String>) -> StackTrace {
    StackTrace { language: language.name.into(), reason: reason.into(), frames, thread: None }
}

/// `function (place)`, the form that fingerprints use.
pub(super) fn frame(function: &str, place: &str) -> String {
    match (function.is_empty(), place.is_empty()) {
        (true, _) => place.to_owned(),
        (_, true) => function.to_owned(),
        (false, false) => format!("{function} ({place})"),
    }
}

/// The frames from `next` on, which is moved behind them.
pub(super) fn frames(language: &Language, lines: &Lines<'_>, next: &mut usize) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some((frame, count)) = (language.frame)(lines, *next) {
        frames.push(frame);
        *next += count.max(1);
    }
    frames
}

/// The message that begins with `first` on line `at`, up to the first frame, and the index of that frame. `None` if no
/// frame follows within [`MESSAGE_LINES_MAX`] lines. If the head is `weak`, it fits ordinary lines, too: then `None` also if
/// another head comes first.
pub(super) fn message(
    language: &Language,
    lines: &Lines<'_>,
    at: usize,
    first: &str,
    weak: bool,
) -> Option<(String, usize)> {
    let mut reason = first.to_owned();
    for next in at + 1..=at + MESSAGE_LINES_MAX {
        let line = lines.get(next)?;
        if (language.frame)(lines, next).is_some() {
            return Some((reason, next));
        }
        if weak && (language.head)(line).is_some() {
            return None;
        }
        reason.push('\n');
        reason.push_str(line);
    }
    None
}

/// Reads frames below a line that is no head: its text is the reason.
pub(super) fn headless(language: &Language, lines: &Lines<'_>, at: usize) -> Option<(Fault, usize)> {
    let above = language.headless && (language.frame)(lines, at).is_none();
    let reason = lines.get(at).map(str::trim).filter(|line| above && line.contains(char::is_alphabetic))?;
    let mut next = at + 1;
    // Two frames, because prose can look like one.
    for line in [next, next + 1] {
        (language.frame)(lines, line)?;
    }
    let frames = frames(language, lines, &mut next);
    Some((Fault::single(trace(language, reason, frames)), next))
}

/// A data race between two stacks. Which of them is printed first, and which one has read and which one has written,
/// depends on chance if both do both. So the fault is told by the two functions alone, in their own order.
pub(super) fn race(language: &Language, mut sides: Vec<Vec<String>>) -> Fault {
    sides.truncate(2);
    sides.sort();
    let function = |frames: &Vec<String>| {
        let top = frames.first().map_or("an unknown function", String::as_str);
        top.rsplit_once(" (").map_or(top, |(function, _)| function).to_owned()
    };
    let reason = match sides.iter().map(function).collect::<Vec<_>>().as_slice() {
        [one, other] if one == other => format!("data race in {one}"),
        [one, other] => format!("data race between {one} and {other}"),
        [one] => format!("data race in {one}"),
        _ => "data race".to_owned(),
    };
    sides.resize_with(sides.len().max(1), Vec::new);
    let traces = sides.into_iter().map(|frames| trace(language, &reason, frames)).collect();
    Fault { traces, main: 0, root: 0 }
}

/// True for `Previous write of size 4 at 0x7f… by thread T1:` and `Read at 0x00c0… by goroutine 7:`, above a stack.
pub(super) fn is_access(title: &str) -> bool {
    let what = title.trim().split_once(" at 0x").map_or("", |(what, _)| what.split(" of size ").next().unwrap_or(what));
    what.to_ascii_lowercase().ends_with("read") || what.to_ascii_lowercase().ends_with("write")
}
