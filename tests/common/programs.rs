//! The programs that tests run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Builds an example and returns its path. If there is no cargo, the examples must have come together with this test program.
pub fn example(name: &str) -> PathBuf {
    let cargo = Path::new(env!("CARGO"));
    if cargo.exists() {
        let build = Command::new(cargo).args(["build", "--quiet", "--example", name]).status().unwrap();
        assert!(build.success(), "cargo build --example {name}");
    }
    let rei = Path::new(env!("CARGO_BIN_EXE_rei"));
    rei.parent().expect("a target directory").join("examples").join(name)
}

/// A directory with rei and this example, without their symbols, so that less must be copied and hashed. All examples of a test
/// program are in one directory.
pub fn stripped(name: &str) -> &'static Path {
    static PROGRAMS: OnceLock<tempfile::TempDir> = OnceLock::new();
    static ADDING: Mutex<()> = Mutex::new(());
    /// Removes the directory at the end of the process, because a static is never dropped.
    extern "C" fn remove() {
        if let Some(dir) = PROGRAMS.get() {
            let _ = std::fs::remove_dir_all(dir.path());
        }
    }
    let add = |dir: &Path, from: &Path, name: &str| {
        let (to, unfinished) = (dir.join(name), dir.join(format!("{name}.new")));
        std::fs::copy(from, &unfinished).unwrap();
        // Without `strip` the tests are only slower.
        let _ = Command::new("strip").arg(&unfinished).output();
        std::fs::rename(unfinished, to).unwrap();
    };
    let dir = PROGRAMS
        .get_or_init(|| {
            let dir = tempfile::Builder::new().prefix("rei-programs-").tempdir().unwrap();
            add(dir.path(), Path::new(env!("CARGO_BIN_EXE_rei")), "rei");
            passable(dir.path());
            // SAFETY: the function may run at any exit of this process.
            assert_eq!(unsafe { libc::atexit(remove) }, 0);
            dir
        })
        .path();
    let _one = ADDING.lock();
    if !dir.join(name).exists() {
        add(dir, &example(name), name);
    }
    dir
}

/// Lets other users enter the directory: if the supervisor is root, instances have their own users.
pub fn passable(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
}

/// Whether this machine has Nix and user namespaces; if not, prints the reason, and the calling test must return.
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
    // Checked only once; all tests use the same result.
    let missing = MISSING.get_or_init(|| {
        fails("nix-store", &["--version"]).or_else(|| fails("unshare", &["--user", "--map-root-user", "true"]))
    });
    if let Some(why) = missing {
        eprintln!("SKIPPED: this test needs nix-store and user namespaces: {why}");
    }
    missing.is_none()
}
