//! Writes the files of a commit byte for byte.
//!
//! If git or Nix writes the files of a tree, the `.gitattributes` of the tree can leave files out (`export-ignore`),
//! insert text (`export-subst`, `ident`), or change line ends and encodings. Then the judge would compare one tree and
//! Nix would build another. Here the bytes of a file are the bytes of its object, and the files are those of
//! [`Mirror::built_files`], which the judge compares.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use super::gaps::{Gap, POINTER_BYTES_MAX, is_pointer, remember};
use super::git::answer;
use super::mirror::{Mirror, expect_success};
use super::parse::{Described, ObjectId, TreeFile, parse_described};
use super::submodules::{BYTES_MAX, FILES_MAX, Part};
use super::workspace::Scratch;

/// The name of a flake's source in the store.
const SOURCE: &str = "source";
/// Maximum length of a file's path inside the tree, in bytes: the kernel allows 4095 with the destination directory.
const PATH_BYTES_MAX: usize = 3500;
/// Maximum length of one name in a path, in bytes: the limit of file systems.
const NAME_BYTES_MAX: usize = 255;
/// Maximum length of a symbolic link's target, in bytes: the limit of the kernel.
const TARGET_BYTES_MAX: u64 = 4095;
/// Maximum length of the line that git writes before an object, in bytes: a name, a type and a size.
const HEADER_BYTES_MAX: u64 = 128;
/// Number of bytes of git's output that are read at once: the capacity of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Timeout of one export: gigabytes on a slow disk.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(600);

/// The files of a commit in a directory.
#[derive(Debug)]
pub struct Exported {
    scratch: Scratch,
    empty: Empty,
}

/// The paths whose content the commit only names.
#[derive(Debug, Default)]
struct Empty {
    submodules: Vec<PathBuf>,
    pointers: Vec<PathBuf>,
}

impl Exported {
    /// The directory with the files. It has the name that Nix gives to a flake's source in its store.
    pub fn dir(&self) -> PathBuf {
        self.scratch.dir().join(SOURCE)
    }

    /// The submodules that are empty directories, because their files are not switched on.
    pub fn submodules(&self) -> &[PathBuf] {
        &self.empty.submodules
    }

    /// The content that the commit only names, so that a build does not have it.
    pub fn gaps(&self) -> Vec<Gap> {
        let Empty { submodules, pointers } = &self.empty;
        Gap::of_submodules(submodules).into_iter().chain(Gap::of_pointers(pointers)).collect()
    }

    /// Removes the files.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn remove(self) -> Result<(), Error> {
        self.scratch.remove().await
    }
}

impl Mirror {
    /// The facts about this commit that Nix gives to a flake.
    ///
    /// # Errors
    /// If the mirror has no such commit.
    pub async fn describe(&self, commit: &ObjectId) -> Result<Described, Error> {
        let doing = "describe a commit";
        let (git, format) = (self.git(), "--format=%T %ct");
        let told = git.run(doing, ["log", "--max-count=1", "--no-show-signature", format, commit.as_str(), "--"]);
        let counted = git.run(doing, ["rev-list", "--count", commit.as_str(), "--"]);
        let (told, counted) = tokio::join!(told, counted);
        let all = [told?, counted?].concat();
        parse_described(&all).ok_or_else(|| answer(doing, &all))
    }

    /// Writes every file of a commit into a directory beside the mirror; the files of its submodules too, if they are
    /// switched on.
    ///
    /// # Errors
    /// If the mirror has no such commit, a submodule cannot be fetched, a file cannot be written, or the tree cannot be
    /// written safely.
    pub async fn export(&self, commit: &ObjectId) -> Result<Exported, Error> {
        let _reading = self.in_use().await;
        let scratch = Scratch::make(self, &format!("export-{commit}")).await?;
        let into = scratch.dir().join(SOURCE);
        let empty = self.write_parts(commit, &into).await;
        match empty {
            Ok(empty) => Ok(Exported { scratch, empty }),
            Err(error) => {
                // The first error is the one to report.
                let _ = scratch.remove().await;
                Err(error)
            }
        }
    }

