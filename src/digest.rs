//! SHA-256 and hexadecimal text, and the short form of digests that people see.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Number of bytes per read of a file: a file of some megabytes takes few calls, and is never completely in memory.
const CHUNK_BYTES: usize = 64 << 10;

/// Length of the short form of a commit or digest, in characters: practically unique, but short enough to read.
const SHORT_CHARS: usize = 12;

/// The short form of a commit or digest in hex, for people.
pub fn short(hex: &str) -> &str {
    hex.char_indices().nth(SHORT_CHARS).map_or(hex, |(at, _)| &hex[..at])
}

/// Bytes in hex, with two lower-case digits each.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// SHA-256 of bytes, in hex.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(Sha256::digest(bytes))
}

/// SHA-256 of a file, in hex. The file is read in pieces.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(hasher.finalize())),
            n => hasher.update(&chunk[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the examples of FIPS 180-4.
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn bytes_are_two_lower_case_digits_each() {
        assert_eq!(hex([0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
        assert_eq!(hex([]), "");
    }

    #[test]
    fn the_short_form_has_twelve_characters() {
        assert_eq!(short(OF_ABC), "ba7816bf8f01");
        for whole in ["", "ba7816bf8f01", "é"] {
            assert_eq!(short(whole), whole);
        }
        assert_eq!(short("ééééééééééééé"), "éééééééééééé", "no character is cut");
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        assert_eq!(sha256("abc"), OF_ABC);
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 3, CHUNK_BYTES, 2 * CHUNK_BYTES + 1] {
            let (path, bytes) = (dir.path().join("file"), vec![b'x'; length]);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(sha256_of_file(&path).unwrap(), sha256(&bytes), "{length} bytes");
        }
    }
}
