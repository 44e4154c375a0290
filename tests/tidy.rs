//! The project's rules that no compiler checks: which module may use which, what pure code must not use, how files look.
//!
//! Each rule is data with its reason. A failure names the place and says what to do. The tests here only read the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use regex::Regex;

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/operations.rs"]
mod operations;
#[path = "tidy/outside.rs"]
mod outside;
#[path = "tidy/places.rs"]
mod places;
#[path = "tidy/words.rs"]
mod words;

/// Every top-level module and the modules that it may use. A module may use only modules above it in this list, so imports run
/// one way.
///
/// ARCHITECTURE.md shows this list as its table of modules; a test keeps the two equal.
const MODULES: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("report", &[]),
    ("command", &[]),
    ("changes", &[]),
    ("http", &[]),
    ("poll", &[]),
    ("process", &[]),
    ("executable", &[]),
    ("sandbox", &[]),
    ("seccomp", &[]),
    ("digest", &[]),
    ("redact", &["digest"]),
    ("interface", &["digest", "poll", "time"]),
    ("config", &["interface", "redact"]),
    ("lifecycle", &["interface", "time"]),
    ("live", &["config", "interface", "time"]),
    ("health", &["config", "digest", "interface", "live", "time"]),
    ("journal", &["digest", "time"]),
    ("nix", &["command", "digest"]),
    ("source", &["changes", "command", "interface", "redact", "time"]),
    ("golden", &["digest", "http", "live", "redact", "report", "time"]),
    (
        "runtime",
        &[
            "command",
            "config",
            "digest",
            "executable",
            "interface",
            "live",
            "poll",
            "process",
            "report",
            "sandbox",
            "seccomp",
            "time",
        ],
    ),
    ("tap", &["golden", "http", "live", "poll", "process", "runtime", "time"]),
    ("diagnosis", &["digest", "golden", "health", "interface", "redact"]),
    (
        "blueprint",
        &["command", "config", "digest", "interface", "process", "redact", "sandbox", "seccomp", "source", "time"],
    ),
    (
        "validation",
        &["config", "digest", "executable", "golden", "http", "interface", "nix", "poll", "report", "sandbox", "time"],
    ),
    (
        "preflight",
        &[
            "blueprint",
            "changes",
            "config",
            "digest",
            "executable",
            "golden",
            "journal",
            "nix",
            "poll",
            "report",
            "runtime",
            "source",
        ],
    ),
    ("state", &["config", "digest", "interface", "journal", "lifecycle"]),
    ("narrate", &["digest", "interface", "lifecycle"]),
    ("history", &["digest", "interface", "journal", "lifecycle", "narrate", "time"]),
    ("service", ANY_ABOVE),
    ("daemon", ANY_ABOVE),
    ("demo", ANY_ABOVE),
    ("cli", ANY_ABOVE),
];

/// The last modules of [`MODULES`] may use all modules above them.
const ANY_ABOVE: &[&str] = &["*"];

/// Pure code: whole modules, and single files of other modules. It decides or computes; it gets time, ids and facts as arguments.
const PURE: &[&str] = &[
    "lifecycle/",
    "health/",
    "live/",
    "interface/types.rs",
    "config/types.rs",
    "validation/plan.rs",
    "validation/report.rs",
    "validation/verdict.rs",
    "blueprint/machine.rs",
    "blueprint/graph.rs",
    "golden/compare.rs",
    "golden/fact.rs",
    "golden/facets.rs",
    "golden/learn.rs",
    "golden/learned.rs",
    "golden/message.rs",
    "golden/normalise.rs",
    "golden/order.rs",
    "golden/placeholder.rs",
    "golden/reservoir.rs",
    "golden/transcript.rs",
    "nix/log.rs",
    "nix/progress.rs",
    "source/parse.rs",
    "source/address.rs",
    "runtime/traffic/program.rs",
    "runtime/traffic/order.rs",
    "tap/http1.rs",
    "tap/head.rs",
    "tap/body.rs",
    "service/reconcile.rs",
];

