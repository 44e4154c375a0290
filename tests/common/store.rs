//! Which Nix store a test works on.
//!
//! Usually each test has one of its own below its directory, and nothing of the machine's. With `REI_TEST_STORE=machine`
//! all of them share the machine's, as whoever runs them reaches it: root by itself, others through the daemon. That is
//! for machines that are thrown away, as those of `make nix-matrix`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether the tests share the machine's store.
pub fn is_shared() -> bool {
    std::env::var_os("REI_TEST_STORE").is_some_and(|store| store == "machine")
}

/// What makes Nix programs work on the store that tests work on; [`own`] unless it is shared.
pub fn environment(dir: &Path, lines: &str) -> Vec<(OsString, OsString)> {
    if is_shared() { seeing(dir, std::env::var_os("NIX_REMOTE").unwrap_or_default()) } else { own(dir, lines) }
}

/// What makes Nix programs work on a store below `dir`, with these lines in its nix.conf.
pub fn own(dir: &Path, lines: &str) -> Vec<(OsString, OsString)> {
    std::fs::create_dir_all(dir.join("etc")).unwrap();
    // What is gone with its test need not outlive a loss of power.
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

/// All that is seen of the machine: PATH, which comes first, and the way to its store.
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
