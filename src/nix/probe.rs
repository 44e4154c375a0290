//! The builder that looks at the sandbox from inside. It runs as the builder of one derivation, judges nothing but where
//! it is, and writes what it found to `$out/verdict.json`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The first argument by which rei knows that it is run as this builder.
pub const PROBE_ARGUMENT: &str = "builder-probe";

/// The namespaces that a sandbox must not share with the machine.
pub(super) const NAMESPACES: [&str; 4] = ["net", "pid", "mnt", "ipc"];

/// An address that belongs to nobody (RFC 5737): a route to it is a route to the world.
const OUTSIDE: &str = "192.0.2.1:9";

/// A store entry more than these is named at most this often.
const NAMED_MAX: usize = 5;

/// What the builder found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// The value that it was given, so that an old verdict is not taken for this one.
    pub(super) nonce: String,
    /// What is not as it is in a sandbox, each for a person; empty when it holds.
    pub(super) findings: Vec<String>,
}

/// Runs as the builder. The environment is that of the derivation that `sandbox` makes.
///
/// Exits 0 whenever it could write its verdict, whatever it is.
pub fn probe_builder_main() -> ExitCode {
    let given = |name: &str| std::env::var_os(name);
    let Some(out) = given("out").map(PathBuf::from) else {
        eprintln!("rei {PROBE_ARGUMENT} is run by Nix, as a builder");
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

/// All that is not as it is in a sandbox.
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

/// The namespace of this process as the kernel names it: `net:[4026531840]`.
pub(super) fn namespace(name: &str) -> Option<OsString> {
    std::fs::read_link(Path::new("/proc/self/ns").join(name)).ok().map(PathBuf::into_os_string)
}

fn network() -> Vec<String> {
    let mut findings = Vec::new();
    match std::fs::read_to_string("/proc/self/net/dev") {
        Ok(table) => {
            let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
            findings
                .extend(names.filter(|name| *name != "lo").map(|name| format!("there is a network interface {name}")));
        }
        Err(error) => findings.push(format!("the network interfaces cannot be listed: {error}")),
    }
    // Connecting a UDP socket sends nothing: it asks for a route.
    let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(OUTSIDE));
    if route.is_ok() {
        findings.push("there is a route to the world".to_owned());
    }
    findings
}

/// Everything in the store but the builder itself, its closure, and its output.
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
    vec![format!("the store shows {} paths that are no input: {}", other.len(), named.join(", "))]
}
