//! Acts that one place does for all: writing to the terminal, and making Landlock rules.

use super::{files, has_word, none};

/// The files that may write to standard output and standard error, and why.
const WRITERS: &[(&str, &str)] = &[
    ("src/cli/ui.rs", "all commands write through it, and it escapes"),
    ("src/cli/run.rs", "the log, whose fields are escaped"),
    ("src/cli/progress.rs", "the progress bar, whose text is escaped"),
    ("src/runtime/keeper/server.rs", "the keeper, which prints only its own arguments"),
    ("src/runtime/logs/server.rs", "the logger, which prints only its own arguments"),
    ("src/tap/server.rs", "the tap, which prints only why it could not run"),
    ("src/validation/builder/", "a builder inside Nix: rei escapes its log when it shows the log"),
    ("src/nix/probe.rs", "a builder inside Nix, like the one above"),
    ("src/demo/serve.rs", "the demo's runtime: rei escapes its log when it shows the log"),
    ("src/demo/program.rs", "the demo's runtime, like the one above"),
];

#[test]
fn one_place_writes_to_the_terminal() {
    let names = ["println!", "print!", "eprintln!", "eprint!", "stdout()", "stderr()", "io::stdout", "io::stderr"];
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path.starts_with("src/")) {
        if WRITERS.iter().any(|(path, _)| file.path.starts_with(path)) {
            continue;
        }
        for (n, line) in file.code() {
            if names.iter().any(|name| has_word(line, name)) {
                findings.push(format!("{}:{n}: print through cli::ui, which escapes the text of others", file.path));
            }
        }
    }
    none("one place writes to the terminal", findings);
}

#[test]
fn one_place_makes_landlock_rules() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.is_rust() && file.path.starts_with("src/")) {
        if file.module() == Some("sandbox") {
            continue;
        }
        for (n, line) in file.code() {
            if line.contains("landlock::") {
                findings.push(format!("{}:{n}: use a Domain of `sandbox`, and the lists there", file.path));
            }
        }
    }
    none("one place makes Landlock rules", findings);
}
