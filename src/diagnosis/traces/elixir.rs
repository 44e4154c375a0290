//! Elixir: `** (TYPE) MESSAGE`, perhaps hints below it, then `    (APP VERSION) FILE:LINE: FUNCTION/ARITY` per frame. If a
//! linked process has failed, `** (EXIT from PID) an exception was raised:` stands above it.

use super::language::{Fault, Head, Language, MESSAGE_LINES_MAX, frame, frames, trace};
use super::lines::Lines;

pub(super) const ELIXIR: Language = Language {
    name: "elixir",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: false,
    library: &[":erlang.", ":elixir", ":erl_eval.", ":gen", ":proc_lib."],
    library_places: &["(elixir ", "(stdlib ", "(kernel ", "(erts "],
};

/// Maximum number of lines between the message and the frames: the arguments of a call that no clause takes.
const HINT_LINES_MAX: usize = 2 * MESSAGE_LINES_MAX;

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    // The exit only names the process that failed.
    let (mut at, mut head) = (at, head);
    while let Some(inner) = lines.get(at + 1).and_then(self::head).filter(|_| head.reason.starts_with("(EXIT from ")) {
        (at, head) = (at + 1, inner);
    }
    let mut reason = head.reason.to_owned();
    let (mut next, mut more) = (at + 1, true);
    let first = (next..next + HINT_LINES_MAX).find(|at| (ELIXIR.frame)(lines, *at).is_some());
    for line in next..first.unwrap_or(next) {
        let line = lines.get(line)?;
        if self::head(line).is_some() {
            // Another exception begins before a frame comes: this one has none.
            return Some((Fault::single(trace(&ELIXIR, head.reason, Vec::new())), at + 1));
        }
        // Hints stand behind an empty line.
        more &= !line.trim().is_empty();
        if more {
            reason.push('\n');
            reason.push_str(line.trim_end());
        }
    }
    next = first.unwrap_or(next);
    let stack = frames(&ELIXIR, lines, &mut next);
    Some((Fault::single(trace(&ELIXIR, reason, stack)), next))
}

fn head(line: &str) -> Option<Head<'_>> {
    let text = line.trim().strip_prefix("** ")?;
    (text.starts_with('(') && text.contains(')')).then(|| Head::new(text))
}

/// The frame of `    (elixir 1.14.0) lib/code.ex:1245: Code.require_file/2`, `    app.exs:2: App.Store.get/1` or
/// `    :erlang.map_get(:id, %{})`.
fn located(line: &str) -> Option<String> {
    let text = line.strip_prefix("    ")?.trim();
    let (app, text) = match text.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        // The version of the application differs, and says nothing.
        Some((app, text)) => (app.split(' ').next().unwrap_or_default(), text),
        None => ("", text),
    };
    let known = |function: &str| {
        let arity = function.rsplit_once('/').is_some_and(|(_, arity)| arity.parse::<u8>().is_ok());
        arity || function == "(file)" || function == "(module)"
    };
    let (place, function) = match text.split_once(": ") {
        Some((place, function)) if place.rsplit_once(':')?.1.parse::<u32>().is_ok() && known(function) => {
            (place, function)
        }
        // A call of a function without a place, with its arity or its arguments.
        _ if known(text) && !text.contains(' ') => ("", text),
        _ if text.starts_with(':') && text.ends_with(')') && text.contains('.') => ("", text.split_once('(')?.0),
        _ => return None,
    };
    let place = if app.is_empty() { place.to_owned() } else { format!("{app} {place}") };
    Some(frame(function, &place))
}
