//! Paths and names in the file.

use std::path::{Component, Path, PathBuf};

use super::super::Place;
use super::super::section::{At, Section};

/// Letters, digits, `-` and `_`.
pub(super) fn is_name(text: &str, length_max: usize) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= length_max && text.chars().all(fits) && !text.starts_with('-')
}

/// Whether the path stays below where it begins.
pub(super) fn is_inner(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// The path without `.` and `..`, by its words alone.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    whole
}

/// The path seen from the file's directory.
pub(super) fn resolved(path: &str, place: &Place) -> PathBuf {
    normal(&place.directory.join(path))
}

/// Program and arguments of an operator's command: a program with a slash begins at the file's directory.
pub(super) fn program(command: Vec<String>, place: &Place) -> Vec<String> {
    let mut command = command;
    if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
        *program = resolved(program, place).to_string_lossy().into_owned();
    }
    command
}

/// Says so if the command has no program.
pub(super) fn command_is_there(section: &Section<'_>, command: Option<&At<Vec<String>>>) {
    if let Some(at) = command.filter(|at| at.value.first().is_none_or(String::is_empty)) {
        let message = format!("`{}` names no program", section.path_of("command"));
        section.impossible(
            "command",
            &at.span,
            message,
            "write the program and its arguments: [\"/usr/bin/env\", \"true\"]",
        );
    }
}

/// Absolute paths, each said to be wrong that is not.
pub(super) fn absolute(section: &mut Section<'_>, key: &'static str) -> Option<Vec<PathBuf>> {
    let paths: Vec<At<String>> = section.value::<Vec<At<String>>>(key)?.value;
    for at in paths.iter().filter(|at| !at.value.starts_with('/')) {
        let message = format!("`{}` in `{}` is not absolute", at.value, section.path_of(key));
        section.impossible(key, &at.span, message, "write the whole path, from /");
    }
    Some(paths.into_iter().map(|at| normal(Path::new(&at.value))).collect())
}

/// Says so for each variable that cannot be given to a process.
pub(super) fn environment(section: Section<'_>) -> std::collections::BTreeMap<String, String> {
    /// Set by rei itself for each instance.
    const OURS: [&str; 5] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC"];
    let mut variables = std::collections::BTreeMap::new();
    for (name, at) in section.named_values::<String>() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            section.impossible(
                &name,
                &at.span,
                format!("`{name}` is no name of a variable"),
                "letters, digits and _ only",
            );
        } else if OURS.contains(&name.as_str()) {
            section.impossible(&name, &at.span, format!("`{name}` is set by rei for each instance"), "take it out");
        }
        variables.insert(name, at.value);
    }
    variables
}
