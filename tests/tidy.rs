//! The rules of the house that no compiler checks: who may use whom, what the pure parts leave alone, how files look.
//!
//! Each rule is data with its why, and a failure says where and what to do. Nothing is run or changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use regex::Regex;

#[path = "tidy/circles.rs"]
mod circles;

/// Every room and the rooms that it may use. A room stands below all that use it, so imports run one way.
///
/// ARCHITECTURE.md shows this as its table of rooms; a test keeps the two alike.
const ROOMS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("report", &[]),
    ("command", &[]),
    ("changes", &[]),
    ("http", &[]),
    ("poll", &[]),
    ("process", &[]),
    ("seccomp", &[]),
    ("digest", &[]),
    ("redact", &["digest"]),
    ("interface", &["digest", "poll", "time"]),
    ("config", &["interface", "redact"]),
    ("lifecycle", &["interface", "time"]),
    ("health", &["config", "digest", "interface", "time"]),
    ("journal", &["digest", "time"]),
    ("nix", &["command", "digest"]),
    ("source", &["changes", "command", "interface", "redact", "time"]),
    ("golden", &["digest", "http", "redact", "report", "time"]),
    ("runtime", &["command", "config", "digest", "interface", "poll", "process", "report", "seccomp", "time"]),
    ("diagnosis", &["digest", "golden", "health", "interface", "redact"]),
    ("blueprint", &["command", "config", "digest", "interface", "process", "redact", "seccomp", "source", "time"]),
    ("validation", &["config", "digest", "golden", "http", "interface", "nix", "poll", "report", "time"]),
    (
        "preflight",
        &[
            "blueprint",
            "changes",
            "config",
            "digest",
            "golden",
            "journal",
            "nix",
            "poll",
            "report",
            "runtime",
            "source",
        ],
    ),
    ("supervisor", ANY_LOWER),
    ("demo", ANY_LOWER),
    ("cli", ANY_LOWER),
];

/// The rooms on top may use all that stands above them in [`ROOMS`].
const ANY_LOWER: &[&str] = &["*"];

/// What is pure: rooms, and single files of others. They decide or compute; time, ids and facts are handed to them.
const PURE: &[&str] = &[
    "lifecycle/",
    "health/",
    "interface/types.rs",
    "config/types.rs",
    "validation/plan.rs",
    "validation/report.rs",
    "validation/verdict.rs",
    "blueprint/machine.rs",
    "blueprint/graph.rs",
    "golden/compare.rs",
    "golden/facets.rs",
    "golden/normalise.rs",
    "nix/progress.rs",
    "source/parse.rs",
    "runtime/traffic/program.rs",
    "runtime/traffic/order.rs",
    "supervisor/reconcile.rs",
];

/// What the pure leave alone. Hash maps are here because their order is random. Addresses are only words, and allowed.
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

/// What stands nowhere, and what to write instead.
const NOWHERE: &[(&str, &str)] = &[
    ("todo!", "do it"),
    ("unimplemented!", "do it"),
    ("dbg!", "use tracing"),
    ("#[allow(", "#[expect(lint, reason = \"…\")]"),
    ("FIXME", "do it"),
];

/// Lines of a file: what a reader holds in the head.
const LINES_MAX: usize = 600;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Pauses of a test beyond those of a loop that waits for a fact: in which file, how many, and why.
const SLEEPS: &[(&str, usize, &str)] = &[
    ("tests/interface/peers.rs", 1, "that a stream has ended is seen by nothing coming any more"),
    ("tests/instance/spawning.rs", 1, "kills at moments spread over the cycle of a spawn"),
    ("tests/instance/helper.rs", 2, "the program under test hangs on purpose, or takes its time for an answer"),
    ("tests/bad_input/lab.rs", 3, "looks at another process's answers and files until they are there"),
    ("tests/evolution/kills.rs", 2, "kills at random moments, and looks until processes are gone"),
    ("tests/evolution/load.rs", 2, "looks at the counts of its own threads until they have grown"),
    ("tests/evolution/lab.rs", 3, "looks at another process's answers and files until they are there"),
    ("tests/traffic/keeper.rs", 1, "that a keeper stays is seen by time going by"),
];

/// The longest pause of a loop that waits for a fact, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;

/// Hosts that texts of the project may name: documents it cites, and names that belong to nobody.
const HOSTS: &[&str] =
    &["nixos.org", "github.com", "127.0.0.1", "localhost", "example.org", "x.test", "host", "h", "HOST"];

/// Where build machines keep checkouts, below the root: a path below these is one that no reader has.
const CHECKOUTS: &[&str] = &["work", "workspace", "Users", "home/runner"];

