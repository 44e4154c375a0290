//! The whole of `rei demo`, on this machine's Nix.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether Nix and git are installed; if not, prints that the test is skipped.
fn can_play() -> bool {
    let runs = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let missing: Vec<&str> = ["nix-store", "git"].into_iter().filter(|program| !runs(program)).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: no {} here", missing.join(" and no "));
    }
    missing.is_empty()
}

/// The directory that the demo names in its first lines.
fn home_of(story: &str) -> &str {
    let (_, rest) = story.split_once("everything is below ").expect("the story names its directory");
    rest.lines().next().unwrap().trim_end_matches('.')
}

/// Processes that name `home` in their command line or environment.
fn processes_of(home: &str) -> Vec<String> {
    let names = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(home.len()).any(|window| window == home.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let found = entries.filter(|path| names(&path.join("cmdline")) || names(&path.join("environ")));
    found.map(|path| path.display().to_string()).collect()
}

#[test]
fn the_story_succeeds_and_leaves_nothing_behind() {
    if !can_play() {
        return;
    }
    // The runtime must be beside rei, as in an installation.
    assert!(Path::new(env!("CARGO_BIN_EXE_rei-demo-runtime")).is_file());
    let output = Command::new(env!("CARGO_BIN_EXE_rei")).args(["demo", "--plain"]).output().unwrap();
    let (story, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{story}\n{said}");
    assert!(!story.contains('\x1b'));
    for fact in [
        "1 · A bug",
        "0 were refused",
        "inc_0001 opens",
        "2 · A repair",
        "salutation (bin/greeter:",
        "stops Active in a sandbox, too, 3 of 3 times",
        "the agent changed bin/greeter",
        "reproduction: what failed on Active 3 of 3 times passes 3 times",
        "is answered with 404 now",
        "3 · A slow upgrade",
        "degraded, ",
        "Previous is restored in ",
        "4 · A test deleted",
        "protected: 1 of the protected files are not as in Active (removed: tests/farewell.rhai)",
        "unit/farewell: Active's flake has the check \"farewell\", and the candidate's has not",
        "5 · The operator's view",
        "$ nix-env --list-generations",
        "(current)",
        "requests lost to the promotion   0 of ",
        "died in the crashes, 0 lost otherwise",
        "All of it held",
    ] {
        assert!(story.contains(fact), "the story lacks {fact:?}:\n{story}");
    }
    let home = home_of(&story);
    assert!(!Path::new(home).exists(), "{home} is still there");
    assert_eq!(processes_of(home), [""; 0]);
}

#[test]
fn an_interrupted_story_leaves_nothing_behind() {
    if !can_play() {
        return;
    }
    let mut demo = Command::new(env!("CARGO_BIN_EXE_rei"))
        .args(["demo", "--plain"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut story = String::new();
    let mut lines = BufReader::new(demo.stdout.take().unwrap());
    while !story.contains("kept open") {
        assert_ne!(lines.read_line(&mut story).unwrap(), 0, "the demo ended early:\n{story}");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(!Path::new(home_of(&story)).exists());
    assert_eq!(processes_of(home_of(&story)), [""; 0]);
}
