//! The sanitizers of GCC and LLVM: `==PID==ERROR: AddressSanitizer: KIND on address …`, then stacks with `    #0 0x… in
//! FUNCTION FILE:LINE`, each with a title, then `SUMMARY: …` and perhaps a dump of memory. `ThreadSanitizer: data race` has a
//! stack for each of two accesses. UndefinedBehaviorSanitizer prints `FILE:LINE:COL: runtime error: MESSAGE`, often alone.

use super::language::{Chain, Fault, Head, Language, frame, is_access, race, trace};
use super::lines::Lines;

pub(super) const SANITIZER: Language = Language {
    name: "sanitizer",
    head,
    frame: |lines, at| Some((located(lines.get(at)?)?, 1)),
    read,
    headless: false,
    library: &["__interceptor_", "__asan", "__libc_", "_start", "pthread_create"],
    library_places: &["libsanitizer/", "sysdeps/", "compiler-rt/"],
};

/// Maximum number of stacks of one report that are kept while it is read.
const STACKS_MAX: usize = 6;
/// Beginnings of lines of a report, beside indented ones and frames.
const PARTS: [&str; 16] = [
    "==",
    "=>0x",
    "0x",
    "READ of size ",
    "WRITE of size ",
    "ACCESS of size ",
    "freed by ",
    "previously allocated by ",
    "allocated by ",
    "Direct leak ",
    "Indirect leak ",
    "SUMMARY: ",
    "Address ",
    "AddressSanitizer ",
    "HINT: ",
    "Thread T",
];
/// In front of the message of undefined behaviour.
const UNDEFINED: &str = ": runtime error: ";

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let mut stacks: Vec<(&str, Vec<String>)> = Vec::new();
    let (mut title, mut accessed, mut fresh, mut next) = ("", None, true, at + 1);
    while let Some(line) = lines.get(next) {
        if let Some(frame) = located(line) {
            if fresh {
                stacks.truncate(STACKS_MAX - 1);
                stacks.push((title, Vec::new()));
                fresh = false;
            }
            stacks.last_mut()?.1.push(frame);
        } else if line.ends_with("==ABORTING") || line.starts_with("==================") {
            next += 1;
            break;
        } else if is_part(line) {
            accessed = accessed.or_else(|| line.find(" of size ").filter(|_| stacks.is_empty()).map(|_| line.trim()));
            // An indented title, `READ of size 4 …`, or a line about the stack above: the next frame begins a stack.
            (title, fresh) = (if line.trim().is_empty() { title } else { line.trim() }, true);
        } else {
            break;
        }
        next += 1;
    }
    let place = lines.get(at)?.split_once(UNDEFINED).map(|(place, _)| vec![place.to_owned()]);
    let reason =
        match accessed.filter(|it| it.starts_with(char::is_uppercase) && it.contains(" at 0x") && !it.ends_with(':')) {
            Some(accessed) => format!("{}, {}", head.reason, accessed.split(" at 0x").next().unwrap_or_default()),
            None => head.reason.to_owned(),
        };
    if head.reason.ends_with("data race") {
        let sides = stacks.into_iter().filter(|(title, _)| is_access(title)).map(|(_, stack)| stack);
        return Some((race(&SANITIZER, sides.collect()), next));
    }
    let mut chain = Chain::default();
    let mut stacks = stacks.into_iter();
    chain.push(trace(&SANITIZER, reason.as_str(), stacks.next().map(|it| it.1).or(place).unwrap_or_default()));
    for (title, stack) in stacks {
        chain.aside(trace(&SANITIZER, format!("{reason}: {title}"), stack));
    }
    Some((chain.thrown_first(), next))
}

fn is_part(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("  ")
        || line.starts_with("Shadow ")
        || PARTS.iter().any(|it| line.starts_with(it))
}

fn head(line: &str) -> Option<Head<'_>> {
    if let Some((place, _)) = line.split_once(UNDEFINED) {
        let known = place.contains(':') && place.rsplit(':').next()?.parse::<u32>().is_ok() && !place.contains(' ');
        return known.then(|| line.get(place.len() + ": ".len()..).map(Head::new))?;
    }
    let level = ["ERROR: ", "WARNING: ", "FATAL: "].iter().find_map(|level| Some(line.find(level)? + level.len()))?;
    let marked = line.starts_with("==") || ["WARNING: ", "FATAL: "].iter().any(|level| line.starts_with(level));
    let text = line
        .get(level..)
        .filter(|text| marked && text.split(':').next().is_some_and(|it| it.ends_with("Sanitizer")))?;
    // Addresses, registers and the process are behind the kind of fault.
    let end = [" on address 0x", " 0x", " (pc ", " (pid="].iter().filter_map(|mark| text.find(mark)).min();
    text.get(..end.unwrap_or(text.len())).map(Head::new)
}

/// The frame of `    #0 0x4f5 in get_item /src/store.c:21:10`, or of `    #0 bump /src/race.c:3 (race+0x11cc)`.
fn located(line: &str) -> Option<String> {
    let (number, rest) = line.trim_start().strip_prefix('#')?.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let rest = rest.split_once(" (BuildId: ").map_or(rest, |(rest, _)| rest);
    let rest = match rest.strip_prefix("0x").and_then(|rest| rest.split_once(' ')) {
        // Without symbols: `#0 0x4f5  (/bin/served+0x10b0)`.
        Some((_, behind)) => behind.trim_start().strip_prefix("in ").unwrap_or(behind.trim_start()),
        None => rest,
    };
    let (rest, module) = match rest.rsplit_once('(') {
        Some((front, module)) if module.contains("+0x") => {
            (front.trim_end(), module.split("+0x").next().unwrap_or_default())
        }
        _ => (rest.trim_end(), ""),
    };
    let place = rest.rsplit_once(' ').filter(|(_, place)| place.contains(':') || place.starts_with('/'));
    Some(match place {
        Some((function, place)) => frame(function, place),
        None => frame(rest.strip_suffix(" <null>").unwrap_or(rest), module),
    })
}