    async fn write_parts(&self, commit: &ObjectId, into: &Path) -> Result<Empty, Error> {
        let parts = self.parts(commit).await?;
        make_dir(into)?;
        let mut empty = Empty::default();
        if !self.has_submodules() {
            let submodules = parts.iter().flat_map(|part| &part.files).filter(|file| file.is_submodule());
            empty.submodules = submodules.map(|file| file.path.clone()).collect();
        }
        let mut left = BYTES_MAX;
        // The part that pins a submodule has made its directory. No part of the path to it is a link: see `check`.
        for part in parts {
            left = write_part(commit, part, into, left, &mut empty.pointers).await?;
        }
        Ok(empty)
    }
}

/// Writes the files of a commit or of one of its submodules. Returns the number of bytes that the others may have.
async fn write_part(
    commit: &ObjectId,
    part: Part,
    into: &Path,
    left: u64,
    pointers: &mut Vec<PathBuf>,
) -> Result<u64, Error> {
    let doing = "read the files of a commit";
    let Part { at, files, git, .. } = part;
    check(commit, &at, &files)?;
    let names: String = files.iter().filter(|file| has_content(file)).map(|file| format!("{}\n", file.blob)).collect();
    let mut job = Writing { commit: commit.clone(), at, into: into.to_owned(), left, pointers: Vec::new() };
    let write = move |objects: File| {
        let written = job.write(&files, &mut BufReader::with_capacity(CHUNK_BYTES, objects));
        written.map(|()| job)
    };
    let call = git.command(EXPORT_TIMEOUT, ["cat-file", "--batch", "--buffer"]).stdin(names);
    let (output, written) = call.run_reading(write).await.map_err(|source| Error::Run { doing, source })?;
    // A write error explains the failure better than the error of a git whose output is not read any more.
    let job = written?;
    expect_success(doing, &output)?;
    job.pointers.iter().for_each(|path| remember(pointers, path));
    Ok(job.left)
}

const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_000;

fn has_content(file: &TreeFile) -> bool {
    !file.is_submodule()
}

/// Refuses a tree that could write outside its directory, or that no file system can store. git itself creates no such
/// tree, but accepts one that another program created.
fn check(commit: &ObjectId, at: &Path, files: &[TreeFile]) -> Result<(), Error> {
    if files.len() > FILES_MAX {
        return Err(Error::LargeTree { commit: commit.clone(), what: format!("{FILES_MAX} files") });
    }
    let unfit = |file: &TreeFile, why| Error::UnfitTree { commit: commit.clone(), path: at.join(&file.path), why };
    let before = at.as_os_str().len();
    let (mut paths, mut dirs) = (HashSet::new(), HashSet::new());
    for file in files {
        // Check the bytes, because `Path` ignores a repeated slash, and a dot between two slashes.
        let path = file.path.as_os_str().as_bytes();
        if before + path.len() > PATH_BYTES_MAX {
            return Err(unfit(file, "is longer than a path may be"));
        }
        if let Some(why) = path.split(|&byte| byte == b'/').find_map(unfit_name) {
            return Err(unfit(file, why));
        }
        if !file.is_submodule() && !matches!(file.mode & 0o170_000, 0o100_000 | LINK) {
            return Err(unfit(file, "is not a file, symbolic link or submodule"));
        }
        if !paths.insert(path) {
            return Err(unfit(file, "is in the tree twice"));
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            dirs.insert(&path[..at]);
        }
    }
    // Otherwise a link could replace a directory, and the files below it would be written to another place.
    match files.iter().find(|file| dirs.contains(file.path.as_os_str().as_bytes())) {
        Some(file) => Err(unfit(file, "is a file and also a directory")),
        None => Ok(()),
    }
}

/// Why this name cannot be a part of a path; `None` if it can.
fn unfit_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("has an empty name in its path"),
        b"." | b".." => Some("leads out of the tree"),
        name if name.eq_ignore_ascii_case(b".git") => Some("is in a .git directory"),
        name if name.len() > NAME_BYTES_MAX => Some("has a name in its path that is longer than a file name may be"),
        _ => None,
    }
}

/// The files of one part that are being written.
struct Writing {
    commit: ObjectId,
    /// The directory of the part in the tree.
    at: PathBuf,
    /// The directory of the tree.
    into: PathBuf,
    /// The number of bytes that the rest may have.
    left: u64,
    /// The files that are Git LFS pointers.
    pointers: Vec<PathBuf>,
}