/// A file of the project, by its path below the root.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The room that a file of `src/` belongs to.
    fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let room = below.split('/').next()?;
        Some(room.strip_suffix(".rs").unwrap_or(room))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is a test.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("tests/") || name.ends_with("tests.rs") || name == "testing.rs"
    }

    /// The lines that are code and no test, numbered, without comments.
    fn code(&self) -> Vec<(usize, &str)> {
        if self.is_test() {
            Vec::new()
        } else {
            self.lines().into_iter().filter(|line| !line.2).map(|(n, it, _)| (n, it)).collect()
        }
    }

    /// The lines of tests, numbered, without comments.
    fn tests(&self) -> Vec<(usize, &str)> {
        let whole = self.is_test();
        self.lines().into_iter().filter(|line| whole || line.2).map(|(n, it, _)| (n, it)).collect()
    }

    /// Each line with its number, without its comment, and whether it belongs to an item for tests alone.
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

/// Every text file of the project but what tools wrote.
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

/// The rooms that each room uses, with the first place that does.
fn uses(files: &[File]) -> BTreeMap<String, BTreeMap<String, String>> {
    let path = Regex::new(r"\bcrate::(\w+|\{[^}]*\})").unwrap();
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some(room) = file.room().filter(|room| !["lib", "main", "bin"].contains(room)) else { continue };
        let used = found.entry(room.to_owned()).or_default();
        for (n, line) in file.code() {
            for capture in path.captures_iter(line) {
                assert!(
                    !capture[1].starts_with('{'),
                    "{}:{n}: one `use crate::…` a room, so that it can be read",
                    file.path
                );
                if &capture[1] != room {
                    used.entry(capture[1].to_owned()).or_insert_with(|| format!("{}:{n}", file.path));
                }
            }
        }
    }
    found
}

fn may_use(room: &str) -> BTreeSet<&'static str> {
    let at =
        ROOMS.iter().position(|(name, _)| *name == room).unwrap_or_else(|| panic!("a new room: add {room} to ROOMS"));
    match ROOMS[at].1 {
        all if all == ANY_LOWER => ROOMS[..at].iter().map(|(name, _)| *name).collect(),
        named => named.iter().copied().collect(),
    }
}

#[test]
fn imports_run_one_way() {
    let found = uses(&files());
    for (at, (room, named)) in ROOMS.iter().enumerate() {
        let lower: Vec<&str> = ROOMS[..at].iter().map(|(name, _)| *name).collect();
        let known = |used: &&str| *used == "*" || lower.contains(used);
        assert!(named.iter().all(known), "{room} may use only rooms that stand above it in the list");
        assert!(found.contains_key(*room), "{room} is listed, but there is no such room");
    }
    let mut findings = Vec::new();
    for (room, used) in &found {
        let allowed = may_use(room);
        for (other, place) in used.iter().filter(|(other, _)| !allowed.contains(other.as_str())) {
            findings.push(format!("{place}: {room} must not use {other}"));
        }
        let named = ROOMS.iter().find(|(name, _)| name == room).map_or(&[][..], |(_, named)| named);
        for idle in named.iter().filter(|named| **named != "*" && !used.contains_key(**named)) {
            findings.push(format!("{room} does not use {idle} any more: take it off the list"));
        }
    }
    none("imports run one way", findings);
}

#[test]
fn the_map_and_the_architecture_name_every_room() {
    let (map, mut table) = (read("src/lib.rs"), String::from("| room | may use |\n|---|---|\n"));
    for (room, named) in ROOMS {
        assert!(map.contains(&format!("pub mod {room};")), "src/lib.rs does not have {room}");
        let named = match *named {
            [] => "nothing of the house".to_owned(),
            ["*"] => "all rooms above in this table".to_owned(),
            named => named.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        writeln!(table, "| `{room}` | {named} |").unwrap();
    }
    let page = read("ARCHITECTURE.md");
    assert!(page.contains(&table), "ARCHITECTURE.md needs this table of rooms:\n\n{table}");
}

#[test]
fn the_pure_have_no_clock_no_input_and_no_chance() {
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
    none("the pure get facts and time as arguments", findings);
}

/// Whether `word` stands in `line` and is no part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_name);
        let after = line[at + word.len()..].chars().next().is_some_and(is_name);
        !(before && word.starts_with(is_name) || after && word.ends_with(is_name))
    })
}

#[test]
fn every_file_says_what_it_is_for_and_fits_in_a_head() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && !file.path.starts_with("benches/")) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(path, _)| *path == file.path) {
            findings.push(format!("{}: {lines} lines, more than {LINES_MAX}: split it", file.path));
        }
        let needs_no_word = file.is_test() && file.path.starts_with("src/");
        if !file.text.starts_with("//!") && !needs_no_word {
            findings.push(format!("{}: begins with no `//!` that says what it is for", file.path));
        }
    }
    for dir in directories(&root().join("src")) {
        let (room, folder) = (dir.with_extension("rs"), dir.join("mod.rs"));
        if has_rust(&dir) && !room.exists() && !folder.exists() && !dir.ends_with("src") && !dir.ends_with("bin") {
            findings.push(format!("{} has no mod.rs that is its map", dir.display()));
        }
    }
    none("a reader finds the way", findings);
}