/// Code that executes decisions. It gets effects and facts, and never the state of the lifecycle.
const EXECUTES: &[&str] = &[
    "service/executor.rs",
    "service/instances/",
    "service/jobs/",
    "service/listeners.rs",
    "service/monitors.rs",
    "service/fdstore.rs",
    "service/logger_watch.rs",
    "service/tap_watch.rs",
];

/// Names that pure code must not use. Hash maps are in the list because their order is random. Address types are plain data, so
/// they are allowed.
const IMPURE: &[&str] = &[
    "tokio",
    "async",
    ".await",
    "tracing",
    "rand",
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "println!",
    "eprintln!",
    "std::fs",
    "std::io",
    "std::process",
    "std::env",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "OwnedFd",
    "unsafe",
];

/// Texts that no source file may contain, and what to write instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!", "do it"),
    ("unimplemented!", "do it"),
    ("dbg!", "use tracing"),
    ("#[allow(", "#[expect(lint, reason = \"…\")]"),
    ("FIXME", "do it"),
];

/// The most lines of a file: a reader can remember a file of this length.
const LINES_MAX: usize = 600;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Pauses of a test outside of a loop that waits for a fact: the file, how many, and why.
const SLEEPS: &[(&str, usize, &str)] = &[
    ("tests/interface/peers.rs", 1, "nothing more arrives after the end of a stream"),
    ("tests/instance/spawning.rs", 1, "kills at moments spread over the cycle of a spawn"),
    ("tests/instance/helper.rs", 2, "the program under test hangs on purpose, or answers slowly"),
    ("tests/bad_input/lab.rs", 3, "polls another process's answers and files until they are there"),
    ("tests/evolution/kills.rs", 2, "kills at random moments, and polls until processes are gone"),
    ("tests/evolution/load.rs", 2, "polls the counters of its own threads until they have grown"),
    ("tests/evolution/lab.rs", 3, "polls another process's answers and files until they are there"),
    ("tests/corpus/load.rs", 1, "clients keep a rate, as users do"),
    ("tests/corpus/shadow.rs", 1, "users keep a rate"),
    ("tests/traffic/keeper.rs", 1, "only time shows that a keeper stays"),
];

/// The longest pause of a loop that waits for a fact, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;

/// A file of the project, by its path below the root.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The top-level module that a file of `src/` belongs to.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let module = below.split('/').next()?;
        Some(module.strip_suffix(".rs").unwrap_or(module))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is a test.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("tests/") || name.ends_with("tests.rs") || name == "testing.rs"
    }

    /// The numbered lines of code that is not a test, without comments.
    fn code(&self) -> Vec<(usize, &str)> {
        if self.is_test() {
            Vec::new()
        } else {
            self.lines().into_iter().filter(|line| !line.2).map(|(n, it, _)| (n, it)).collect()
        }
    }

    /// The numbered lines of tests, without comments.
    fn tests(&self) -> Vec<(usize, &str)> {
        let whole = self.is_test();
        self.lines().into_iter().filter(|line| whole || line.2).map(|(n, it, _)| (n, it)).collect()
    }

    /// Each line: its number, its text without the comment, and whether it belongs to an item that only tests have.
    fn lines(&self) -> Vec<(usize, &str, bool)> {
        let (mut found, mut test) = (Vec::new(), false);
        for (n, line) in self.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            test |= line == "#[cfg(test)]";
            found.push((n + 1, code, test));
            // The item ends: `mod tests;`, or the brace in the first column.
            test &= !(line.ends_with(';') && !line.starts_with(' ') || line == "}");
        }
        found
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project, except files that tools wrote.
fn files() -> Vec<File> {
    let (mut open, mut found) = (vec![root()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || ["target", ".git", "Cargo.lock"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).unwrap().display().to_string();
                found.push(File { path, text });
            }
        }
    }
    assert!(found.len() > 100, "the project was not found below {}", root().display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails with all findings at once.
fn none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}