impl Writing {
    /// Writes each file when git sends its object, in the order of the files.
    ///
    /// Symbolic links are created after all files, and no path is both a directory and a file ([`check`]). So no file is
    /// ever written through a link.
    fn write(&mut self, files: &[TreeFile], objects: &mut impl BufRead) -> Result<(), Error> {
        let into = self.into.join(&self.at);
        let (mut links, mut made) = (Vec::new(), PathBuf::new());
        for file in files {
            let to = into.join(&file.path);
            let parent = file.path.parent().unwrap_or(Path::new(""));
            if *parent != *made {
                // The files are sorted, so the files of one directory follow each other.
                make_dirs(&into, parent)?;
                parent.clone_into(&mut made);
            }
            if !has_content(file) {
                make_dir(&to)?;
                continue;
            }
            let size = header(objects, &file.blob)?;
            self.left = self.left.checked_sub(size).ok_or_else(|| Error::LargeTree {
                commit: self.commit.clone(),
                what: format!("{} GiB", BYTES_MAX >> 30),
            })?;
            let mut content = objects.by_ref().take(size);
            let copied = if file.mode == LINK {
                let (target, read) = self.target(&mut content, file)?;
                links.push((target, to));
                read
            } else {
                self.write_file(&mut content, size, file, &to)?
            };
            let mut end = [0];
            objects.read_exact(&mut end).map_err(io("read", &file.path))?;
            if copied != size || end != *b"\n" {
                return Err(unexpected(&end));
            }
        }
        links.into_iter().try_for_each(|(target, to)| {
            std::os::unix::fs::symlink(OsStr::from_bytes(&target), &to).map_err(io("make", &to))
        })
    }

    /// The target of a symbolic link, and the number of bytes that were read.
    fn target(&self, content: &mut impl Read, file: &TreeFile) -> Result<(Vec<u8>, u64), Error> {
        let mut target = Vec::new();
        let read = content.take(TARGET_BYTES_MAX + 1).read_to_end(&mut target).map_err(io("read", &file.path))?;
        if target.is_empty() || target.len() as u64 > TARGET_BYTES_MAX || target.contains(&0) {
            let (commit, path) = (self.commit.clone(), self.at.join(&file.path));
            return Err(Error::UnfitTree { commit, path, why: "is a symbolic link with an invalid target" });
        }
        Ok((target, read as u64))
    }

    /// Returns the number of written bytes.
    fn write_file(&mut self, content: &mut impl Read, size: u64, file: &TreeFile, to: &Path) -> Result<u64, Error> {
        let mode = if file.mode == EXECUTABLE { 0o700 } else { 0o600 };
        let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(to);
        let mut made = made.map_err(io("make", to))?;
        // A pointer is small, so a small file is read at once, to recognise it.
        let mut start = Vec::new();
        if size < POINTER_BYTES_MAX {
            content.read_to_end(&mut start).map_err(io("read", &file.path))?;
            if is_pointer(&start) {
                remember(&mut self.pointers, &self.at.join(&file.path));
            }
        }
        let copied = made.write_all(&start).and_then(|()| std::io::copy(content, &mut made));
        Ok(copied.map_err(io("write", to))? + start.len() as u64)
    }
}

/// The size of the next object. Fails if this is not the expected object.
fn header(objects: &mut impl BufRead, expected: &ObjectId) -> Result<u64, Error> {
    let mut line = Vec::new();
    objects.by_ref().take(HEADER_BYTES_MAX).read_until(b'\n', &mut line).map_err(io("read", Path::new("objects")))?;
    let text = String::from_utf8_lossy(&line);
    let mut words = text.trim_end().split(' ');
    let of_file = (words.next(), words.next()) == (Some(expected.as_str()), Some("blob"));
    let size = words.next().and_then(|size| size.parse().ok()).filter(|_| of_file);
    size.ok_or_else(|| unexpected(&line))
}

fn unexpected(said: &[u8]) -> Error {
    answer("read the files of a commit", said)
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(io("make", dir))
}

/// Creates the directories that do not exist yet.
fn make_dirs(into: &Path, path: &Path) -> Result<(), Error> {
    let dir = into.join(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io("make", &dir))
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
