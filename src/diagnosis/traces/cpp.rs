//! C++: `terminate called after throwing an instance of 'TYPE'`, then perhaps `  what():  MESSAGE`. The C++ library prints no
//! frames. LLVM's library prints `libc++abi: terminating due to uncaught exception of type TYPE: MESSAGE`.

use super::language::{Fault, Head, Language, trace};
use super::lines::Lines;

pub(super) const CPP: Language =
    Language { name: "c++", head, frame: |_, _| None, read, headless: false, library: &[], library_places: &[] };

fn read<'a>(lines: &Lines<'a>, at: usize, head: Head<'a>) -> Option<(Fault, usize)> {
    let thrown = head.reason.split_once("throwing an instance of '").and_then(|it| it.1.strip_suffix('\''));
    let of_type = || head.reason.split_once("exception of type ").map(|it| it.1);
    let what = lines.get(at + 1).and_then(|line| line.strip_prefix("  what():  "));
    let reason = match (thrown.or_else(of_type), what) {
        (Some(thrown), Some(what)) => format!("{thrown}: {what}"),
        (Some(thrown), None) => thrown.to_owned(),
        (None, _) => head.reason.to_owned(),
    };
    Some((Fault::single(trace(&CPP, reason, Vec::new())), at + 1 + usize::from(what.is_some())))
}

fn head(line: &str) -> Option<Head<'_>> {
    let known = line.starts_with("terminate called ") || line.starts_with("libc++abi: terminating");
    known.then(|| Head::new(line.strip_prefix("libc++abi: ").unwrap_or(line)))
}
