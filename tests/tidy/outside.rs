//! What the project names of the world outside: hosts, paths of machines, and other people's code.

use regex::Regex;

use crate::{files, has_word, none, read, root};

/// Hosts that texts may name: those of cited documents, those in the first line of a Git LFS pointer, and example names.
const HOSTS: &[&str] = &[
    "nixos.org",
    "github.com",
    "git-lfs.github.com",
    "hawser.github.com",
    "127.0.0.1",
    "localhost",
    "example.org",
    "x.test",
    "cdn.x.test",
    "host",
    "h",
    "HOST",
];

/// Directories below the root in which build machines keep checkouts: readers do not have paths below them.
const CHECKOUTS: &[&str] = &["work", "workspace", "Users", "home/runner"];

#[test]
fn the_project_names_no_foreign_host_or_path() {
    let host = Regex::new(r"\bhttps?://(?:[^/@\s]*@)?([\w.-]+)").unwrap();
    let mut checkouts: Vec<String> = CHECKOUTS.iter().map(|place| format!("/{place}/")).collect();
    checkouts.push(root().display().to_string());
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.path != "tests/tidy/outside.rs") {
        for (n, line) in file.text.lines().enumerate() {
            let place = || format!("{}:{}", file.path, n + 1);
            for found in host.captures_iter(line).filter(|found| !HOSTS.contains(&&found[1])) {
                findings.push(format!("{}: the host {}", place(), &found[1]));
            }
            for checkout in &checkouts {
                let starts = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.}-".contains(c));
                if line.match_indices(checkout.as_str()).any(|(at, _)| starts(at)) {
                    findings.push(format!("{}: a path of one person's machine: {checkout}", place()));
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
    none("the project names no foreign host or path", findings);
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
            findings.push(format!("{name}: no reason stands after it"));
        }
        if !has_word(&rust, &name.replace('-', "_")) {
            findings.push(format!("{name}: no Rust file uses it"));
        }
    }
    assert!(count > 20, "the dependencies were not found");
    none("every dependency has a reason and a user", findings);
}
