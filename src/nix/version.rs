//! Versions of Nix, and the oldest one that rei supports.

use std::fmt;

/// The oldest supported version: the first with the `packages.<system>.default` of today's flakes.
pub const LEAST_VERSION: Version = Version { major: 2, minor: 8 };

/// A version of Nix: its first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 2 of 2.8.
    pub major: u32,
    /// The 8 of 2.8.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The first version of Nix in which flake references of type `path:` accept a `dir`.
const DIR_OF_PATH: Version = Version { major: 2, minor: 26 };
/// The first version number of Lix. Lix handles flake references like Nix 2.18.
const LIX: Version = Version { major: 2, minor: 90 };

impl Version {
    /// True if a flake reference `path:…` may have a `dir`, the directory of the flake.
    pub(super) fn takes_dir_of_path(self) -> bool {
        (DIR_OF_PATH..LIX).contains(&self)
    }

    /// Parses `nix-store (Nix) 2.26.3`, and the output of forks and snapshots.
    pub(super) fn parse(output: &str) -> Option<Self> {
        let word = output.lines().next()?.split_whitespace().next_back()?;
        let mut numbers = word.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Self { major: numbers.next()??, minor: numbers.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_and_compared() {
        for (printed, expected) in [
            ("nix-store (Nix) 2.8.0\n", (2, 8)),
            ("nix (Nix) 2.26.3\n", (2, 26)),
            ("nix-store (Nix) 2.34.8\n", (2, 34)),
            ("nix-store (Nix) 2.35pre20260102_abc\n", (2, 35)),
            ("nix (Lix, like Nix) 2.93.0\nSystem type: x86_64-linux\n", (2, 93)),
        ] {
            let version = Version::parse(printed).unwrap();
            assert_eq!((version.major, version.minor), expected);
            assert!(version >= LEAST_VERSION);
        }
        let takes = |minor| Version { major: 2, minor }.takes_dir_of_path();
        assert!(!takes(8) && !takes(25) && takes(26) && takes(34) && !takes(93));
        assert!(Version { major: 2, minor: 7 } < LEAST_VERSION);
        assert!(Version { major: 1, minor: 99 } < LEAST_VERSION);
        for garbage in ["", "\n", "nix", "nix (Nix) x.y", "2"] {
            assert_eq!(Version::parse(garbage), None, "{garbage:?}");
        }
        assert_eq!(LEAST_VERSION.to_string(), "2.8");
    }
}
