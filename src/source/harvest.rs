//! Copies the files of a workspace to a place that the agent cannot change.
//!
//! An agent, which may be hostile, wrote the workspace. So rei copies its files, within bounds, into a directory that
//! only rei writes. It opens each file below the workspace and follows no symbolic link. rei commits the copy, which
//! cannot change any more.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstatat};

use super::error::Error;
use crate::redact::Secrets;

/// Maximum number of files of a candidate: if there are more, a build directory is missing in `.gitignore`.
pub(super) const FILES_MAX: usize = 100_000;
/// Maximum number of entries of a workspace, with ignored ones: a large `node_modules` has a tenth of that.
const ENTRIES_MAX: usize = 1_000_000;
/// Maximum number of bytes of a candidate, for the same reason.
pub(super) const BYTES_MAX: u64 = 1 << 30;
/// Number of bytes of a file that are read at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Maximum number of files with secrets that are listed: a tree with more of them had them before the agent's work.
const SECRETS_LISTED_MAX: usize = 1000;

/// Refuses a workspace in which git would wait forever: git opens every `.gitignore` and `.gitattributes`, and reading
/// a FIFO with such a name never ends.
///
/// Blocks on the disk.
///
/// # Errors
/// If there is such a file, the workspace has more than a million entries, or the disk fails.
pub(super) fn check_readable(workspace: &Path) -> Result<(), Error> {
    let (mut open, mut entries) = (vec![workspace.to_owned()], 0);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(io("read", &dir))? {
            let entry = entry.map_err(io("read", &dir))?;
            let kind = entry.file_type().map_err(io("look at", &dir))?;
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(Error::TooMany { max: ENTRIES_MAX });
            }
            let name = entry.file_name();
            if kind.is_dir() && !is_dot_git(&name) {
                open.push(entry.path());
            } else if (name == ".gitignore" || name == ".gitattributes") && !kind.is_file() && !kind.is_symlink() {
                let path = entry.path();
                return Err(Error::Special { path: path.strip_prefix(workspace).unwrap_or(&path).to_owned() });
            }
        }
    }
    Ok(())
}

/// Copies `paths` of `workspace` into the empty directory `into`. A path that does not exist (any more) is left out.
/// Returns the symbolic links that lead out of the tree, with their targets.
///
/// Blocks on the disk.
///
/// # Errors
/// If there is a nested repository, a special file, or more files or bytes than a candidate may have, or the disk fails.
pub(super) fn copy(workspace: &Path, paths: &[PathBuf], into: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    if paths.len() > FILES_MAX {
        return Err(Error::TooMany { max: FILES_MAX });
    }
    let root = File::open(workspace).map_err(io("open", workspace))?;
    let (mut links_out, mut left) = (Vec::new(), BYTES_MAX);
    for path in paths {
        // git lists a repository below the work tree as a directory, with a slash at its end.
        let nested = path.as_os_str().as_bytes().ends_with(b"/");
        if nested || path.components().any(|part| !matches!(part, Component::Normal(name) if !is_dot_git(name))) {
            return Err(Error::Nested { path: path.clone() });
        }
        let Some(found) = open(&root, path, OFlag::O_PATH).map_err(io("look at", path))? else { continue };
        let stat = stat(&found).map_err(io("look at", path))?;
        let to = into.join(path);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(io("make", parent))?;
        }
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => left = copy_file(&root, path, &to, left)?,
            SFlag::S_IFLNK => {
                let target = PathBuf::from(readlinkat(&found, "").map_err(io_errno("read", path))?);
                if leads_out(path, &target) {
                    links_out.push((path.clone(), target.clone()));
                }
                std::os::unix::fs::symlink(&target, &to).map_err(io("make", &to))?;
            }
            // A submodule: the commit contains its commit name, and the tree has an empty directory. git would ignore
            // files in it, and a change would be lost without a word.
            SFlag::S_IFDIR => {
                if !is_empty(&root, path)? {
                    return Err(Error::InSubmodule { path: path.clone() });
                }
                std::fs::create_dir_all(&to).map_err(io("make", &to))?;
            }
            _ => return Err(Error::Special { path: path.clone() }),
        }
    }
    Ok(links_out)
}

