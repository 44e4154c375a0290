//! Java, Kotlin, Scala and other languages of the JVM: `Exception in thread "NAME" TYPE: MESSAGE` (or only the type, from
//! a logger), then `\tat PACKAGE.CLASS.METHOD(FILE:LINE)` per frame, perhaps with `~[app.jar:1.0]` behind it. Then, at the
//! same depth, `Caused by: …` with its own frames, and one deeper `Suppressed: …`, which is no cause.

use super::language::{Chain, Fault, Head, Language, frame, message, trace};
use super::lines::Lines;

pub(super) const JAVA: Language = Language {
    name: "java",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: true,
    library: &["java.", "jdk.", "sun.reflect.", "scala.", "kotlin."],
    library_places: &[],
};

/// Maximum number of exceptions of one trace that are kept while it is read.
const EXCEPTIONS_MAX: usize = 16;

/// One exception of a trace.
struct Exception {
    reason: String,
    frames: Vec<String>,
    /// Depth of its line, in tabs or blanks.
    depth: usize,
    /// True if it, or an exception that it is a cause of, was suppressed.
    suppressed: bool,
    /// `... N more`: its last frames are those of this other exception.
    more: Option<(usize, usize)>,
}

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let (reason, mut next) = message(&JAVA, lines, at, head.reason, head.thread.is_none())?;
    let mut all =
        vec![Exception { reason, frames: Vec::new(), depth: depth(lines.get(at)?), suppressed: false, more: None }];
    let mut enclosing = 0;
    while let Some(line) = lines.get(next) {
        let current = all.last_mut()?;
        if let Some(frame) = located(line) {
            current.frames.push(frame);
        } else if let Some(count) = more(line) {
            current.more = Some((enclosing, count));
        } else if let Some((suppressed, first)) = joint(line) {
            let depth = depth(line);
            // The exception that this one belongs to: at the same depth for a cause, one less for a suppressed one.
            let owner = all.iter().rposition(|it| it.depth < depth + usize::from(!suppressed)).unwrap_or_default();
            let (reason, first_frame) = match message(&JAVA, lines, next, first, false) {
                Some((reason, frame)) if lines.get(next + 1).and_then(more).is_none() => (reason, frame),
                _ => (first.to_owned(), next + 1),
            };
            let suppressed = suppressed || all.get(owner).is_some_and(|owner| owner.suppressed);
            all.truncate(EXCEPTIONS_MAX - 1);
            all.push(Exception { reason, frames: Vec::new(), depth, suppressed, more: None });
            (enclosing, next) = (owner, first_frame);
            continue;
        } else if !line.trim_start().starts_with("[CIRCULAR REFERENCE") {
            break;
        }
        next += 1;
    }
    let mut chain = Chain::default();
    for it in &all {
        let shared = it.more.and_then(|(owner, count)| {
            let frames = &all.get(owner)?.frames;
            frames.get(frames.len().saturating_sub(count)..)
        });
        let frames = [&it.frames, shared.unwrap_or_default()].concat();
        let mut trace = trace(&JAVA, it.reason.as_str(), frames);
        trace.thread = head.thread.map(str::to_owned);
        if it.suppressed { chain.aside(trace) } else { chain.push(trace) }
    }
    Some((chain.thrown_first(), next))
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The thread, if it is named, and the exception.
fn head(line: &str) -> Option<Head<'_>> {
    if let Some(rest) = line.strip_prefix("Exception in thread \"") {
        let (thread, reason) = rest.split_once("\" ")?;
        return Some(Head { reason, thread: Some(thread) });
    }
    is_dotted(line).then(|| Head::new(line))
}

/// True for `com.example.OrderException: message`: any dotted name.
pub(super) fn is_dotted(line: &str) -> bool {
    let name = line.split([':', ' ']).next().unwrap_or_default();
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_$`+".contains(c));
    name.contains('.') && name.split('.').all(part)
}

/// The frame of `\tat java.base/java.lang.Integer.parseInt(Integer.java:668) ~[app.jar:1.0]`.
fn located(line: &str) -> Option<String> {
    let text = line.trim_start().strip_prefix("at ")?.trim_end();
    let text = match text.rsplit_once(" [").or_else(|| text.rsplit_once(" ~[")) {
        Some((frame, packaging)) if packaging.ends_with(']') => frame.trim_end(),
        _ => text,
    };
    let (function, place) = text.strip_suffix(')')?.rsplit_once('(')?;
    // A frame of Node has a space before its parenthesis.
    if function.contains(' ') || !function.contains('.') || !is_place(place) {
        return None;
    }
    // A class loader may stand in front: `app//org.example.Main.main`.
    let function = function.rsplit_once("//").map_or(function, |(_, function)| function);
    Some(frame(function, place))
}

/// True for `Integer.java:668`, `Native Method` and `Unknown Source:12`, and not for the parameters of .NET's frames.
pub(super) fn is_place(place: &str) -> bool {
    if ["Native Method", "Unknown Source", "<generated>"].iter().any(|known| place.starts_with(known)) {
        return true;
    }
    let (file, line) = place.rsplit_once(':').unwrap_or((place, "1"));
    let number = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
    let extended = file.contains('.') && !file.ends_with('.');
    number && !file.contains([' ', ',']) && (extended || place.contains(':'))
}

/// The number in `... 12 more`, or in logback's `... 12 common frames omitted`.
fn more(line: &str) -> Option<usize> {
    let rest = line.trim().strip_prefix("... ")?;
    rest.strip_suffix(" more").or_else(|| rest.strip_suffix(" common frames omitted"))?.parse().ok()
}

/// Whether a line begins a suppressed exception, and its text; logback's `Wrapped by: ` has the same place.
fn joint(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_start();
    line.strip_prefix("Caused by: ").map(|it| (false, it)).or_else(|| Some((true, line.strip_prefix("Suppressed: ")?)))
}
