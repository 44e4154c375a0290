//! What a process of rei's own user can do to rei although it is confined, undone and told.
//!
//! Landlock does not know modes, and the filter of system calls cannot tell another process's thread from an own one. So
//! where instances have rei's user, one of them can take rei's rights to its own files (`chmod 0`), and bind the supervisor
//! to one processor. Neither changes a decision; it could keep rei from making one. Looked at before anything is opened,
//! every half minute, whenever the journal cannot be written, and before the program is replaced. Root has every right to a
//! file whatever its mode, and its instances have users of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::state::paths::Paths;

/// Files of one directory that are looked at: journals, logs and objects are pruned long before.
const FILES_MAX: usize = 4096;

/// Bits of a mode that must be there, and that must not.
struct Bits {
    directory: u32,
    file: u32,
    never: u32,
}

/// Of a directory around rei's own: it is passed through, and how else it is used is its owner's choice.
const AROUND: Bits = Bits { directory: 0o100, file: 0, never: 0 };
/// Of what is rei's.
const OURS: Bits = Bits { directory: 0o700, file: 0o600, never: 0 };
/// Of what nobody else may enter.
const PRIVATE: Bits = Bits { never: 0o077, ..OURS };

/// Gives rei back the rights to its own files and directories, and says what was changed, a line each.
pub fn files(paths: &Paths) -> Vec<String> {
    let mut told = Vec::new();
    if nix::unistd::geteuid().is_root() {
        return told;
    }
    // From the outside in: nothing below a closed directory can be seen.
    let mut around: Vec<&Path> = paths.state().ancestors().skip(1).collect();
    around.reverse();
    for path in around {
        told.extend(mend(path, &AROUND));
    }
    told.extend(mend(paths.state(), &OURS));
    let (journal, private) = (paths.journal(), paths.private());
    let snapshots = journal.join("snapshots");
    for dir in [journal, snapshots, private, paths.logs(), paths.sockets().to_owned(), paths.profiles(), paths.roots()]
    {
        told.extend(mend(&dir, if dir == paths.private() { &PRIVATE } else { &OURS }));
        told.extend(inside(&dir).filter_map(|path| mend(&path, &OURS)));
    }
    // Directories of many files: those that rei itself puts below the state directory.
    told.extend(inside(paths.state()).filter_map(|path| mend(&path, &OURS)));
    told
}

fn inside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX).map(|entry| entry.path())
}

/// Sets the bits right; `None` where nothing was amiss, or where it is another user's.
fn mend(path: &Path, bits: &Bits) -> Option<String> {
    let about = path.symlink_metadata().ok().filter(|about| about.uid() == nix::unistd::geteuid().as_raw())?;
    let needed = match about.file_type() {
        kind if kind.is_dir() => bits.directory,
        kind if kind.is_symlink() => return None,
        _ => bits.file,
    };
    let mode = about.mode() & 0o7777;
    let wanted = (mode | needed) & !bits.never;
    if wanted == mode {
        return None;
    }
    Some(match fs::set_permissions(path, Permissions::from_mode(wanted)) {
        Ok(()) => format!("{} had the mode {mode:03o} and has {wanted:03o} again", path.display()),
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
            (&folder, &AROUND, 0o055, Some(0o155)),
            (&folder, &AROUND, 0o555, None),
            (&folder, &PRIVATE, 0o777, Some(0o700)),
            (&file, &OURS, 0o000, Some(0o600)),
            (&file, &OURS, 0o444, Some(0o644)),
            (&file, &OURS, 0o640, None),
        ] {
            set(path, before);
            let told = mend(path, bits);
            assert_eq!(told.is_some(), after.is_some(), "{told:?}");
            assert_eq!(mode(path), after.unwrap_or(before));
        }
        assert_eq!((mend(&link, &OURS), mend(&dir.path().join("nothing"), &OURS)), (None, None));
    }
}
