//! Bodies that are too large for a line: files beside the run, and their digests.
//!
//! The name of such a file is the SHA-256 of its content. It is read in pieces, once when the run is read, and again when it
//! is sent. A file that is missing, larger or other than the run says, or that is no regular file, makes the run invalid.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::digest;

/// The largest body in a line of a run, in bytes. A larger one becomes a file.
pub const BODY_INLINE_MAX: usize = 1 << 20;

/// The largest body, in bytes: that of the file of a run, which can have all other bodies.
pub const BODY_FILE_BYTES_MAX: u64 = 64 << 20;

/// The bytes of all bodies in files that a run may have: Nix copies them for the judge.
pub const BODIES_BYTES_MAX: u64 = 512 << 20;

/// The part of a body that has a digest of its own, in bytes: a difference is known to this part.
pub const BLOCK_BYTES: usize = 64 << 10;

/// The digests of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Its size, in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole, in hex.
    pub sha256: String,
    /// SHA-256 of each block of [`BLOCK_BYTES`]; the last one can be shorter.
    pub blocks: Vec<[u8; 32]>,
}

/// Makes the digests of a body that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Digester {
    whole: Sha256,
    block: Sha256,
    bytes: u64,
    blocks: Vec<[u8; 32]>,
}

impl Digester {
    pub(super) fn push(&mut self, mut piece: &[u8]) {
        self.whole.update(piece);
        while !piece.is_empty() {
            let filled = usize::try_from(self.bytes % BLOCK_BYTES as u64).unwrap_or(0);
            let (now, rest) = piece.split_at(piece.len().min(BLOCK_BYTES - filled));
            self.block.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK_BYTES as u64) {
                self.blocks.push(std::mem::take(&mut self.block).finalize().into());
            }
            piece = rest;
        }
    }

    pub(super) fn finish(mut self) -> Digests {
        if !self.bytes.is_multiple_of(BLOCK_BYTES as u64) {
            self.blocks.push(self.block.finalize().into());
        }
        Digests { bytes: self.bytes, sha256: digest::hex(self.whole.finalize()), blocks: self.blocks }
    }
}

/// A body in a file beside its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFile {
    /// The file.
    pub path: PathBuf,
    /// What it has.
    pub digests: Digests,
}

/// The bodies of an exchange that are in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyFiles {
    /// That of the request.
    pub request: Option<BodyFile>,
    /// That of the answer.
    pub answer: Option<BodyFile>,
}

/// The directory of a run's bodies: `NAME.bodies` beside `NAME.golden.jsonl`.
pub fn directory_of(run: &Path) -> PathBuf {
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.rsplit_once(".golden").map_or(name.as_ref(), |(stem, _)| stem);
    run.with_file_name(format!("{stem}.bodies"))
}

/// That directory, if the run has one.
pub fn directory_if_any(run: &Path) -> Option<PathBuf> {
    let directory = directory_of(run);
    directory.symlink_metadata().is_ok_and(|is| is.is_dir()).then_some(directory)
}

/// Opens a file without following a link, and without waiting for the writer of a pipe.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// The digests of a file of at most this size.
fn digests_of(file: File, bytes_max: u64) -> io::Result<Digests> {
    let (mut file, mut digester, mut piece) = (file.take(bytes_max + 1), Digester::default(), vec![0; BLOCK_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digester.finish()),
            n => digester.push(&piece[..n]),
        }
    }
}

impl BodyFile {
    /// Reads the file of this name in a directory of bodies.
    pub(super) fn open(directory: &Path, sha256: &str, bytes: u64) -> Result<Self, String> {
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(format!("has the body_file {sha256:?}, which is no SHA-256 in lower-case hex"));
        }
        if bytes > BODY_FILE_BYTES_MAX {
            return Err(format!("has body_bytes {bytes}, more than the maximum of {BODY_FILE_BYTES_MAX}"));
        }
        let path = directory.join(sha256);
        let failed = |error: io::Error| {
            // The system's words for it are about links in general.
            let is_link = error.raw_os_error() == Some(nix::libc::ELOOP);
            let why = if is_link { "it is a symbolic link".to_owned() } else { error.to_string() };
            format!("has its body in {}, which cannot be read: {why}", path.display())
        };
        let digests = open_plain(&path).and_then(|file| digests_of(file, bytes)).map_err(failed)?;
        if digests.bytes != bytes || digests.sha256 != sha256 {
            let is = if digests.bytes > bytes { "more".to_owned() } else { digests.bytes.to_string() };
            return Err(format!(
                "has its body in {}, which has changed: it must have {bytes} bytes with this SHA-256, and has {is} bytes \
                 with another",
                path.display()
            ));
        }
        Ok(Self { path, digests })
    }

    /// Its content, to be sent.
    pub(super) fn content(&self) -> io::Result<File> {
        open_plain(&self.path)
    }
}

/// Moves a large body into a file of the directory, and copies a file of another run's directory to it. Returns the bytes of
/// the file, 0 if there is none.
pub(super) fn keep(directory: &Path, body: &mut Vec<u8>, file: &mut Option<BodyFile>) -> io::Result<u64> {
    if body.len() > BODY_INLINE_MAX {
        if body.len() as u64 > BODY_FILE_BYTES_MAX {
            return Err(io::Error::other(format!("a body has {} bytes, more than {BODY_FILE_BYTES_MAX}", body.len())));
        }
        let mut digester = Digester::default();
        digester.push(body);
        let digests = digester.finish();
        let path = place(directory, &digests, |out| out.write_all(body))?;
        *file = Some(BodyFile { path, digests });
        *body = Vec::new();
    } else if let Some(file) = file.as_mut().filter(|file| file.path.parent() != Some(directory)) {
        let from = file.content()?;
        let copy = |out: &mut File| io::copy(&mut from.take(file.digests.bytes), out).map(drop);
        file.path = place(directory, &file.digests, copy)?;
    }
    Ok(file.as_ref().map_or(0, |file| file.digests.bytes))
}

/// Writes a file of a directory of bodies as a whole, or not at all.
fn place(directory: &Path, digests: &Digests, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
    let path = directory.join(&digests.sha256);
    std::fs::create_dir_all(directory)?;
    let new = directory.join(format!("{}.new", digests.sha256));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(&new)?;
    write(&mut file)?;
    file.sync_all()?;
    drop(file);
    if digests_of(open_plain(&new)?, digests.bytes)? != *digests {
        std::fs::remove_file(&new)?;
        return Err(io::Error::other(format!("{} has changed", path.display())));
    }
    std::fs::rename(&new, &path)?;
    Ok(path)
}

/// Removes the files of a run's bodies that none of these exchanges has.
///
/// # Errors
/// If the directory cannot be read or a file not be removed.
pub fn prune<'a>(run: &Path, kept: impl Iterator<Item = &'a BodyFiles>) -> io::Result<()> {
    let Some(directory) = directory_if_any(run) else { return Ok(()) };
    let files = kept.flat_map(|files| files.request.iter().chain(&files.answer));
    let names: std::collections::BTreeSet<&str> = files.map(|file| file.digests.sha256.as_str()).collect();
    for entry in std::fs::read_dir(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_body = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if is_body && !names.contains(name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    match std::fs::remove_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}
