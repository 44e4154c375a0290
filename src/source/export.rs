//! The files of a commit, written byte for byte.
//!
//! What git and Nix write of a tree obeys the tree itself: its `.gitattributes` leave files out (`export-ignore`), put
//! words in (`export-subst`, `ident`), or rewrite line ends and encodings. So the judge would compare one tree and Nix
//! would build another. Here the bytes of a file are the bytes of its object, and the files are those of
//! [`Mirror::files`], which the judge compares.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use super::git::answer;
use super::mirror::{Mirror, expect_success};
use super::parse::{Described, ObjectId, TreeFile, parse_described};
use super::workspace::Scratch;

/// The name of a flake's source in the store.
const SOURCE: &str = "source";
/// Files of a commit at most: twice those of Linux, and what one list of them holds.
const FILES_MAX: usize = 200_000;
/// Bytes of a commit's files at most: above it, a repository is a store of data.
const BYTES_MAX: u64 = 4 << 30;
/// A file's path inside the tree, in bytes: the kernel takes 4095 with the directory that it is written to.
const PATH_BYTES_MAX: usize = 3500;
/// One name of a path, in bytes: what file systems take.
const NAME_BYTES_MAX: usize = 255;
/// Where a symbolic link leads, in bytes: what the kernel takes.
const TARGET_BYTES_MAX: u64 = 4095;
/// The line that git writes before an object, in bytes: a name, a type and a size.
const HEADER_BYTES_MAX: u64 = 128;
/// What is read of git's output at once, in bytes: a pipe's content.
const CHUNK_BYTES: usize = 64 << 10;
/// The bound of one export: gigabytes on a slow disk.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(600);

/// The files of a commit in a directory.
#[derive(Debug)]
pub struct Exported {
    scratch: Scratch,
    submodules: Vec<PathBuf>,
}

impl Exported {
    /// Where the files are. The directory has the name under which Nix has a flake's source in its store.
    pub fn dir(&self) -> PathBuf {
        self.scratch.dir().join(SOURCE)
    }

    /// The submodules: a commit has no files of them, and each is an empty directory.
    pub fn submodules(&self) -> &[PathBuf] {
        &self.submodules
    }

    /// Removes the files.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(self) -> Result<(), Error> {
        self.scratch.remove().await
    }
}

impl Mirror {
    /// What a flake can read about this commit.
    ///
    /// # Errors
    /// When the mirror has no such commit.
    pub async fn describe(&self, commit: &ObjectId) -> Result<Described, Error> {
        let doing = "describe a commit";
        let (git, format) = (self.git(), "--format=%T %ct");
        let told = git.run(doing, ["log", "--max-count=1", "--no-show-signature", format, commit.as_str(), "--"]);
        let counted = git.run(doing, ["rev-list", "--count", commit.as_str(), "--"]);
        let (told, counted) = tokio::join!(told, counted);
        let all = [told?, counted?].concat();
        parse_described(&all).ok_or_else(|| answer(doing, &all))
    }

    /// Writes every file of a commit into a directory beside the mirror.
    ///
    /// # Errors
    /// When the mirror has no such commit, a file cannot be written, or the tree is none that can be written safely.
    pub async fn export(&self, commit: &ObjectId) -> Result<Exported, Error> {
        let _reading = self.in_use().await;
        let scratch = Scratch::make(self, &format!("export-{commit}")).await?;
        let into = scratch.dir().join(SOURCE);
        let submodules = self.write_tree(commit, &into).await;
        match submodules {
            Ok(submodules) => Ok(Exported { scratch, submodules }),
            Err(error) => {
                // The first error says more.
                let _ = scratch.remove().await;
                Err(error)
            }
        }
    }

    /// Gives the submodules.
    async fn write_tree(&self, commit: &ObjectId, into: &Path) -> Result<Vec<PathBuf>, Error> {
        let doing = "read the files of a commit";
        let files = self.files(commit).await?;
        check(commit, &files)?;
        let names: String =
            files.iter().filter(|file| has_content(file)).map(|file| format!("{}\n", file.blob)).collect();
        let submodules = files.iter().filter(|file| file.is_submodule()).map(|file| file.path.clone()).collect();
        let (commit, into) = (commit.clone(), into.to_owned());
        let write =
            move |objects: File| write(&commit, &files, &mut BufReader::with_capacity(CHUNK_BYTES, objects), &into);
        let call = self.git().command(EXPORT_TIMEOUT, ["cat-file", "--batch", "--buffer"]).stdin(names);
        let (output, written) = call.run_reading(write).await.map_err(|source| Error::Run { doing, source })?;
        // The error of the write says more than the error of git, whose output is not read any more.
        written?;
        expect_success(doing, &output)?;
        Ok(submodules)
    }
}

const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_000;

fn has_content(file: &TreeFile) -> bool {
    !file.is_submodule()
}