/// The modules that each module uses, with the first place that does.
fn uses(files: &[File]) -> BTreeMap<String, BTreeMap<String, String>> {
    let path = Regex::new(r"\bcrate::(\w+|\{[^}]*\})").unwrap();
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some(module) = file.module().filter(|module| !["lib", "main", "bin"].contains(module)) else { continue };
        let used = found.entry(module.to_owned()).or_default();
        for (n, line) in file.code() {
            for capture in path.captures_iter(line) {
                assert!(
                    !capture[1].starts_with('{'),
                    "{}:{n}: write one `use crate::…` for each module, so that this test can read it",
                    file.path
                );
                if &capture[1] != module {
                    used.entry(capture[1].to_owned()).or_insert_with(|| format!("{}:{n}", file.path));
                }
            }
        }
    }
    found
}

fn may_use(module: &str) -> BTreeSet<&'static str> {
    let at = MODULES.iter().position(|(name, _)| *name == module);
    let at = at.unwrap_or_else(|| panic!("a new module: add {module} to MODULES"));
    match MODULES[at].1 {
        all if all == ANY_ABOVE => MODULES[..at].iter().map(|(name, _)| *name).collect(),
        named => named.iter().copied().collect(),
    }
}

#[test]
fn imports_run_one_way() {
    let found = uses(&files());
    for (at, (module, named)) in MODULES.iter().enumerate() {
        let above: Vec<&str> = MODULES[..at].iter().map(|(name, _)| *name).collect();
        let known = |used: &&str| *used == "*" || above.contains(used);
        assert!(named.iter().all(known), "{module} may use only modules that stand above it in the list");
        assert!(found.contains_key(*module), "{module} is in the list, but there is no such module");
    }
    let mut findings = Vec::new();
    for (module, used) in &found {
        let allowed = may_use(module);
        for (other, place) in used.iter().filter(|(other, _)| !allowed.contains(other.as_str())) {
            findings.push(format!("{place}: {module} must not use {other}"));
        }
        let named = MODULES.iter().find(|(name, _)| name == module).map_or(&[][..], |(_, named)| named);
        for idle in named.iter().filter(|named| **named != "*" && !used.contains_key(**named)) {
            findings.push(format!("{module} does not use {idle} any more: remove it from the list"));
        }
    }
    none("imports run one way", findings);
}

#[test]
fn the_map_and_the_architecture_name_every_module() {
    let (map, mut table) = (read("src/lib.rs"), String::from("| module | may use |\n|---|---|\n"));
    for (module, named) in MODULES {
        assert!(map.contains(&format!("pub mod {module};")), "src/lib.rs does not have {module}");
        let named = match *named {
            [] => "no other module".to_owned(),
            ["*"] => "all modules above in this table".to_owned(),
            named => named.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        writeln!(table, "| `{module}` | {named} |").unwrap();
    }
    let page = read("ARCHITECTURE.md");
    assert!(page.contains(&table), "ARCHITECTURE.md needs this table of modules:\n\n{table}");
}

#[test]
fn pure_code_has_no_clock_no_input_and_no_randomness() {
    let files = files();
    let mut findings = Vec::new();
    for pure in PURE {
        let mut seen = false;
        for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with(&format!("src/{pure}"))) {
            seen = true;
            for (n, line) in file.code() {
                let words = IMPURE.iter().filter(|word| has_word(line, word));
                findings.extend(words.map(|word| format!("{}:{n}: {word}", file.path)));
            }
        }
        assert!(seen, "there is no src/{pure} any more");
    }
    none("pure code gets facts and time as arguments", findings);
}

