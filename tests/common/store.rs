//! The Nix store of a test.
//!
//! Usually each test has its own store below its directory, and uses nothing of the machine's store. With
//! `REI_TEST_STORE=machine` all tests share the machine's store: root uses it directly, other users through the daemon. That is for
//! machines that are thrown away, such as those of `make nix-matrix`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether the tests share the machine's store.
pub fn is_shared() -> bool {
    std::env::var_os("REI_TEST_STORE").is_some_and(|store| store == "machine")
}

/// The environment variables with which Nix programs use the store of the test; those of [`own`] unless the store is shared.
pub fn environment(dir: &Path, lines: &str) -> Vec<(OsString, OsString)> {
    if is_shared() { seeing(dir, std::env::var_os("NIX_REMOTE").unwrap_or_default()) } else { own(dir, lines) }
}

/// The environment variables with which Nix programs use a store below `dir`, with these lines in its nix.conf.
pub fn own(dir: &Path, lines: &str) -> Vec<(OsString, OsString)> {
    std::fs::create_dir_all(dir.join("etc")).unwrap();
    // The store is removed with its test, so it need not survive a power cut.
    let usual = "build-users-group =\nsubstituters =\nfsync-metadata = false\n";
    std::fs::write(dir.join("etc/nix.conf"), format!("{usual}{lines}\n")).unwrap();
    let mut env = seeing(dir, OsString::new());
    for (name, path) in [
        ("NIX_STORE_DIR", "store"),
        ("NIX_STATE_DIR", "var/nix"),
        ("NIX_LOG_DIR", "var/log/nix"),
        ("NIX_CONF_DIR", "etc"),
    ] {
        env.push((name.into(), dir.join(path).into()));
    }
    env
}

/// The variables that come from the machine: PATH, which is first, and the access to its store.
fn seeing(dir: &Path, remote: OsString) -> Vec<(OsString, OsString)> {
    vec![
        ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
        ("HOME".into(), dir.join("home").into()),
        ("NIX_REMOTE".into(), remote),
        ("NIX_USER_CONF_FILES".into(), OsString::new()),
    ]
}

/// Makes a store removable: its paths are read-only, and only root may remove files from a read-only directory.
pub fn make_writable(path: &Path) {
    let Ok(about) = path.symlink_metadata() else { return };
    if !about.is_dir() {
        return;
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}