#[test]
fn a_mod_file_is_a_map_and_holds_no_code() {
    let map = Regex::new(r"^(#\[cfg\(test\)\]|(pub(\([^)]*\))? )?(use|mod) )").unwrap();
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/") && file.path.ends_with("/mod.rs")) {
        let mut names = false;
        for (n, line) in file.code().iter().filter(|(_, line)| !line.trim().is_empty()) {
            let begins = map.is_match(line);
            if !begins && !names {
                findings.push(format!("{}:{n}: {line}", file.path));
            }
            // A list of names goes over lines.
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

/// Where standard output and standard error may be written, and why.
const WRITERS: &[(&str, &str)] = &[
    ("src/cli/ui.rs", "the one place: it escapes"),
    ("src/cli/run.rs", "the log, whose fields are escaped"),
    ("src/cli/progress.rs", "the bar, whose words are escaped"),
    ("src/runtime/keeper/server.rs", "the keeper, which says only what it was started with"),
    ("src/runtime/logs/server.rs", "the logger, likewise"),
    ("src/validation/builder/", "a builder inside Nix: its log is escaped where it is shown"),
    ("src/nix/probe.rs", "as above"),
    ("src/demo/serve.rs", "the demo's runtime: its log is escaped where it is shown"),
    ("src/demo/program.rs", "as above"),
];

#[test]
fn one_place_writes_to_the_terminal() {
    let ways = ["println!", "print!", "eprintln!", "eprint!", "stdout()", "stderr()", "io::stdout", "io::stderr"];
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path.starts_with("src/")) {
        if WRITERS.iter().any(|(path, _)| file.path.starts_with(path)) {
            continue;
        }
        for (n, line) in file.code() {
            if ways.iter().any(|way| has_word(line, way)) {
                findings.push(format!("{}:{n}: say it through cli::ui, which escapes what others wrote", file.path));
            }
        }
    }
    none("one place writes to the terminal", findings);
}

#[test]
fn nothing_is_left_for_later() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path != "tests/tidy.rs") {
        for (n, line, _) in file.lines() {
            let found = NOWHERE.iter().filter(|(word, _)| line.contains(word));
            findings.extend(found.map(|(word, instead)| format!("{}:{n}: {word}; {instead}", file.path)));
        }
    }
    none("nothing is left for later", findings);
}

#[test]
fn tests_wait_for_facts() {
    let pause = Regex::new(r"\bsleep\(.*from_(millis|micros)\((\d+)\)").unwrap();
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path != "tests/tidy.rs") {
        let mut lone = Vec::new();
        for (n, line) in file.tests().iter().filter(|(_, line)| line.contains("sleep(") && !line.contains("fn sleep("))
        {
            let short = pause.captures(line).is_some_and(|found| {
                let bound = if &found[1] == "millis" { PAUSE_MS_MAX } else { 1000 * PAUSE_MS_MAX };
                found[2].parse::<u64>().is_ok_and(|pause| pause <= bound)
            });
            if !short {
                lone.push(*n);
            }
        }
        let listed = SLEEPS.iter().find(|(path, ..)| *path == file.path).map_or(0, |(_, count, _)| *count);
        if lone.len() != listed {
            findings.push(format!("{}: sleeps at {lone:?}, {listed} listed: wait for a fact", file.path));
        }
    }
    none("tests wait for facts, not for time", findings);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let host = Regex::new(r"\bhttps?://(?:[^/@\s]*@)?([\w.-]+)").unwrap();
    let mut checkouts: Vec<String> = CHECKOUTS.iter().map(|place| format!("/{place}/")).collect();
    checkouts.push(root().display().to_string());
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.path != "tests/tidy.rs") {
        for (n, line) in file.text.lines().enumerate() {
            let place = || format!("{}:{}", file.path, n + 1);
            for found in host.captures_iter(line).filter(|found| !HOSTS.contains(&&found[1])) {
                findings.push(format!("{}: the host {}", place(), &found[1]));
            }
            for checkout in &checkouts {
                let starts = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.}-".contains(c));
                if line.match_indices(checkout.as_str()).any(|(at, _)| starts(at)) {
                    findings.push(format!("{}: a path of somebody's machine: {checkout}", place()));
                }
            }
        }
    }
    let sources = read("Cargo.lock");
    for line in sources.lines().filter(|line| line.starts_with("source = ")) {
        if line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"" {
            findings.push(format!("Cargo.lock: {line}"));
        }
    }
    none("the project speaks of itself alone", findings);
}

#[test]
fn every_dependency_has_a_reason_and_a_user() {
    let manifest = read("Cargo.toml");
    let rust: String = files().iter().filter(|file| file.is_rust()).map(|file| file.text.as_str()).collect();
    let (mut section, mut findings, mut count) = ("", Vec::new(), 0);
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, rest)) = line.split_once(" = ").filter(|_| section.ends_with("dependencies]")) else {
            continue;
        };
        count += 1;
        if rest.split_once(" # ").is_none_or(|(_, reason)| reason.len() <= 3) {
            findings.push(format!("{name}: no reason after it"));
        }
        if !has_word(&rust, &name.replace('-', "_")) {
            findings.push(format!("{name}: nobody uses it"));
        }
    }
    assert!(count > 20, "the dependencies were not found");
    none("a dependency is for something", findings);
}
