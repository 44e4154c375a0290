//! Checks whether builds are really sandboxed. Without a sandbox a check is worth nothing, but by default Nix silently
//! builds without one if it cannot make one, and ignores the sandbox option of an untrusted user. So before anything is
//! judged, one derivation is built whose builder checks its surroundings.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::error::{Error, Problem};
use super::evaluate::Derivation;
use super::locate::Nix;
use super::probe::{NAMESPACES, PROBE_ARGUMENT, Verdict, namespace};
use super::realise::{Failure, FailureKind, RealiseOptions};

/// Timeout of the probe's build, which takes a tenth of a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of the probe's verdict, in bytes.
const VERDICT_BYTES_MAX: u64 = 64 << 10;

/// The derivation of the probe. `nonce` makes it new each time, so that no cached result is used.
const EXPRESSION: &str = "a: { probe = derivation (a.env // {
  name = \"rei-sandbox-probe\";
  system = builtins.currentSystem;
  builder = builtins.storePath a.program;
  args = a.args;
  allowSubstitutes = false;
  preferLocalBuild = true;
}); }";

/// The program that is the builder of rei's own derivations. It is static, so it needs no other file in the sandbox.
#[derive(Clone, Debug)]
pub struct Builder {
    /// The program.
    pub program: PathBuf,
    /// The arguments that make it run as the probe.
    pub probe_args: Vec<OsString>,
}

/// The proof that builds were sandboxed at this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The builder's path in the store, for later checks. Create a root for it, or the garbage collector may remove it.
    pub builder: PathBuf,
    /// The derivation of the probe.
    pub derivation: Derivation,
}

/// Why no candidate can be judged on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A call of Nix failed.
    #[error("cannot check the sandbox")]
    Nix(#[source] Error),
    /// A file of rei's own could not be read or written.
    #[error("cannot check the sandbox: cannot {} {}", act, path.display())]
    File {
        /// The operation that failed.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The builder needs shared libraries, which are not in the sandbox.
    #[error("{} is not linked statically, so it cannot be a builder", program.display())]
    NotStatic {
        /// The program.
        program: PathBuf,
    },
    /// The kernel does not support the sandbox.
    #[error("the kernel does not allow Nix to make a sandbox: {message}")]
    NoNamespaces {
        /// The message of Nix.
        message: String,
    },
    /// The probe was built, but not in a sandbox.
    #[error("Nix builds without a sandbox: {}", findings.join("; "))]
    NotSandboxed {
        /// What the builder found.
        findings: Vec<String>,
        /// True if the build went through the daemon, whose settings then decide.
        daemon: bool,
    },
    /// The probe could not be built.
    #[error("cannot check the sandbox: {message}")]
    NotBuilt {
        /// The kind of failure.
        kind: FailureKind,
        /// The message of Nix.
        message: String,
    },
}

impl Refusal {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nix(error) => error.hint(),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Problem::DiskFull.hint(),
            Self::File { .. } => None,
            Self::NotStatic { .. } => {
                Some("build rei with RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target".to_owned())
            }
            Self::NoNamespaces { .. } => Problem::NoNamespaces.hint(),
            Self::NotSandboxed { daemon: true, .. } => Some(
                "the settings of the daemon apply: set sandbox = true and sandbox-fallback = false in /etc/nix/nix.conf, \
                 then systemctl restart nix-daemon"
                    .to_owned(),
            ),
            Self::NotSandboxed { daemon: false, .. } => {
                Some("find the setting that disables it: nix --extra-experimental-features nix-command show-config".to_owned())
            }
            Self::NotBuilt { kind, message } => Problem::find(message).hint().filter(|_| *kind != FailureKind::Builder),
        }
    }
}

impl Builder {
    /// The program that is running.
    ///
    /// # Errors
    /// If the system does not report its path.
    pub fn this_program() -> std::result::Result<Self, Refusal> {
        let program = std::env::current_exe().map_err(|source| Refusal::File {
            act: "find",
            path: "/proc/self/exe".into(),
            source,
        })?;
        Ok(Self { program, probe_args: vec![PROBE_ARGUMENT.into()] })
    }
}

