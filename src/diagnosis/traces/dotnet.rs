//! .NET: `Unhandled exception. TYPE: MESSAGE` (or only the type, from a logger), then ` ---> TYPE: MESSAGE` per inner
//! exception, then `   at NAME(PARAMETERS) in FILE:line N` per frame: first those of the innermost exception, then `--- End
//! of inner exception stack trace ---`, then those of the exception around it.

use super::java::{is_dotted, is_place};
use super::language::{Chain, Fault, Head, Language, frame, message, trace};
use super::lines::Lines;

pub(super) const DOTNET: Language = Language {
    name: "dotnet",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: true,
    library: &["System.", "Microsoft."],
    library_places: &[],
};

/// Maximum number of exceptions of one trace that are kept while it is read.
const EXCEPTIONS_MAX: usize = 16;
/// In front of an inner exception.
const INNER: &str = "---> ";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let (text, mut next) = message(&DOTNET, lines, at, head.reason, is_dotted(lines.get(at)?.trim()))?;
    // All lines before the first frame: each exception around an inner one, then that one.
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for part in text.split(INNER) {
        all.truncate(EXCEPTIONS_MAX - 1);
        all.push((part.trim().to_owned(), Vec::new()));
    }
    let root = all.len() - 1;
    let mut open = root;
    while let Some(line) = lines.get(next) {
        if let Some(frame) = located(line) {
            all.get_mut(open)?.1.push(frame);
        } else if line.trim_start().starts_with("--- End of inner exception") {
            open = open.saturating_sub(1);
        } else if line.trim_start().starts_with(INNER) {
            // One more inner exception of an aggregate: the first one is the cause.
            all.truncate(EXCEPTIONS_MAX);
            all.push((line.trim_start().trim_start_matches(INNER).to_owned(), Vec::new()));
            open = all.len() - 1;
        } else if !line.trim_start().starts_with("--- End of stack trace") && line.trim() != "<---" {
            break;
        }
        next += 1;
    }
    let mut chain = Chain::default();
    for (index, (reason, frames)) in all.into_iter().enumerate() {
        // `(Inner Exception #0) System.…`
        let reason =
            reason.strip_prefix("(Inner Exception #").and_then(|it| it.split_once(") ")).map_or(&*reason, |it| it.1);
        let trace = trace(&DOTNET, reason, frames);
        if index > root { chain.aside(trace) } else { chain.push(trace) }
    }
    Some((chain.thrown_first(), next))
}

fn head(line: &str) -> Option<Head<'_>> {
    let line = line.trim();
    let reason = line.strip_prefix("Unhandled exception. ").or_else(|| line.strip_prefix("Unhandled Exception: "));
    reason.or_else(|| is_dotted(line).then_some(line)).map(Head::new)
}

/// The frame of `   at App.Store.Get(String id) in /src/Store.cs:line 21`.
fn located(line: &str) -> Option<String> {
    let text = line.strip_prefix("  ")?.trim_start().strip_prefix("at ")?.trim_end();
    let (call, place) = match text.rsplit_once(" in ") {
        Some((call, place)) if place.contains(":line ") => (call, place.replace(":line ", ":")),
        _ => (text, String::new()),
    };
    // Mono prints an offset: `App.Store.Get (System.String id) [0x00001] in <…>:0`.
    let call = call.split_once(" [0x").map_or(call, |(call, _)| call);
    let (name, parameters) = call.strip_suffix(')')?.split_once('(')?;
    let mono = name.ends_with(' ') && text.contains(" [0x");
    let name = if mono { name.trim_end() } else { name };
    let named = !name.is_empty() && !name.contains(' ') && name.contains('.');
    (named && !is_place(parameters)).then(|| frame(name, &place))
}
