//! Repairs the permissions of rei's files. A process of rei's own user can change them although it is confined.
//!
//! Landlock does not restrict `chmod`, and the filter of system calls cannot distinguish a thread of another process
//! from one of its own process. So if instances run as rei's user, one of them can remove rei's permissions to its own
//! files (`chmod 0`), and bind the supervisor to one processor. Neither changes a decision, but it could prevent rei
//! from making one. rei checks the permissions before it opens any file, every half minute, whenever the journal cannot
//! be written, and before the program is replaced. If rei runs as root, nothing is checked: root may use a file
//! whatever its mode, and root's instances have users of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::state::paths::Paths;

/// The bound of files in one directory that are checked. Journals, logs and objects are pruned long before they reach
/// it.
const FILES_MAX: usize = 4096;

/// The bits of a mode that must be set, and the bits that must not be set.
struct Bits {
    directory: u32,
    file: u32,
    never: u32,
}

/// The bits of a parent directory of rei's directories: rei must be able to enter it. All other bits are its owner's
/// choice.
const PARENT: Bits = Bits { directory: 0o100, file: 0, never: 0 };
/// The bits of rei's own files and directories.
const OURS: Bits = Bits { directory: 0o700, file: 0o600, never: 0 };
/// The bits of the directory that no other user may enter.
const PRIVATE: Bits = Bits { never: 0o077, ..OURS };

/// Restores rei's permissions to its own files and directories. Returns one line for each change.
pub fn files(paths: &Paths) -> Vec<String> {
    let mut changes = Vec::new();
    if nix::unistd::geteuid().is_root() {
        return changes;
    }
    // Parents come first, because rei can see nothing below a directory that it cannot enter.
    let mut around: Vec<&Path> = paths.state().ancestors().skip(1).collect();
    around.reverse();
    for path in around {
        changes.extend(restore_mode(path, &PARENT));
    }
    changes.extend(restore_mode(paths.state(), &OURS));
    let (journal, private) = (paths.journal(), paths.private());
    let snapshots = journal.join("snapshots");
    for dir in [journal, snapshots, private, paths.logs(), paths.sockets().to_owned(), paths.profiles(), paths.roots()]
    {
        changes.extend(restore_mode(&dir, if dir == paths.private() { &PRIVATE } else { &OURS }));
        changes.extend(inside(&dir).filter_map(|path| restore_mode(&path, &OURS)));
    }
    // Directories that hold many files: only the directories themselves are checked, not the files in them.
    changes.extend(inside(paths.state()).filter_map(|path| restore_mode(&path, &OURS)));
    changes
}

fn inside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX).map(|entry| entry.path())
}

/// Corrects the mode. `None` if the mode was correct, or if the file belongs to another user.
fn restore_mode(path: &Path, bits: &Bits) -> Option<String> {
    let about = path.symlink_metadata().ok().filter(|about| about.uid() == nix::unistd::geteuid().as_raw())?;
    let needed = match about.file_type() {
        kind if kind.is_dir() => bits.directory,
        kind if kind.is_symlink() => return None,
        _ => bits.file,
    };
    let mode = about.mode() & 0o7777;
    let correct = (mode | needed) & !bits.never;
    if correct == mode {
        return None;
    }
    Some(match fs::set_permissions(path, Permissions::from_mode(correct)) {
        Ok(()) => format!("{} had the mode {mode:03o} and has {correct:03o} again", path.display()),
        Err(error) => format!("{} has the mode {mode:03o}, which cannot be changed: {error}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_a_file_get_back_what_their_owner_needs_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file, link) = (dir.path().join("folder"), dir.path().join("file"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (path, bits, before, after) in [
            (&folder, &OURS, 0o000, Some(0o700)),
            (&folder, &OURS, 0o050, Some(0o750)),
            (&folder, &OURS, 0o755, None),
            (&folder, &PARENT, 0o055, Some(0o155)),
            (&folder, &PARENT, 0o555, None),
            (&folder, &PRIVATE, 0o777, Some(0o700)),
            (&file, &OURS, 0o000, Some(0o600)),
            (&file, &OURS, 0o444, Some(0o644)),
            (&file, &OURS, 0o640, None),
        ] {
            set(path, before);
            let change = restore_mode(path, bits);
            assert_eq!(change.is_some(), after.is_some(), "{change:?}");
            assert_eq!(mode(path), after.unwrap_or(before));
        }
        assert_eq!((restore_mode(&link, &OURS), restore_mode(&dir.path().join("nothing"), &OURS)), (None, None));
    }
}