/// Builds one derivation whose builder checks its surroundings. Only the verdict that it wrote counts.
///
/// `dir` must belong to the supervisor: a file is created there that the builder must not be able to see.
///
/// # Errors
/// If builds are not sandboxed, or it cannot be checked.
pub async fn prove(nix: &Nix, builder: &Builder, dir: &Path) -> std::result::Result<Proof, Refusal> {
    let (program, secret) = (builder.program.clone(), Secret::make(dir)?);
    let linked = tokio::task::spawn_blocking({
        let program = program.clone();
        move || is_static(&program)
    });
    let linked = linked.await.map_err(std::io::Error::other).and_then(|result| result);
    if !linked.map_err(|source| Refusal::File { act: "read", path: program.clone(), source })? {
        return Err(Refusal::NotStatic { program });
    }
    let stored = nix.add(&program).await.map_err(Refusal::Nix)?;
    let nonce = secret.nonce.clone();
    let mut env = json!({ "nonce": nonce, "secret": secret.path.to_string_lossy() });
    for name in NAMESPACES {
        env[format!("namespace_{name}")] = namespace(name).unwrap_or_default().to_string_lossy().into();
    }
    let args: Vec<_> = builder.probe_args.iter().map(|arg| arg.to_string_lossy()).collect();
    let argument = json!({ "program": stored.to_string_lossy(), "args": args, "env": env });
    let mut found = nix.instantiate_own(EXPRESSION, &argument, None).await.map_err(Refusal::Nix)?;
    let derivation = found.remove("probe").ok_or_else(|| Refusal::NotBuilt {
        kind: FailureKind::Unknown,
        message: "the probe has no derivation".to_owned(),
    })?;
    let verdict = build(nix, &derivation).await?;
    if verdict.nonce != nonce {
        let message = "the verdict belongs to another build".to_owned();
        return Err(Refusal::NotBuilt { kind: FailureKind::Unknown, message });
    }
    if !verdict.findings.is_empty() {
        return Err(Refusal::NotSandboxed { findings: verdict.findings, daemon: nix.may_use_daemon() });
    }
    Ok(Proof { builder: stored, derivation })
}

async fn build(nix: &Nix, derivation: &Derivation) -> std::result::Result<Verdict, Refusal> {
    let options = RealiseOptions {
        jobs: 1,
        timeout: PROBE_TIMEOUT,
        silence: PROBE_TIMEOUT,
        total: 2 * PROBE_TIMEOUT,
        root: None,
    };
    let built = nix.realise(std::slice::from_ref(derivation), &options, None).await.map_err(Refusal::Nix)?;
    match built.outcomes.into_iter().find_map(|outcome| outcome.failure) {
        Some(Failure { kind: FailureKind::NoNamespaces, message }) => return Err(Refusal::NoNamespaces { message }),
        Some(Failure { kind, message }) => return Err(Refusal::NotBuilt { kind, message }),
        None => {}
    }
    let path = derivation.out.join("verdict.json");
    let read = |source| Refusal::File { act: "read", path: path.clone(), source };
    let mut text = String::new();
    std::fs::File::open(&path).and_then(|file| file.take(VERDICT_BYTES_MAX).read_to_string(&mut text)).map_err(read)?;
    serde_json::from_str(&text).map_err(|error| read(error.into()))
}

/// A file that no sandboxed builder can see. It is removed when this value is dropped.
struct Secret {
    path: PathBuf,
    nonce: String,
}

impl Secret {
    fn make(dir: &Path) -> std::result::Result<Self, Refusal> {
        let nonce = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|source| Refusal::File {
            act: "read",
            path: "/proc/sys/kernel/random/uuid".into(),
            source,
        })?;
        let nonce = nonce.trim().to_owned();
        let path = dir.join(format!("probe-{nonce}"));
        // The file is world-readable, so only the sandbox can hide it.
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        made.map_err(|source| Refusal::File { act: "create", path: path.clone(), source })?;
        Ok(Self { path, nonce })
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // An empty file that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// True if an ELF program has no interpreter, so that the kernel can start it without other files.
fn is_static(program: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    /// The type of the program header that names the dynamic linker.
    const PT_INTERP: u32 = 3;
    let file = std::fs::File::open(program)?;
    let mut header = [0_u8; 64];
    file.read_exact_at(&mut header, 0)?;
    let number =
        |at: usize, bytes: usize| header[at..at + bytes].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    // 64 bit and little endian, as on every machine that rei supports.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    for n in 0..count {
        let mut kind = [0_u8; 4];
        file.read_exact_at(&mut kind, offset.saturating_add(n * size))?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_static_program_can_be_a_builder() {
        assert!(is_static(&std::env::current_exe().unwrap()).unwrap(), "the build must be static");
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, format!("#!/bin/sh\n{}", " ".repeat(64))).unwrap();
        assert!(!is_static(&script).unwrap());
        std::fs::write(&script, "short").unwrap();
        assert!(is_static(&script).is_err());
        if let Ok(shell) = std::fs::canonicalize("/bin/sh") {
            // It is dynamic on almost every distribution; on the smallest ones it is static and is recognised as such.
            assert!(is_static(&shell).is_ok());
        }
    }

    #[test]
    fn the_secret_file_is_removed_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::make(dir.path()).unwrap();
        assert!(secret.path.exists());
        drop(secret);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_refusal_that_can_be_corrected_has_a_hint() {
        for daemon in [true, false] {
            let refusal = Refusal::NotSandboxed { findings: vec!["x".into(), "y".into()], daemon };
            assert_eq!(refusal.to_string(), "Nix builds without a sandbox: x; y");
            assert!(refusal.hint().is_some());
        }
        assert!(Refusal::NoNamespaces { message: String::new() }.hint().unwrap().contains("user.max_user_namespaces"));
        assert!(Refusal::NotStatic { program: "/x".into() }.hint().is_some());
    }
}