/// The files below `dir` that contain a secret, in their content, name or link target, with the place of the secret. At
/// most [`SECRETS_LISTED_MAX`].
///
/// Blocks on the disk. `dir` belongs to rei.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn find_secrets(dir: &Path, secrets: &Secrets) -> Result<Vec<(PathBuf, String)>, Error> {
    let (mut open, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io("read", &folder))? {
            let entry = entry.map_err(io("read", &folder))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(io("look at", &folder))?);
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).to_owned();
            let mut place = secrets.find(name.as_os_str().as_bytes()).map(str::to_owned);
            if kind.is_symlink() {
                let target = std::fs::read_link(&path).map_err(io("read", &path))?;
                place = place.or_else(|| secrets.find(target.as_os_str().as_bytes()).map(str::to_owned));
            } else if place.is_none() {
                place = secret_in(&path, secrets).map_err(io("read", &path))?;
            }
            found.extend(place.map(|place| (name, place)));
            if found.len() >= SECRETS_LISTED_MAX {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// The place of the first secret in a file. The file is read in pieces that overlap by the length of the longest
/// secret.
fn secret_in(path: &Path, secrets: &Secrets) -> std::io::Result<Option<String>> {
    let (mut file, mut piece) = (File::open(path)?, Vec::new());
    loop {
        let read = file.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
        if let Some(place) = secrets.find(&piece) {
            return Ok(Some(place.to_owned()));
        }
        if read == 0 {
            return Ok(None);
        }
        piece.drain(..piece.len().saturating_sub(secrets.longest()));
    }
}

/// Copies one regular file. Returns the number of bytes that the candidate may still have.
fn copy_file(root: &File, path: &Path, to: &Path, left: u64) -> Result<u64, Error> {
    // The file can have become a FIFO since the check, so never wait for a writer.
    let Some(from) = open(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(io("open", path))? else {
        return Ok(left);
    };
    let from = File::from(from);
    let meta = from.metadata().map_err(io("look at", path))?;
    if !meta.is_file() {
        return Err(Error::Special { path: path.to_owned() });
    }
    let mode = if meta.permissions().mode() & 0o100 == 0 { 0o600 } else { 0o700 };
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(mode).open(to).map_err(io("make", to))?;
    let copied = std::io::copy(&mut from.take(left + 1), &mut copy).map_err(io("copy", path))?;
    left.checked_sub(copied).ok_or_else(|| Error::TooBig { path: path.to_owned(), max: BYTES_MAX })
}

/// True if a directory below `root` has no entries.
fn is_empty(root: &File, path: &Path) -> Result<bool, Error> {
    let dir = open(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(io("open", path))?;
    let Some(dir) = dir else { return Ok(true) };
    let mut entries = nix::dir::Dir::from_fd(dir).map_err(io_errno("read", path))?;
    let mut names = entries.iter().flatten();
    Ok(names.all(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")))
}

/// Opens a path below `root` without following symbolic links; `None` if it does not exist.
fn open(root: &File, path: &Path, flags: OFlag) -> std::io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve);
    match openat2(root, path, how) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn stat(fd: &OwnedFd) -> nix::Result<FileStat> {
    fstatat(fd.as_fd(), "", AtFlags::AT_EMPTY_PATH)
}

/// True if a link at `path` with this target leads out of the tree. Only the names are examined; `path` is relative to
/// the tree.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

fn is_dot_git(name: &OsStr) -> bool {
    name.eq_ignore_ascii_case(".git")
}

fn io<E: Into<std::io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Error + use<E> {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source: source.into() }
}

fn io_errno(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error + use<> {
    io(doing, path)
}

/// Reads a file of at most `bytes_max` bytes that an agent may have written, without following symbolic links.
///
/// Blocks on the disk. `None` if there is no regular file with that name.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read_bounded(dir: &Path, name: &Path, bytes_max: u64) -> Result<Option<(Vec<u8>, bool)>, Error> {
    let root = File::open(dir).map_err(io("open", dir))?;
    let found = open(&root, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(io("open", name))?;
    let Some(file) = found.map(File::from) else { return Ok(None) };
    if !file.metadata().map_err(io("look at", name))?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io("read", name))?;
    let truncated = bytes.len() as u64 > bytes_max;
    bytes.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    Ok(Some((bytes, truncated)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_judged_by_where_they_lead() {
        for (path, target, out) in [
            ("a", "b", false),
            ("d/a", "../b", false),
            ("d/a", "../../b", true),
            ("a", "/etc/passwd", true),
            ("a", "d/../../x", true),
            ("a", "./d/..", false),
        ] {
            assert_eq!(leads_out(Path::new(path), Path::new(target)), out, "{path} -> {target}");
        }
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_entered() {
        let (workspace, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink("/etc", workspace.path().join("d")).unwrap();
        let links_out = copy(workspace.path(), &["d/passwd".into(), "d".into()], into.path()).unwrap();
        assert_eq!(links_out, [("d".into(), "/etc".into())]);
        assert!(into.path().join("d").is_symlink());
        assert!(read_bounded(workspace.path(), Path::new("d/passwd"), 10).unwrap().is_none());
    }

    #[test]
    fn special_files_nested_repositories_and_dot_git_are_refused() {
        let (workspace, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        nix::unistd::mkfifo(&workspace.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = |path: &str| copy(workspace.path(), &[path.into()], into.path()).unwrap_err();
        assert!(matches!(refused("fifo"), Error::Special { .. }));
        for path in ["sub/", "a/.git/config", "a/.GIT", "../x", "/etc/passwd"] {
            assert!(matches!(refused(path), Error::Nested { .. }), "{path}");
        }
        assert!(copy(workspace.path(), &["gone".into()], into.path()).is_ok());
        let many = vec![PathBuf::from("x"); FILES_MAX + 1];
        assert!(matches!(copy(workspace.path(), &many, into.path()), Err(Error::TooMany { .. })));
        std::fs::write(workspace.path().join("big"), "12345").unwrap();
        let root = File::open(workspace.path()).unwrap();
        let error = copy_file(&root, Path::new("big"), &into.path().join("big"), 4).unwrap_err();
        assert!(matches!(error, Error::TooBig { .. }));
    }
}