#[test]
fn code_that_executes_decisions_does_not_see_the_state() {
    let files = files();
    let mut findings = Vec::new();
    for part in EXECUTES {
        let of_part = |file: &&File| file.is_rust() && file.path.starts_with(&format!("src/{part}"));
        assert!(files.iter().any(|file| of_part(&file)), "there is no src/{part} any more");
        for file in files.iter().filter(of_part) {
            let named = file.code().into_iter().filter(|(_, line)| has_word(line, "Lifecycle"));
            findings.extend(named.map(|(n, _)| format!("{}:{n}", file.path)));
        }
    }
    none("code that executes decisions gets effects and facts, and never `Lifecycle`", findings);
}

/// Whether `line` contains `word`, and not only as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_name);
        let after = line[at + word.len()..].chars().next().is_some_and(is_name);
        !(before && word.starts_with(is_name) || after && word.ends_with(is_name))
    })
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && !file.path.starts_with("benches/")) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(path, _)| *path == file.path) {
            findings.push(format!("{}: {lines} lines, more than {LINES_MAX}: split it", file.path));
        }
        let needs_no_text = file.is_test() && file.path.starts_with("src/");
        if !file.text.starts_with("//!") && !needs_no_text {
            findings.push(format!("{}: starts without a `//!` that says what the file is for", file.path));
        }
    }
    for dir in directories(&root().join("src")) {
        let (beside, inside) = (dir.with_extension("rs"), dir.join("mod.rs"));
        if has_rust(&dir) && !beside.exists() && !inside.exists() && !dir.ends_with("src") && !dir.ends_with("bin") {
            findings.push(format!("{} has no mod.rs that lists its files", dir.display()));
        }
    }
    none("every file says what it is for and is short", findings);
}

#[test]
fn a_mod_file_has_documentation_and_no_code() {
    let map = Regex::new(r"^(#\[cfg\(test\)\]|(pub(\([^)]*\))? )?(use|mod) )").unwrap();
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/") && file.path.ends_with("/mod.rs")) {
        let mut names = false;
        for (n, line) in file.code().iter().filter(|(_, line)| !line.trim().is_empty()) {
            let begins = map.is_match(line);
            if !begins && !names {
                findings.push(format!("{}:{n}: {line}", file.path));
            }
            // A list of names can span several lines.
            names = (begins || names) && !line.ends_with(';');
        }
    }
    none("mod.rs documents and re-exports, and nothing else", findings);
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    below.flat_map(|path| directories(&path)).chain([dir.to_owned()]).collect()
}

fn has_rust(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|it| it == "rs"))
}

#[test]
fn no_work_is_left_for_later() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path != "tests/tidy.rs") {
        for (n, line, _) in file.lines() {
            let found = FORBIDDEN.iter().filter(|(word, _)| line.contains(word));
            findings.extend(found.map(|(word, instead)| format!("{}:{n}: {word}; {instead}", file.path)));
        }
    }
    none("no work is left for later", findings);
}

#[test]
fn tests_wait_for_facts() {
    let pause = Regex::new(r"\bsleep\(.*from_(millis|micros)\((\d+)\)").unwrap();
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path != "tests/tidy.rs") {
        let mut pauses = Vec::new();
        for (n, line) in file.tests().iter().filter(|(_, line)| line.contains("sleep(") && !line.contains("fn sleep("))
        {
            let short = pause.captures(line).is_some_and(|found| {
                let bound = if &found[1] == "millis" { PAUSE_MS_MAX } else { 1000 * PAUSE_MS_MAX };
                found[2].parse::<u64>().is_ok_and(|pause| pause <= bound)
            });
            if !short {
                pauses.push(*n);
            }
        }
        let listed = SLEEPS.iter().find(|(path, ..)| *path == file.path).map_or(0, |(_, count, _)| *count);
        if pauses.len() != listed {
            findings.push(format!("{}: sleeps at {pauses:?}, {listed} listed: wait for a fact", file.path));
        }
    }
    none("tests wait for facts, not for time", findings);
}
