//! The old private words of the project are gone: names and phrases that readers had to decode.
//!
//! The table has each word with the word to write instead, and the reason. A failure lists the findings by directory.

use std::collections::BTreeMap;

use regex::Regex;

use super::{File, files, none};

/// A pattern of the regex crate, the words to write instead, and the reason.
const OLD_WORDS: &[(&str, &str, &str)] = &[
    // Names of items.
    (r"\bOccupants?\b", "Instances, InstanceHandle", "two meanings"),
    (r"\b(NotCarried|carry_out|CarryOut)\b", "StepError, execute", "one verb for one act"),
    (r"\bcarr(y|ies|ied|ying) (it |them |each |all )?out\b", "execute", "one verb for one act"),
    (r"\b[Tt]ellers?\b", "EventSender, Narrator", "\"tell\" meant log, report, send and return"),
    (r"\b[Ff]acade\b", "the evolution interface", "the standard term"),
    (r"\b[Cc]hronicles?\b", "history", "the standard term"),
    (r"\bWorkshop\b", "LazyNix", "a picture and not a term"),
    (r"\bLifeline\b", "DisconnectWatch", "a picture and not a term"),
    (r"\bRequest::Lift\b|\blifts? (it|content)\b", "release", "one verb for one act"),
    (r"\bStands(::| \{)|\bOption<Stands>", "StateSummary", "a verb and not a name"),
    // Persons in place of processes and programs.
    (
        r"\b[Nn]obody (who|else|knows|looks|asks|reads|hears|waits|listens|serves|needs|answers|has|is|was|can|may|sees|did)\b",
        "no process, no caller, no operator",
        "name the actor",
    ),
    (r"\b[Ww]ho(ever|sever)\b", "a caller that, a process that, any user", "name the actor"),
    (
        r"(^|[/!*|:;,.(] ?)[Ww]ho (asks|reads|prints|says|starts|calls|needs|looks|wants|waits|connects|serves)\b",
        "the caller that, the process that",
        "name the actor",
    ),
    (r"\b[Ss]omebody\b", "a process, an operator", "name the actor"),
    (r"\bthe judged (is|does|has|can|may|must|prints|writes|reads|answers)\b", "the candidate", "name the actor"),
    // Pictures.
    (r"\b(of|in) the house\b", "of the project", "a picture and not a term"),
    (r"\brooms?\b", "module; or space", "a picture and not a term"),
    (r"\bfenc(e|es|ed|ing) (it |them )?in\b", "confine", "a picture and not a term"),
    // Phrases that a learner of English does not know, or takes for another one.
    (
        r"\b(what (runs|serves)|instances?|versions?|services?) (serves?|lives?) on\b",
        "continues to serve",
        "\"serve on\" means something else",
    ),
    (r"\bgoes on\b", "continues, happens", "two meanings"),
    (r"\b[Tt]old (of|about|apart)\b", "reported, distinguished", "\"tell\" meant log, report, send and return"),
    (r"\b(held|hold|holds|holding) against\b", "compare with", "an idiom"),
    (r"\blet(s|ting)? go\b", "release, drop", "an idiom"),
    (r"\bin vain\b", "without effect", "an idiom"),
    (r"\blast[ _]words\b", "last output", "an idiom"),
    (r"\bword why\b", "the reason", "an idiom"),
    (r"\bha(s|ve) (a|its|no) say\b", "decides, may use", "an idiom"),
    (r"\bnothing but\b", "only", "an idiom"),
    (r"\bfor want of\b", "because of missing", "an idiom"),
    (r"\b(its|their) own affair\b", "rei ignores it", "an idiom"),
    (r"\bto blame\b", "the cause", "an idiom"),
    (r"\b(come|comes|came) true\b", "happens", "an idiom"),
    // "Where" as a condition.
    (
        r"\b[Ww]here (there|none|nobody|nothing) (is|are|was|were|runs|has|can|may|could|serves|knows|says|does|needs|goes)\b",
        "if",
        "a condition begins with \"if\"",
    ),
];

/// Files that keep the old words: this table, and stored data.
const EXCEPT: &[&str] = &["tests/tidy/words.rs", "tests/fixtures/", "tests/lifecycle.proptest-regressions"];

/// The lines of a file with their numbers, without recorded output in fenced blocks of README.md, and without the
/// attributes that give a renamed field its stored name.
fn lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut recorded = false;
    file.text.lines().enumerate().filter_map(move |(n, line)| {
        recorded = if line.starts_with("```") { file.path == "README.md" && line == "```text" } else { recorded };
        (!recorded && !line.trim_start().starts_with("#[serde(rename = ")).then_some((n + 1, line))
    })
}

/// The directory under which a finding is listed: a module of `src/`, or the first directory of the path.
fn directory(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["src", module, _, ..] => format!("src/{module}"),
        [_] => ".".to_owned(),
        [first, ..] => first.to_owned(),
        [] => String::new(),
    }
}

#[test]
fn the_old_private_words_are_gone() {
    let words: Vec<(Regex, &str, &str)> = OLD_WORDS
        .iter()
        .map(|(pattern, instead, why)| {
            (Regex::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")), *instead, *why)
        })
        .collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files().iter().filter(|file| !EXCEPT.iter().any(|path| file.path.starts_with(path))) {
        for (n, line) in lines(file) {
            for (pattern, instead, why) in &words {
                if let Some(old) = pattern.find(line) {
                    let finding = format!("{}:{n}: {:?}: write {instead} ({why})", file.path, old.as_str().trim());
                    found.entry(directory(&file.path)).or_default().push(finding);
                }
            }
        }
    }
    let by_directory =
        found.iter().map(|(directory, all)| format!("{directory}: {}\n    {}", all.len(), all.join("\n    ")));
    none("the old private words are gone", by_directory.collect());
}
