//! The programs that tests run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// An example, built. Where there is no cargo, whoever brought this test brought its examples.
pub fn example(name: &str) -> PathBuf {
    let cargo = Path::new(env!("CARGO"));
    if cargo.exists() {
        let build = Command::new(cargo).args(["build", "--quiet", "--example", name]).status().unwrap();
        assert!(build.success(), "cargo build --example {name}");
    }
    let rei = Path::new(env!("CARGO_BIN_EXE_rei"));
    rei.parent().expect("a target directory").join("examples").join(name)
}

/// A directory with rei and this example, without their symbols: what is not there need not be copied and hashed. One
/// example in a test program.
pub fn stripped(name: &str) -> &'static Path {
    static PROGRAMS: OnceLock<tempfile::TempDir> = OnceLock::new();
    /// What is static is never dropped.
    extern "C" fn remove() {
        if let Some(dir) = PROGRAMS.get() {
            let _ = std::fs::remove_dir_all(dir.path());
        }
    }
    PROGRAMS
        .get_or_init(|| {
            let dir = tempfile::Builder::new().prefix("rei-programs-").tempdir().unwrap();
            for (from, name) in [(Path::new(env!("CARGO_BIN_EXE_rei")), "rei"), (&example(name), name)] {
                let to = dir.path().join(name);
                std::fs::copy(from, &to).unwrap();
                // Without `strip` it is only slower.
                let _ = Command::new("strip").arg(&to).output();
            }
            passable(dir.path());
            // SAFETY: the function may run at any end of this process.
            assert_eq!(unsafe { libc::atexit(remove) }, 0);
            dir
        })
        .path()
}

/// Lets other users through: instances have users of their own where the supervisor is root.
pub fn passable(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
}

/// Whether this machine has Nix and user namespaces; if not, a word about it is printed, and the test that asks is over.
pub fn can_build() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let fails = |program: &str, args: &[&str]| {
        let why = match Command::new(program).args(args).output() {
            Ok(output) if output.status.success() => return None,
            Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => error.to_string(),
        };
        Some(format!("`{program}` says {why}"))
    };
    // Asked once, alone: all tests have one answer.
    let missing = MISSING.get_or_init(|| {
        fails("nix-store", &["--version"]).or_else(|| fails("unshare", &["--user", "--map-root-user", "true"]))
    });
    if let Some(why) = missing {
        eprintln!("SKIPPED: this test needs nix-store and user namespaces: {why}");
    }
    missing.is_none()
}
