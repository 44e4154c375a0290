//! Another version of rei, built from this one's sources: it has other sentences, stores more, decides differently, and writes
//! another minor version of the journal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rei::journal::FORMAT_MINOR;

/// The version that it reports.
pub const VERSION: &str = "0.2.0";

/// The differences: a file, a text that occurs in it once, and its replacement.
fn differences() -> Vec<(&'static str, String, String)> {
    let minor = |minor: u32| format!("FORMAT_MINOR: u32 = {minor};");
    let version = |version: &str| format!("name = \"rei\"\nversion = \"{version}\"\n");
    let words = "{format!(\"in other words, {}\", words(of))}\nfn words(of: &Reason) -> String {";
    vec![
        ("Cargo.toml", version("0.1.0"), version(VERSION)),
        ("Cargo.lock", version("0.1.0"), version(VERSION)),
        ("src/journal/line.rs", minor(FORMAT_MINOR), minor(FORMAT_MINOR + 1)),
        // All its sentences are different.
        (
            "src/narrate/reason.rs",
            "pub fn reason(of: &Reason) -> String {".to_owned(),
            format!("pub fn reason(of: &Reason) -> String {words}"),
        ),
        // A reason that this rei does not know, and one that is a sentence.
        (
            "src/lifecycle/step.rs",
            "out.push(Effect::SetTimer { timer, at, reason });".to_owned(),
            "let said = serde_json::json!({ \"why\": \"of_a_later_rei\", \"said\": format!(\"{reason:?}\") });\n\
             out.push(Effect::SetTimer { timer, at, reason: Reason::Unknown(Box::new(said)) });"
                .to_owned(),
        ),
        (
            "src/lifecycle/step.rs",
            "            reason,\n".to_owned(),
            "            reason: Reason::Text(format!(\"in other words, {reason:?}\")),\n".to_owned(),
        ),
        // A different decision: a switch has one second less.
        ("src/lifecycle/promote.rs", "PLAN_MS: u64 = 10_000;".to_owned(), "PLAN_MS: u64 = 9_000;".to_owned()),
        // An additional field in the state and in the evolution.
        (
            "src/lifecycle/state.rs",
            "pub struct Lifecycle {".to_owned(),
            "pub struct Lifecycle {\n    pub(super) of_a_later_rei: u64,".to_owned(),
        ),
        (
            "src/lifecycle/state.rs",
            "pub struct Evolution {".to_owned(),
            "pub struct Evolution {\n    /// Of a later rei.\n    pub of_a_later_rei: Option<String>,".to_owned(),
        ),
    ]
}

/// The files that it is built from.
const PARTS: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", "src", "checks", "interface", "modules/unit.toml", "examples/served.rs"];

/// The program; if there is no cargo, prints the reason and returns `None`. It is built once, beside this one: crates that both
/// use are not compiled again.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if !Path::new(env!("CARGO")).exists() {
        eprintln!("SKIPPED: this test builds another rei, and there is no cargo here");
        return None;
    }
    Some(PROGRAM.get_or_init(|| {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("another-rei");
        // The outermost target directory: below it there is one for each architecture, with the same mark.
        let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").exists();
        let target =
            Path::new(env!("CARGO_BIN_EXE_rei")).ancestors().filter(marked).last().expect("a target directory");
        write(&copy);
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--bins", "--example", "another-served", "--manifest-path"])
            .arg(copy.join("Cargo.toml"))
            // Cargo finds the compiler flags from this directory.
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target)
            .status()
            .unwrap();
        assert!(built.success(), "another rei cannot be built in {}", copy.display());
        Path::new(env!("CARGO_BIN_EXE_rei")).with_file_name("another-rei")
    }))
}

/// Writes its sources. An unchanged file keeps its time, so that cargo does not build it again.
fn write(copy: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    for part in PARTS {
        read(root, Path::new(part), &mut sources);
    }
    for (file, here, there) in differences() {
        let text = sources.get_mut(Path::new(file)).expect(file);
        assert_eq!(text.matches(&here).count(), 1, "{file}: {here}");
        *text = text.replace(&here, &there);
    }
    let manifest = sources.get_mut(Path::new("Cargo.toml")).expect("Cargo.toml");
    *manifest = with_other_targets(manifest);
    let mut old = BTreeMap::new();
    if copy.exists() {
        read(copy, Path::new(""), &mut old);
    }
    for gone in old.keys().filter(|path| !sources.contains_key(*path)) {
        std::fs::remove_file(copy.join(gone)).unwrap();
    }
    for (path, text) in sources.iter().filter(|(path, text)| old.get(*path) != Some(*text)) {
        let path = copy.join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Reads a file, or all files of a directory, by their paths below `root`.
fn read(root: &Path, part: &Path, into: &mut BTreeMap<PathBuf, String>) {
    let path = root.join(part);
    if !path.is_dir() {
        into.insert(part.to_owned(), std::fs::read_to_string(&path).unwrap());
        return;
    }
    for entry in std::fs::read_dir(&path).unwrap() {
        read(root, &part.join(entry.unwrap().file_name()), into);
    }
}

/// The manifest with other target names, because both are built in one directory. It keeps the example: crates are shared only if
/// both builds have the same features, and examples use the features of the tests.
fn with_other_targets(manifest: &str) -> String {
    let mut kept = String::new();
    let mut is_target = false;
    for line in manifest.lines().filter(|line| !line.starts_with("default-run")) {
        if line.starts_with('[') {
            is_target = line.starts_with("[[");
        }
        if line == "[dependencies]" {
            kept += "autobins = false\nautoexamples = false\nautobenches = false\nautotests = false\n";
        }
        if !is_target {
            kept += line;
            kept.push('\n');
        }
    }
    kept + "\n[[bin]]\nname = \"another-rei\"\npath = \"src/main.rs\"\n\n\
            [[example]]\nname = \"another-served\"\npath = \"examples/served.rs\"\n"
}
