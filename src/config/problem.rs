//! What is wrong in a `rei.toml`, where, and what to do about it.

use std::cell::RefCell;
use std::fmt::Write;
use std::ops::Range;

use serde::Serialize;

/// Columns of a quoted line around the fault; longer lines are cut to this.
const QUOTE_COLUMNS_MAX: usize = 100;

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key with its tables, as in `health.http.timeout`; empty if the text is no TOML.
    pub key: String,
    /// What is wrong, on one line.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
    /// The bytes of the file that are wrong.
    #[serde(skip)]
    pub span: Range<usize>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl Problem {
    /// The place in the file: `--> FILE:LINE:COLUMN`, the line, and a mark below the fault.
    pub fn snippet(&self, file: &str, text: &str) -> String {
        let line = text.lines().nth(self.line - 1).unwrap_or_default();
        let marked = text.get(self.span.clone()).and_then(|span| span.lines().next()).unwrap_or_default();
        let before = self.column - 1;
        let skip = before.saturating_sub(QUOTE_COLUMNS_MAX / 2);
        let quote: String = line.chars().skip(skip).take(QUOTE_COLUMNS_MAX).map(printable).collect();
        let width = marked.chars().count().clamp(1, QUOTE_COLUMNS_MAX.saturating_sub(before - skip).max(1));
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let (indent, carets) = (" ".repeat(before - skip), "^".repeat(width));
        format!(
            "{gutter}--> {file}:{}:{}\n{gutter} |\n{number} | {}\n{gutter} | {indent}{carets}",
            self.line,
            self.column,
            quote.trim_end(),
        )
    }
}

/// All problems of `file` for a person, as a compiler would show them.
pub fn render(problems: &[Problem], file: &str, text: &str) -> String {
    let mut page = String::new();
    for problem in problems {
        let _ = writeln!(page, "error: {}\n{}", problem.message, problem.snippet(file, text));
        if let Some(hint) = &problem.hint {
            let _ = writeln!(page, "hint: {hint}");
        }
        page.push('\n');
    }
    page
}

/// Replaces control characters. In a message they could move the cursor of the user's terminal.
fn printable(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control() {
        '\u{fffd}'
    } else {
        c
    }
}

/// Collects problems while the sections are read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    /// Adds a problem. [`Problems::into_vec`] sets its line and column. The hint must not quote the file as it is.
    pub(super) fn add(&self, key: &str, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let (key, message) = (key.to_owned(), message.into().chars().map(printable).collect());
        self.found.borrow_mut().push(Problem { key, message, hint, span, line: 1, column: 1 });
    }

    /// All problems, in the order of the file.
    pub(super) fn into_vec(self, text: &str) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        for problem in &mut found {
            let start = text.floor_char_boundary(problem.span.start);
            problem.span = start..text.floor_char_boundary(problem.span.end.max(start));
            let before = &text[..start];
            problem.line = before.matches('\n').count() + 1;
            problem.column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        }
        found.sort_by_key(|problem| problem.span.start);
        found
    }
}
