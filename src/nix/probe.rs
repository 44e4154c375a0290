//! The builder that checks the sandbox from inside. It runs as the builder of one derivation, checks only its
//! surroundings, and writes what it found to `$out/verdict.json`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The first argument that makes rei run as this builder.
pub const PROBE_ARGUMENT: &str = "builder-probe";

/// The namespaces that a sandbox must not share with the machine.
pub(super) const NAMESPACES: [&str; 4] = ["net", "pid", "mnt", "ipc"];

/// A documentation address (RFC 5737) that no host has. A route to it means a route to the outside.
const OUTSIDE: &str = "192.0.2.1:9";

/// Maximum number of unexpected store entries that are listed.
const NAMED_MAX: usize = 5;

/// The result of the builder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// The nonce of the derivation, so that an old verdict is not mistaken for this one.
    pub(super) nonce: String,
    /// Differences from a sandbox, as text; empty if the sandbox holds.
    pub(super) findings: Vec<String>,
}

/// Runs as the builder, with the environment of the derivation that `sandbox` makes.
///
/// Exits with 0 if it could write its verdict, whatever the verdict is.
pub fn probe_builder_main() -> ExitCode {
    let given = |name: &str| std::env::var_os(name);
    let Some(out) = given("out").map(PathBuf::from) else {
        eprintln!("rei {PROBE_ARGUMENT} must be run by Nix, as a builder");
        return ExitCode::from(2);
    };
    let text = |name: &str| given(name).unwrap_or_default().to_string_lossy().into_owned();
    let verdict = Verdict { nonce: text("nonce"), findings: findings(&given, &out) };
    let written = std::fs::create_dir(&out)
        .and_then(|()| std::fs::write(out.join("verdict.json"), serde_json::json!(verdict).to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", out.display());
            ExitCode::FAILURE
        }
    }
}

/// All differences from a sandbox.
fn findings(given: &impl Fn(&str) -> Option<OsString>, out: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    let pid = std::process::id();
    if pid != 1 {
        findings.push(format!("the builder is process {pid}: it sees other processes"));
    }
    for name in NAMESPACES {
        let here = namespace(name);
        let outside = given(&format!("namespace_{name}")).unwrap_or_default();
        if here.as_deref().is_none_or(|here| *here == *outside) {
            findings.push(format!("the {name} namespace is that of the machine"));
        }
    }
    findings.extend(network());
    let secret = PathBuf::from(given("secret").unwrap_or_default());
    if secret.as_os_str().is_empty() || secret.symlink_metadata().is_ok() {
        findings.push(format!("the machine's file {} can be seen", secret.display()));
    }
    let own = given("builder").map(PathBuf::from);
    let store = given("NIX_STORE").map(PathBuf::from).unwrap_or_default();
    findings.extend(store_entries(&store, own.as_deref(), out));
    findings
}

/// The namespace of this process, in the kernel's notation: `net:[4026531840]`.
pub(super) fn namespace(name: &str) -> Option<OsString> {
    std::fs::read_link(Path::new("/proc/self/ns").join(name)).ok().map(PathBuf::into_os_string)
}

fn network() -> Vec<String> {
    let mut findings = Vec::new();
    match std::fs::read_to_string("/proc/self/net/dev") {
        Ok(table) => {
            let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
            findings
                .extend(names.filter(|name| *name != "lo").map(|name| format!("the network interface {name} exists")));
        }
        Err(error) => findings.push(format!("the network interfaces cannot be listed: {error}")),
    }
    // Connecting a UDP socket sends nothing; it only looks up a route.
    let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(OUTSIDE));
    if route.is_ok() {
        findings.push("there is a route to the outside".to_owned());
    }
    findings
}

/// All store entries except the builder itself and its output.
fn store_entries(store: &Path, own: Option<&Path>, out: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(store) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect::<BTreeSet<_>>(),
        Err(error) => return vec![format!("the store {} cannot be listed: {error}", store.display())],
    };
    let other: Vec<_> = entries.iter().filter(|path| Some(path.as_path()) != own && *path != out).collect();
    if other.is_empty() {
        return Vec::new();
    }
    let named: Vec<_> = other.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    vec![format!("the store contains {} paths that are not inputs: {}", other.len(), named.join(", "))]
}
