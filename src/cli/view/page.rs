//! Rows of a label and painted words, wrapped to a width.

use super::Look;
use super::words::plain;
use crate::cli::ui::Role;

/// The width of the labels, in columns.
const LABEL: usize = 13;
/// The spaces before a label.
const INDENT: usize = 2;

/// A page under construction.
pub(super) struct Page {
    look: Look,
    lines: Vec<String>,
}

/// A part of a row: its role and its text.
pub(super) type Part = (Option<Role>, String);

/// A part without a role.
pub(super) fn text(text: impl Into<String>) -> Part {
    (None, text.into())
}

/// A part in the style of a role.
pub(super) fn word(role: Role, text: impl Into<String>) -> Part {
    (Some(role), text.into())
}

impl Page {
    pub(super) fn new(look: Look) -> Self {
        Self { look, lines: Vec::new() }
    }

    /// Adds a line without a label.
    pub(super) fn head(&mut self, parts: &[Part]) {
        self.wrapped("", 0, parts);
    }

    /// Adds an empty line; never two, and none at the top.
    pub(super) fn gap(&mut self) {
        if self.lines.last().is_some_and(|line| !line.is_empty()) {
            self.lines.push(String::new());
        }
    }

    /// Adds a row with a label; a row without a label continues the row before.
    pub(super) fn row(&mut self, label: &str, parts: &[Part]) {
        let label = format!("{:INDENT$}{label:LABEL$}", "");
        self.wrapped(&label, INDENT + LABEL, parts);
    }

    /// Adds an unchanged line of a table or of a log.
    pub(super) fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// Adds words with one space between them, and parts with two.
    fn wrapped(&mut self, label: &str, indent: usize, parts: &[Part]) {
        let (paint, width) = (self.look.paint, self.look.width);
        let mut line = if label.trim().is_empty() { " ".repeat(indent) } else { paint.paint(Role::Heading, label) };
        let mut column = indent;
        for (role, part) in parts {
            let clean = plain(part);
            let mut run = String::new();
            // A part that fits on one line is not split.
            let whole = clean.chars().count();
            if column > indent && column + 2 + whole > width && indent + whole <= width {
                self.lines.push(std::mem::replace(&mut line, " ".repeat(indent)).trim_end().to_owned());
                column = indent;
            }
            for (index, piece) in clean.split(' ').filter(|piece| !piece.is_empty()).enumerate() {
                let gap = match index {
                    _ if column == indent => 0,
                    0 => 2,
                    _ => 1,
                };
                let length = piece.chars().count();
                if column > indent && column + gap + length > width {
                    line.push_str(&painted(self.look, *role, &std::mem::take(&mut run)));
                    self.lines.push(std::mem::replace(&mut line, " ".repeat(indent)).trim_end().to_owned());
                    column = indent;
                    run.push_str(piece);
                    column += length;
                    continue;
                }
                if index == 0 {
                    line.push_str(&" ".repeat(gap));
                } else {
                    run.push_str(&" ".repeat(gap));
                }
                run.push_str(piece);
                column += gap + length;
            }
            line.push_str(&painted(self.look, *role, &run));
        }
        self.lines.push(line.trim_end().to_owned());
    }

    /// The whole page, without a newline at its end.
    pub(super) fn finish(mut self) -> String {
        while self.lines.last().is_some_and(String::is_empty) {
            self.lines.pop();
        }
        self.lines.join("\n")
    }
}

fn painted(look: Look, role: Option<Role>, text: &str) -> String {
    match role {
        Some(role) if !text.is_empty() => look.paint.paint(role, text),
        _ => text.to_owned(),
    }
}
