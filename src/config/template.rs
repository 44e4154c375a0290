//! The commented default file: `rei init` writes it, and the parser has its defaults from it.

use toml_edit::{Document, Table};

/// The file as it is shipped.
pub const TEXT: &str = include_str!("rei.toml");
/// The group whose members may use the control socket, if there is a unit and nobody names another.
pub const OPERATORS: &str = "rei-operators";

/// What `rei init` knows about a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// `runtime.name`.
    pub name: String,
    /// `runtime.source`.
    pub source: String,
    /// `runtime.ref`, if it is not the default.
    pub r#ref: Option<String>,
    /// `runtime.dir`, if it is not the default.
    pub dir: Option<String>,
    /// `runtime.package`, if it is not the default.
    pub package: Option<String>,
    /// `runtime.command`.
    pub command: String,
    /// Whether `[state]` is what the systemd unit counts on.
    pub systemd: bool,
}

/// The shipped file with these answers in the place of its examples.
pub fn fill(answers: &Answers) -> String {
    let command = format!("[{}]", quote(&answers.command));
    let by_systemd = |text: String| answers.systemd.then(|| quote(&text));
    let replaced = [
        ("[runtime]", "name", Some(quote(&answers.name))),
        ("[runtime]", "source", Some(quote(&answers.source))),
        ("[runtime]", "command", Some(command)),
        ("[runtime]", "#ref", answers.r#ref.as_deref().map(quote)),
        ("[runtime]", "#dir", answers.dir.as_deref().map(quote)),
        ("[runtime]", "#package", answers.package.as_deref().map(quote)),
        ("[state]", "#?directory", by_systemd(format!("/var/lib/rei/{}", answers.name))),
        ("[state]", "#?sockets", by_systemd(format!("/run/rei/{}", answers.name))),
        ("[state]", "#?operators", by_systemd(OPERATORS.to_owned())),
    ];
    let (mut page, mut section) = (String::with_capacity(TEXT.len()), "");
    for line in TEXT.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split('=').next().unwrap_or_default().trim();
        let new = replaced.iter().find(|(at, name, value)| (*at, *name) == (section, key) && value.is_some());
        match new {
            Some((.., Some(value))) => page.push_str(&with_value(line, value)),
            _ => page.push_str(line),
        }
        page.push('\n');
    }
    page
}

/// The line with another value, without the `#` that marks a default. Its remark stays in its column if there is space.
fn with_value(line: &str, value: &str) -> String {
    let (assignment, remark) = line.split_once(" # ").unwrap_or((line, ""));
    let key = assignment.split('=').next().unwrap_or_default().trim_start_matches(['#', '?']);
    let set = format!("{key}= {value}");
    if remark.is_empty() { set } else { format!("{set:<width$} # {remark}", width = assignment.len()) }
}

/// A TOML string. JSON's escapes are TOML's, except for DEL.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The defaults, as the parser falls back on them.
pub(super) fn defaults() -> Table {
    // Cannot fail: the text is a constant, and every test of this module reads it.
    let document = Document::parse(uncommented(&["#?", "#"])).expect("the shipped rei.toml is TOML");
    document.into_table()
}

/// The shipped file with lines of these marks taken for settings.
pub(super) fn uncommented(marks: &[&str]) -> String {
    let mut page = String::with_capacity(TEXT.len());
    for line in TEXT.lines() {
        let setting = marks.iter().find_map(|mark| line.strip_prefix(mark)).filter(|rest| {
            // Prose begins with a blank after its `#`.
            rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
        });
        page.push_str(setting.unwrap_or(line));
        page.push('\n');
    }
    page
}
