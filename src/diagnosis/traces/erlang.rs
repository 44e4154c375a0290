//! Erlang: `exception error: REASON`, in a crash report or from a script, then `in function MODULE:FUNCTION/ARITY (FILE, line
//! N)` and `in call from …`; or a term `{REASON,[{MODULE,FUNCTION,ARITY,[{file,FILE},{line,N}]},…]}` behind a known text.

use super::language::{Fault, Head, Language, frame, trace};
use super::lines::Lines;

pub(super) const ERLANG: Language = Language {
    name: "erlang",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: false,
    library: &["erlang:", "gen_server:", "gen_statem:", "gen:", "proc_lib:", "init:", "erl_eval:", "escript:"],
    library_places: &[],
};

/// Behind these, the reason follows on the same line, and frames below it.
const REASONS: [&str; 3] = ["exception error: ", "exception exit: ", "exception throw: "];
/// Behind these, a term follows on the same line.
const TERMS: [&str; 4] = [
    "{\"init terminating in do_boot\",",
    "init terminating in do_boot (",
    "Runtime terminating during boot (",
    "Kernel pid terminated (",
];
/// Below these, a term follows.
const ABOVE: [&str; 2] = ["** Reason for termination ==", "with exit value:"];
/// Maximum number of lines of a term that are read.
const TERM_LINES_MAX: usize = 64;
/// Maximum length of a term that is read, in bytes.
const TERM_BYTES_MAX: usize = 16 << 10;
/// Maximum length of the arguments or of the place of a call in a term, in bytes. A call with longer arguments is no frame.
const ARGUMENTS_BYTES_MAX: usize = 256;

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let line = lines.get(at)?;
    if head.reason.is_empty() || TERMS.iter().any(|it| line.starts_with(it)) {
        return Some(term(lines, at, head.reason));
    }
    let (mut stack, mut next) = (Vec::new(), at + 1);
    while let Some(line) = lines.get(next) {
        let text = line.trim_start();
        match located(line) {
            Some(frame) => stack.push(frame),
            None if text.starts_with("called as ") || text.starts_with("*** argument ") => {}
            None => break,
        }
        next += 1;
    }
    Some((Fault::single(trace(&ERLANG, head.reason, stack)), next))
}

fn head(line: &str) -> Option<Head<'_>> {
    if ABOVE.iter().any(|it| line.trim_end().ends_with(it)) {
        return Some(Head::new(""));
    }
    let term = TERMS.iter().find_map(|it| line.strip_prefix(it));
    let text = line.trim_start();
    let text = text.strip_prefix("escript: ").or_else(|| text.strip_prefix("** ")).unwrap_or(text);
    let reason = || REASONS.iter().find_map(|it| text.strip_prefix(it));
    term.or_else(reason).map(Head::new)
}

/// The frame of `in function  store:get/2 (store.erl, line 7)`, or of `in call from …`.
fn located(line: &str) -> Option<String> {
    let text = line.trim();
    let text = text.strip_prefix("in function ").or_else(|| text.strip_prefix("in call from "))?.trim_start();
    Some(match text.strip_suffix(')').and_then(|it| it.rsplit_once(" (")) {
        Some((function, place)) => frame(function, &place.replace(", line ", ":")),
        None => text.to_owned(),
    })
}

/// Reads a term that begins with `first`, or on the next line if that is empty.
fn term(lines: &Lines<'_>, at: usize, first: &str) -> (Fault, usize) {
    let (mut text, mut next) = (first.to_owned(), at + 1);
    if first.is_empty() {
        while let Some(line) = lines.get(next).filter(|line| !line.is_empty() && next <= at + TERM_LINES_MAX) {
            if line.starts_with('=') || (line.starts_with("** ") && !text.is_empty()) {
                break;
            }
            text.push_str(line.trim_start());
            next += 1;
        }
    }
    text.truncate(text.floor_char_boundary(TERM_BYTES_MAX));
    let text = text.trim_start_matches("** ");
    let (mut stack, mut end, mut from) = (Vec::new(), text.len(), 0);
    while let Some(open) = text.get(from..).and_then(|rest| rest.find('{')).map(|open| from + open) {
        match call(&text[open..]) {
            Some((frame, length)) => {
                end = end.min(open);
                stack.push(frame);
                from = open + length;
            }
            None => from = open + 1,
        }
    }
    // The reason is what stands in front of the list of calls.
    let reason = text.get(..end).unwrap_or(text).trim_end_matches([',', '[', ' ']);
    let reason = if stack.is_empty() { reason } else { reason.strip_prefix('{').unwrap_or(reason) };
    (Fault::single(trace(&ERLANG, reason, stack)), next)
}

/// The frame of `{store,get,2,[{file,"store.erl"},{line,7}]}`, and the length that was read.
fn call(text: &str) -> Option<(String, usize)> {
    let mut at = 1;
    let mut atom = || {
        let rest = text.get(at..)?;
        let end = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'')? + 2,
            None => rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '@')?,
        };
        let word = rest.get(..end)?;
        let comma = rest.get(end..)?.starts_with(',');
        let named = word.starts_with('\'') || word.starts_with(|c: char| c.is_ascii_lowercase());
        at += end + 1;
        (comma && named).then_some(word)
    };
    let (module, function) = (atom()?, atom()?);
    let rest = text.get(at..)?;
    let (arity, length) = match rest.find(|c: char| !c.is_ascii_digit())? {
        0 => arguments(rest)?,
        digits => (rest.get(..digits)?.parse().ok()?, digits),
    };
    let behind = rest.get(length..)?;
    if !behind.starts_with([',', '}']) {
        return None;
    }
    // The place, if the next two pairs have it.
    let place = behind.strip_prefix(",[{file,\"").and_then(|rest| {
        let (file, rest) = rest.get(..rest.floor_char_boundary(ARGUMENTS_BYTES_MAX))?.split_once("\"},{line,")?;
        Some(format!("{file}:{}", rest.split_once('}')?.0))
    });
    Some((frame(&format!("{module}:{function}/{arity}"), &place.unwrap_or_default()), at + length))
}

/// The number of arguments in a list, and the length of the list.
fn arguments(text: &str) -> Option<(usize, usize)> {
    let (mut depth, mut count) = (0_usize, 0);
    for (at, c) in text.char_indices().take(ARGUMENTS_BYTES_MAX) {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 1 => count += 1,
            _ => {}
        }
        if depth == 0 {
            let empty = at == 1;
            return text.starts_with('[').then_some((if empty { 0 } else { count + 1 }, at + 1));
        }
    }
    None
}
