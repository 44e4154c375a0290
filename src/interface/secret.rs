//! A secret in a file that operators can read and instances cannot.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The name of the file, in the directory of the sockets: a user that may use the sockets may read it.
const NAME: &str = "control.key";
/// The mode of the file: its owner alone may read it.
const MODE: u32 = 0o600;
/// The mode if the members of a group may read it too.
const MODE_GROUP: u32 = 0o640;
/// What is drawn, in bytes: nobody guesses 256 bits.
const DRAWN_BYTES: usize = 32;
/// The secret as text, in bytes: two hex digits for each that is drawn.
const SECRET_BYTES: usize = 2 * DRAWN_BYTES;

/// A secret, new at each start of its owner. It is never printed.
pub struct Secret {
    text: String,
    path: PathBuf,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Secret {
    /// The path of the secret of the service on `socket`.
    pub fn file_beside(socket: &Path) -> PathBuf {
        socket.with_file_name(NAME)
    }

    /// Draws a secret and writes it to `path`, for the owner, root and the members of `group`.
    ///
    /// The file is made under another name and renamed when it is whole, so that it is never open to others.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn make(path: &Path, group: Option<u32>) -> io::Result<Self> {
        let mut drawn = [0; DRAWN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut drawn)?;
        let text = crate::digest::hex(drawn);
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        if let Some(group) = group {
            fchown(&file, None, Some(group))?;
        }
        // Whatever the umask: neither more nor less than this.
        file.set_permissions(Permissions::from_mode(group.map_or(MODE, |_| MODE_GROUP)))?;
        fs::rename(&fresh, path)?;
        Ok(Self { text, path: path.to_owned() })
    }

    /// Reads what is in the file of a secret.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(SECRET_BYTES as u64).read_to_string(&mut text)?;
        Ok(text)
    }

    /// The file that has it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is it. It takes as long for a guess that is nearly right as for any other.
    pub(super) fn is(&self, given: &str) -> bool {
        let differing = self.text.bytes().zip(given.bytes()).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        given.len() == self.text.len() && std::hint::black_box(differing) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_secret_is_its_owners_and_new_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = Secret::file_beside(&directory.path().join("control.sock"));
        let first = Secret::make(&path, None).unwrap();
        let old = Secret::read(&path).unwrap();
        assert!(first.is(&old) && old.len() == SECRET_BYTES);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let second = Secret::make(&path, Some(nix::unistd::getegid().as_raw())).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert!(!second.is(&old) && second.is(&Secret::read(&path).unwrap()));
        for wrong in ["", &old[1..], &format!("{}0", second.text), &second.text[..SECRET_BYTES - 1]] {
            assert!(!second.is(wrong), "{wrong}");
        }
        assert!(!format!("{second:?}").contains(&second.text));
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }
}
