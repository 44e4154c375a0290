//! How a commit is named to Nix: flake references that are locked by construction.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// Characters of a commit that tell it from others.
const REV_CHARS: usize = 12;

/// A flake at one exact state, so that it can be evaluated purely.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlakeRef {
    place: Place,
    dir: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Git { repository: PathBuf, reference: Option<String>, rev: String },
    Tree { path: PathBuf, nar_hash: String },
}

impl FlakeRef {
    /// The commit `rev` (40 or 64 hex digits) of the git repository (bare or not) in the absolute path `repository`.
    ///
    /// # Errors
    /// When the path is relative or the commit is none.
    pub fn git(repository: impl Into<PathBuf>, rev: &str) -> Result<Self> {
        let repository = repository.into();
        require_absolute(&repository)?;
        let hex = rev.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        // Nix 2.34 takes the null commit, git's word for "none", as no commit and the reference as not locked.
        let null = rev.bytes().all(|digit| digit == b'0');
        if !matches!(rev.len(), 40 | 64) || !hex || null {
            return Err(Error::BadReference { given: rev.to_owned(), wanted: "full git commit in hex" });
        }
        let place = Place::Git { repository, reference: None, rev: rev.to_owned() };
        Ok(Self { place, dir: String::new() })
    }

    /// A tree in the store, with its hash as [`super::Nix::nar_hash`] gives it.
    ///
    /// # Errors
    /// When the path is relative or the hash is none.
    pub fn tree(path: impl Into<PathBuf>, nar_hash: &str) -> Result<Self> {
        let path = path.into();
        require_absolute(&path)?;
        if !nar_hash.starts_with("sha256-") {
            return Err(Error::BadReference { given: nar_hash.to_owned(), wanted: "hash like sha256-BASE64" });
        }
        Ok(Self { place: Place::Tree { path, nar_hash: nar_hash.to_owned() }, dir: String::new() })
    }

    /// Names the ref that holds the commit: Nix 2.8 finds a commit of a bare repository that no branch holds only so.
    #[must_use]
    pub fn on_ref(mut self, name: &str) -> Self {
        if let Place::Git { reference, .. } = &mut self.place {
            *reference = Some(name.to_owned());
        }
        self
    }

    /// The flake is in this directory of the tree; empty for its root.
    #[must_use]
    pub fn in_dir(mut self, dir: &str) -> Self {
        self.dir = dir.trim_matches('/').to_owned();
        self
    }

    /// The exact state in few words, for a person who knows the source.
    pub fn brief(&self) -> String {
        let place = match &self.place {
            Place::Git { rev, .. } => format!("commit {}", rev.get(..REV_CHARS).unwrap_or(rev)),
            Place::Tree { path, .. } => path.display().to_string(),
        };
        if self.dir.is_empty() { place } else { format!("{} of {place}", self.dir) }
    }

    /// What Nix 2.8 says when the flake's directory is not in the tree.
    pub(super) fn missing_dir(&self) -> String {
        format!("-source/{}': No such file or directory", self.dir)
    }

    /// The repository, where it is one.
    pub(super) fn repository(&self) -> Option<&Path> {
        match &self.place {
            Place::Git { repository, .. } => Some(repository),
            Place::Tree { .. } => None,
        }
    }
}

impl fmt::Display for FlakeRef {
    /// The reference as a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Vec::new();
        let (scheme, path) = match &self.place {
            Place::Git { repository, reference, rev } => {
                query.extend(reference.as_deref().map(|name| ("ref", name)));
                query.push(("rev", rev.as_str()));
                ("git+file://", repository)
            }
            Place::Tree { path, nar_hash } => {
                query.push(("narHash", nar_hash.as_str()));
                ("path:", path)
            }
        };
        if !self.dir.is_empty() {
            query.push(("dir", &self.dir));
        }
        write!(f, "{scheme}{}", encode(path.as_os_str().as_bytes()))?;
        for (n, (name, value)) in query.iter().enumerate() {
            write!(f, "{}{name}={}", if n == 0 { '?' } else { '&' }, encode(value.as_bytes()))?;
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

/// `bytes` with everything but letters, digits and a few signs as `%XX`; a slash stays.
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

    #[test]
    fn a_reference_is_a_locked_url() {
        let flake = FlakeRef::git("/srv/a b#c%ü", REV).unwrap();
        assert_eq!(flake.to_string(), format!("git+file:///srv/a%20b%23c%25%C3%BC?rev={REV}"));
        let flake = FlakeRef::git("/srv/x", REV).unwrap().on_ref("refs/rei/candidates/a&b").in_dir("/sub/dir/");
        let url = format!("git+file:///srv/x?ref=refs/rei/candidates/a%26b&rev={REV}&dir=sub/dir");
        assert_eq!(flake.to_string(), url);
        let flake = FlakeRef::tree("/nix/store/x", "sha256-a+b/c=").unwrap();
        assert_eq!(flake.to_string(), "path:/nix/store/x?narHash=sha256-a%2Bb/c%3D");
    }

    #[test]
    fn a_person_is_told_the_commit() {
        let flake = FlakeRef::git("/srv/x", REV).unwrap().on_ref("refs/rei/active");
        assert_eq!(flake.brief(), "commit 0123456789ab");
        assert_eq!(flake.in_dir("sub").brief(), "sub of commit 0123456789ab");
        assert_eq!(FlakeRef::tree("/nix/store/x", "sha256-a").unwrap().brief(), "/nix/store/x");
    }

    #[test]
    fn what_names_no_exact_state_is_refused() {
        for rev in ["", "main", "HEAD", "0123", &"0".repeat(40), &REV.to_uppercase(), &format!("{REV}x"), "--option"] {
            assert!(FlakeRef::git("/srv/x", rev).is_err(), "{rev}");
        }
        assert!(FlakeRef::git("srv/x", REV).is_err());
        assert!(FlakeRef::tree("/nix/store/x", "").is_err());
    }
}