/// Refuses a tree that could write anywhere else than below its directory, or that no file system holds. git makes none
/// of these, but accepts them from other programs.
fn check(commit: &ObjectId, files: &[TreeFile]) -> Result<(), Error> {
    if files.len() > FILES_MAX {
        return Err(Error::LargeTree { commit: commit.clone(), what: format!("{FILES_MAX} files") });
    }
    let unfit = |file: &TreeFile, why| Error::UnfitTree { commit: commit.clone(), path: file.path.clone(), why };
    let (mut paths, mut dirs) = (HashSet::new(), HashSet::new());
    for file in files {
        // The bytes: `Path` looks over a slash too many and a dot between two.
        let path = file.path.as_os_str().as_bytes();
        if path.len() > PATH_BYTES_MAX {
            return Err(unfit(file, "is longer than a path may be"));
        }
        if let Some(why) = path.split(|&byte| byte == b'/').find_map(unfit_name) {
            return Err(unfit(file, why));
        }
        if !file.is_submodule() && !matches!(file.mode & 0o170_000, 0o100_000 | LINK) {
            return Err(unfit(file, "is neither file, symbolic link nor submodule"));
        }
        if !paths.insert(path) {
            return Err(unfit(file, "is there twice"));
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            dirs.insert(&path[..at]);
        }
    }
    // Else a link could stand where a directory is expected, and what is below it go elsewhere.
    match files.iter().find(|file| dirs.contains(file.path.as_os_str().as_bytes())) {
        Some(file) => Err(unfit(file, "is a file and a directory")),
        None => Ok(()),
    }
}

/// Why this cannot be a part of a path.
fn unfit_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("has an empty name in it"),
        b"." | b".." => Some("leads out of the tree"),
        name if name.eq_ignore_ascii_case(b".git") => Some("is a repository's own"),
        name if name.len() > NAME_BYTES_MAX => Some("has a name in it that is longer than a file's may be"),
        _ => None,
    }
}

/// Writes the files as their objects come, in their order.
///
/// No link is made before all else is written, and nothing is both directory and file ([`check`]): so nothing is ever
/// written through a link.
fn write(commit: &ObjectId, files: &[TreeFile], objects: &mut impl BufRead, into: &Path) -> Result<(), Error> {
    make_dir(into)?;
    let (mut links, mut made, mut left) = (Vec::new(), PathBuf::new(), BYTES_MAX);
    for file in files {
        let to = into.join(&file.path);
        let parent = file.path.parent().unwrap_or(Path::new(""));
        if *parent != *made {
            // Files come sorted, so that those of a directory follow each other.
            make_dirs(into, parent)?;
            parent.clone_into(&mut made);
        }
        if !has_content(file) {
            make_dir(&to)?;
            continue;
        }
        let size = header(objects, &file.blob)?;
        left = left
            .checked_sub(size)
            .ok_or_else(|| Error::LargeTree { commit: commit.clone(), what: format!("{} GiB", BYTES_MAX >> 30) })?;
        let mut content = objects.by_ref().take(size);
        let copied = if file.mode == LINK {
            let mut target = Vec::new();
            let read = content.by_ref().take(TARGET_BYTES_MAX + 1).read_to_end(&mut target);
            let read = read.map_err(io("read", &file.path))?;
            if target.is_empty() || target.len() as u64 > TARGET_BYTES_MAX || target.contains(&0) {
                let (commit, path) = (commit.clone(), file.path.clone());
                return Err(Error::UnfitTree { commit, path, why: "is a link that leads nowhere" });
            }
            links.push((target, to));
            read as u64
        } else {
            let mode = if file.mode == EXECUTABLE { 0o700 } else { 0o600 };
            let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&to);
            std::io::copy(&mut content, &mut made.map_err(io("make", &to))?).map_err(io("write", &to))?
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

/// The size of the object that comes next, which must be this one.
fn header(objects: &mut impl BufRead, wanted: &ObjectId) -> Result<u64, Error> {
    let mut line = Vec::new();
    objects.by_ref().take(HEADER_BYTES_MAX).read_until(b'\n', &mut line).map_err(io("read", Path::new("objects")))?;
    let text = String::from_utf8_lossy(&line);
    let mut words = text.trim_end().split(' ');
    let of_file = (words.next(), words.next()) == (Some(wanted.as_str()), Some("blob"));
    let size = words.next().and_then(|size| size.parse().ok()).filter(|_| of_file);
    size.ok_or_else(|| unexpected(&line))
}

fn unexpected(said: &[u8]) -> Error {
    answer("read the files of a commit", said)
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(io("make", dir))
}

/// Makes the directories that are not there yet.
fn make_dirs(into: &Path, path: &Path) -> Result<(), Error> {
    let dir = into.join(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io("make", &dir))
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
