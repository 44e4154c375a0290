//! The flake reference of a commit: a copy of its files in the store, locked by their hash.
//!
//! It does not name the repository: Nix would write its files as the git attributes of the tree say, and those belong
//! to the candidate. The reference also has the facts that a flake may ask about its commit.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::{Error, Result};
use crate::digest::short;

/// A flake in one exact state, so that it can be evaluated purely.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlakeRef {
    tree: PathBuf,
    nar_hash: String,
    commit: Option<Commit>,
    dir: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Commit {
    rev: String,
    count: u64,
    committed_at: u64,
}

impl FlakeRef {
    /// A tree in the store, with its hash from [`super::Nix::nar_hash`]. The tree's name in the store must be `source`,
    /// because Nix looks it up under that name.
    ///
    /// # Errors
    /// If the path is relative or the hash is invalid.
    pub fn tree(path: impl Into<PathBuf>, nar_hash: &str) -> Result<Self> {
        let tree = path.into();
        require_absolute(&tree)?;
        if !nar_hash.starts_with("sha256-") {
            return Err(Error::BadReference { given: nar_hash.to_owned(), wanted: "hash like sha256-BASE64" });
        }
        Ok(Self { tree, nar_hash: nar_hash.to_owned(), commit: None, dir: String::new() })
    }

    /// Adds the facts about the commit: `self.rev` (40 or 64 hex digits), `self.revCount`, and `self.lastModified` in
    /// seconds since 1970.
    ///
    /// # Errors
    /// If the commit is not a full commit id.
    pub fn of_commit(mut self, rev: &str, count: u64, committed_at: u64) -> Result<Self> {
        let hex = rev.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        // In git the null commit means "none".
        let null = rev.bytes().all(|digit| digit == b'0');
        if !matches!(rev.len(), 40 | 64) || !hex || null {
            return Err(Error::BadReference { given: rev.to_owned(), wanted: "full git commit in hex" });
        }
        self.commit = Some(Commit { rev: rev.to_owned(), count, committed_at });
        Ok(self)
    }

    /// Sets the directory of the flake in the tree; empty means the root.
    #[must_use]
    pub fn in_dir(mut self, dir: &str) -> Self {
        self.dir = dir.trim_matches('/').to_owned();
        self
    }

    /// The directory of the flake.
    pub(super) fn dir(&self) -> &str {
        &self.dir
    }

    /// A short name of the state, for people who know the source.
    pub fn brief(&self) -> String {
        let place = match &self.commit {
            Some(Commit { rev, .. }) => format!("commit {}", short(rev)),
            None => self.tree.display().to_string(),
        };
        if self.dir.is_empty() { place } else { format!("{} of {place}", self.dir) }
    }

    /// The attributes of the tree for `builtins.fetchTree`, without the directory.
    pub(super) fn attributes(&self) -> Value {
        let mut tree = json!({ "type": "path", "path": self.tree.to_string_lossy(), "narHash": self.nar_hash });
        if let Some(Commit { rev, count, committed_at }) = &self.commit {
            tree["rev"] = json!(rev);
            tree["revCount"] = json!(count);
            tree["lastModified"] = json!(committed_at);
        }
        tree
    }
}

impl fmt::Display for FlakeRef {
    /// The reference as a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, hash) = (encode(self.tree.as_os_str().as_bytes()), encode(self.nar_hash.as_bytes()));
        write!(f, "path:{path}?narHash={hash}")?;
        if let Some(Commit { rev, count, committed_at }) = &self.commit {
            write!(f, "&rev={rev}&revCount={count}&lastModified={committed_at}")?;
        }
        if !self.dir.is_empty() {
            write!(f, "&dir={}", encode(self.dir.as_bytes()))?;
        }
        Ok(())
    }
}

fn require_absolute(path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::BadReference { given: path.display().to_string(), wanted: "absolute path" })
}

/// Percent-encodes all bytes except letters, digits, `-`, `_`, `.`, `~` and `/`.
fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REV: &str = "0123456789abcdef0123456789abcdef01234567";

    fn example() -> FlakeRef {
        FlakeRef::tree("/nix/store/x-source", "sha256-a+b/c=").unwrap()
    }

    #[test]
    fn a_reference_is_a_locked_url() {
        let url = "path:/nix/store/x-source?narHash=sha256-a%2Bb/c%3D";
        assert_eq!(example().to_string(), url);
        let flake = example().of_commit(REV, 7, 1_700_000_000).unwrap().in_dir("/sub dir/x/");
        let url = format!("{url}&rev={REV}&revCount=7&lastModified=1700000000&dir=sub%20dir/x");
        assert_eq!(flake.to_string(), url);
        let odd = FlakeRef::tree("/srv/a b#c%ü", "sha256-a").unwrap();
        assert_eq!(odd.to_string(), "path:/srv/a%20b%23c%25%C3%BC?narHash=sha256-a");
    }

    #[test]
    fn the_brief_name_is_the_commit() {
        let flake = example().of_commit(REV, 1, 1).unwrap();
        assert_eq!(flake.brief(), "commit 0123456789ab");
        assert_eq!(flake.in_dir("sub").brief(), "sub of commit 0123456789ab");
        assert_eq!(example().brief(), "/nix/store/x-source");
    }

    #[test]
    fn references_without_an_exact_state_are_refused() {
        for rev in ["", "main", "HEAD", "0123", &"0".repeat(40), &REV.to_uppercase(), &format!("{REV}x"), "--option"] {
            assert!(example().of_commit(rev, 1, 1).is_err(), "{rev}");
        }
        assert!(FlakeRef::tree("nix/store/x", "sha256-a").is_err());
        assert!(FlakeRef::tree("/nix/store/x", "").is_err());
    }
}
