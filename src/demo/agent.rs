//! The demo's stand-in for an AI coding agent: a program that reads the context of an incident, finds the place in the
//! source that the stack trace names, and repairs the one kind of bug that it understands.
//!
//! It knows nothing about the demo. Its inputs are a context and a tree. If it cannot derive a repair from them, it fails.

use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::script::{self, Script};
use crate::interface::types::{EvolutionContext, StackTrace};

/// The largest context that is read, in bytes: as much as rei writes.
const CONTEXT_BYTES_MAX: u64 = 16 << 20;

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The file, relative to the tree.
    pub path: PathBuf,
    /// The new text of the file.
    pub text: String,
    /// The bug and the repair, in a sentence for people.
    pub summary: String,
}

/// Why there is no repair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The context cannot be read.
    #[error("cannot read the context {}", path.display())]
    Context {
        /// The file of the context.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a context.
    #[error("{} is not a context", path.display())]
    Json {
        /// The file of the context.
        path: PathBuf,
        /// The error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// No trace names a bug that this agent understands.
    #[error("none of {traces} stack traces shows a bug that this agent understands: an index out of bounds")]
    NotUnderstood {
        /// The number of traces.
        traces: usize,
    },
    /// The trace names no place in the tree.
    #[error("the trace names {frame:?}, which is not in the tree")]
    NoPlace {
        /// The innermost frame.
        frame: String,
    },
    /// The source does not show the bug of the trace.
    #[error("{place} does not show the index that the trace names: {line:?}")]
    NoIndex {
        /// File and line.
        place: String,
        /// The text of that line.
        line: String,
    },
    /// A file of the tree is not a valid script.
    #[error(transparent)]
    Script(#[from] script::Error),
    /// The repaired file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

/// Repairs the tree in `tree` from the facts in `context`; returns a summary.
///
/// # Errors
/// If it cannot derive a repair, or a file cannot be read or written.
pub fn run(context: &Path, tree: &Path) -> Result<String, Error> {
    use std::io::Read;
    let failed = |source| Error::Context { path: context.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(context).map_err(failed)?;
    file.take(CONTEXT_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let read = serde_json::from_str(&text).map_err(|source| Error::Json { path: context.to_owned(), source });
    let repair = repair(&read?, |path| script::read(&tree.join(path)))?;
    let path = tree.join(&repair.path);
    std::fs::write(&path, &repair.text).map_err(|source| Error::Write { path, source })?;
    Ok(repair.summary)
}

/// Derives the repair from the context and the files of the tree.
///
/// # Errors
/// If no trace shows a bug that this agent understands, or the source does not show the bug.
pub fn repair(
    context: &EvolutionContext,
    read: impl Fn(&Path) -> Result<String, script::Error>,
) -> Result<Repair, Error> {
    let out_of_bounds = Regex::new(r"index (-?\d+) out of bounds").expect("a constant that compiles");
    // The last trace belongs to the crash that opened the incident.
    let found = context.stack_traces.iter().rev().find_map(|trace| {
        let index = out_of_bounds.captures(&trace.reason)?.get(1)?.as_str().to_owned();
        Some((trace, index))
    });
    let (trace, index) = found.ok_or(Error::NotUnderstood { traces: context.stack_traces.len() })?;
    let place = place(trace)?;
    let text = read(&place.path)?;
    let shown = || format!("{}:{}", place.path.display(), place.line);
    let line = text.lines().nth(place.line - 1).unwrap_or_default();
    let no_index = || Error::NoIndex { place: shown(), line: line.trim().to_owned() };
    let (list, number) = indexed(line, place.column).ok_or_else(no_index)?;
    if !encloses(&text, place.line, &place.function) {
        return Err(no_index());
    }
    let indent = &line[..line.len() - line.trim_start().len()];
    let incident = context.incident_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    let guard = format!(
        "{indent}// Index {index} stopped the service{incident}: what is not there cannot be asked for.\n\
         {indent}if {number} < -{list}.len() || {number} >= {list}.len() {{\n\
         {indent}    throw #{{ status: 404, body: `There is no ${{{number}}}.` }};\n{indent}}}\n"
    );
    let before: usize = text.split_inclusive('\n').take(place.line - 1).map(str::len).sum();
    let repaired = format!("{}{guard}{}", &text[..before], &text[before..]);
    Script::parse(&place.path.display().to_string(), &repaired)?;
    let summary = format!("{}: {} takes an index from outside into `{list}`; guarded it", shown(), place.function);
    Ok(Repair { path: place.path, text: repaired, summary })
}

/// The place at which the innermost function stopped.
struct Place {
    function: String,
    path: PathBuf,
    line: usize,
    column: usize,
}

/// Reads `function (path:line:column)`.
fn place(trace: &StackTrace) -> Result<Place, Error> {
    let frame = trace.frames.first().cloned().unwrap_or_default();
    let parse = || {
        let (function, rest) = frame.split_once(" (")?;
        let mut parts = rest.strip_suffix(')')?.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok().filter(|line| *line > 0)?);
        let path = PathBuf::from(parts.next()?);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        inside.then(|| Place { function: function.to_owned(), path, line, column })
    };
    parse().ok_or(Error::NoPlace { frame: frame.clone() })
}

/// The list and the index of the `list[index]` at a column (from 1) of a line, if both are plain names.
fn indexed(line: &str, column: usize) -> Option<(&str, &str)> {
    let pattern = Regex::new(r"([A-Za-z_]\w*)\[([A-Za-z_]\w*)\]").expect("a constant that compiles");
    let covers = |found: &regex::Captures<'_>| {
        let whole = found.get(0).is_some_and(|all| (all.start()..=all.end()).contains(&column.saturating_sub(1)));
        whole.then(|| Some((found.get(1)?.range(), found.get(2)?.range())))?
    };
    let (list, index) = pattern.captures_iter(line).find_map(|found| covers(&found))?;
    Some((&line[list], &line[index]))
}

/// Whether a line (from 1) is inside the function of this name.
fn encloses(text: &str, line: usize, function: &str) -> bool {
    let heads = text.lines().take(line).filter_map(|line| line.trim_start().strip_prefix("fn "));
    heads.last().is_some_and(|head| head.split('(').next() == Some(function))
}

#[cfg(test)]
mod tests {
    use super::super::script::Request;
    use super::*;
    use crate::interface::types::IncidentId;

    const GREETER: &str = include_str!("tree/bin/greeter");

    /// The context of a real crash of a script.
    fn crashed(source: &str, target: &str) -> EvolutionContext {
        let fault = Script::parse("bin/greeter", source).unwrap().handle(&Request::new("GET", target)).unwrap_err();
        let frames = fault.frames.iter().map(|frame| format!("{} ({frame})", frame.function)).collect();
        let trace = StackTrace { language: "rust".into(), reason: fault.message, frames, thread: None };
        let incident_id = Some(IncidentId::numbered(1));
        EvolutionContext { incident_id, stack_traces: vec![trace], ..EvolutionContext::default() }
    }

    fn tree(text: &str) -> impl Fn(&Path) -> Result<String, script::Error> {
        move |path| {
            assert_eq!(path, Path::new("bin/greeter"));
            Ok(text.to_owned())
        }
    }

    #[test]
    fn the_bug_of_the_greeter_is_repaired_and_nothing_else_changes() {
        let repair = repair(&crashed(GREETER, "/greet?style=3"), tree(GREETER)).unwrap();
        let ask = |source: &str, target: &str| {
            Script::parse("bin/greeter", source).unwrap().handle(&Request::new("GET", target))
        };
        for style in ["3", "-4", "99"] {
            let target = format!("/greet?style={style}");
            assert!(ask(GREETER, &target).is_err());
            assert_eq!(ask(&repair.text, &target).unwrap().status, 404);
        }
        for target in ["/greet", "/greet?name=Ada&style=2", "/greet?style=-1", "/greet?style=x", "/nowhere"] {
            assert_eq!(ask(&repair.text, target), ask(GREETER, target), "{target}");
        }
    }

    #[test]
    fn the_repair_follows_the_trace_and_not_the_demo() {
        let other = "fn handle(r) {\n    pick(r.query.n.parse_int())\n}\n\nfn pick(n) {\n    let all = [1];\n    \
                     let got = `${all[n]}`;\n    got\n}\n";
        let repair = repair(&crashed(other, "/?n=5"), tree(other)).unwrap();
        let script = Script::parse("x", &repair.text).unwrap();
        assert_eq!(script.handle(&Request::new("GET", "/?n=5")).unwrap().status, 404);
        assert_eq!(script.handle(&Request::new("GET", "/?n=0")).unwrap().body, "1");
    }

    #[test]
    fn it_fails_if_it_cannot_derive_a_repair() {
        let refuse = |context: &EvolutionContext, text: &str| repair(context, tree(text)).unwrap_err();
        let none = EvolutionContext::default();
        assert!(matches!(refuse(&none, GREETER), Error::NotUnderstood { traces: 0 }));
        let other = crashed("fn handle(r) { let x = 1 / 0; x }", "/");
        assert!(matches!(refuse(&other, GREETER), Error::NotUnderstood { traces: 1 }));
        let mut elsewhere = crashed(GREETER, "/greet?style=3");
        elsewhere.stack_traces[0].frames[0] = "salutation (/etc/passwd:1:1)".into();
        assert!(matches!(refuse(&elsewhere, GREETER), Error::NoPlace { .. }));
        // The tree has changed since the crash: the line shows other code.
        let moved = GREETER.replace("fn salutation(style) {", "fn salutation(style) {\n\n\n");
        assert!(matches!(refuse(&crashed(GREETER, "/greet?style=3"), &moved), Error::NoIndex { .. }));
    }
}
