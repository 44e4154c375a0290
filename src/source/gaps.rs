//! Content that a commit only names, so that a build does not have it: submodules and Git LFS pointers.
//!
//! A tree with such gaps is still built as it is. But a failure for this reason is hard to understand from the
//! message of a compiler, so rei says what is missing before and beside it.

use std::path::{Path, PathBuf};

/// Maximum size of a Git LFS pointer, in bytes. The specification says "less than 1024 bytes".
pub(super) const POINTER_BYTES_MAX: u64 = 1024;
/// Maximum number of pointers of one tree that are remembered: enough to name some and to show that there are many.
pub(super) const POINTERS_MAX: usize = 1000;
/// Maximum number of paths that one line names.
const PATHS_TOLD: usize = 3;

/// The kinds of content that a commit only names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// The files of submodules.
    Submodules,
    /// The content of Git LFS pointers.
    Pointers,
}

/// Content of one kind that a build of a commit does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which content is missing.
    pub kind: GapKind,
    /// What is missing, on one line.
    pub line: String,
    /// What to do.
    pub hint: String,
}

impl Gap {
    /// Submodules that rei does not fetch, because `runtime.submodules` is off.
    pub fn of_submodules(paths: &[PathBuf]) -> Option<Self> {
        let hint = "set runtime.submodules = true to build their content, make each an input of the flake, or put its \
                    files into the tree";
        let line = match paths {
            [] => return None,
            [one] => format!("the submodule {} is an empty directory in a build", one.display()),
            all => format!("{} submodules are empty directories in a build: {}", all.len(), listed(all)),
        };
        Some(Self { kind: GapKind::Submodules, line, hint: hint.into() })
    }

    /// Files that are Git LFS pointers.
    pub fn of_pointers(paths: &[PathBuf]) -> Option<Self> {
        let hint = "rei fetches no LFS objects and uses no git-lfs program: put the content into the tree (git lfs \
                    migrate export --include=PATH), or have the flake fetch it by URL and hash";
        let line = match paths {
            [] => return None,
            [one] => format!("{} is a Git LFS pointer: a build gets the pointer, not the content", one.display()),
            all => {
                let least = if all.len() >= POINTERS_MAX { "at least " } else { "" };
                let (count, listed) = (all.len(), listed(all));
                format!(
                    "{least}{count} files are Git LFS pointers: a build gets the pointers, not the content: {listed}"
                )
            }
        };
        Some(Self { kind: GapKind::Pointers, line, hint: hint.into() })
    }
}

/// The line and the next step of a failed build: the gaps of its tree may be the cause, so they are part of both.
pub fn with_gaps(line: &str, hint: &str, gaps: &[Gap]) -> (String, String) {
    let lines = std::iter::once(line).chain(gaps.iter().map(|gap| gap.line.as_str()));
    let hints = gaps.iter().map(|gap| gap.hint.as_str()).chain([hint]);
    (lines.collect::<Vec<_>>().join("; "), hints.collect::<Vec<_>>().join("; otherwise: "))
}

/// The first paths, and how many more there are.
pub fn listed(paths: &[PathBuf]) -> String {
    let told = paths.iter().take(PATHS_TOLD).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(PATHS_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// True if a file with this content is a Git LFS pointer. Its first line is the version, and it has the lines `oid` and
/// `size`: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
pub(super) fn is_pointer(content: &[u8]) -> bool {
    const VERSIONS: [&[u8]; 2] =
        [b"version https://git-lfs.github.com/spec/v1\n", b"version https://hawser.github.com/spec/v1\n"];
    let line = |start: &[u8]| content.split(|byte| *byte == b'\n').any(|line| line.starts_with(start));
    (content.len() as u64) < POINTER_BYTES_MAX
        && VERSIONS.iter().any(|version| content.starts_with(version))
        && line(b"oid ")
        && line(b"size ")
}

/// Adds the path of a pointer, up to the bound.
pub(super) fn remember(pointers: &mut Vec<PathBuf>, path: &Path) {
    if pointers.len() < POINTERS_MAX {
        pointers.push(path.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_recognised_by_their_whole_form() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert!(is_pointer(pointer));
        assert!(is_pointer(b"version https://git-lfs.github.com/spec/v1\next-0-x sha256:1\noid sha256:4d7a\nsize 1\n"));
        let long = [&pointer[..], &[b'x'; 1024]].concat();
        for other in [
            &b""[..],
            b"version https://git-lfs.github.com/spec/v1\n",
            b"# version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
            b"version https://git-lfs.github.com/spec/v1 is the specification\noid x\nsize x\n",
            &long,
        ] {
            assert!(!is_pointer(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_line_names_the_first_paths_and_the_number_of_the_others() {
        let paths: Vec<PathBuf> = ["a", "b", "c", "d", "e"].map(PathBuf::from).into();
        let gap = Gap::of_submodules(&paths).unwrap();
        assert_eq!(gap.line, "5 submodules are empty directories in a build: a, b, c and 2 more");
        let pointers = Gap::of_pointers(&paths[..1]).unwrap();
        let (line, hint) = with_gaps("it failed", "see the log", &[gap, pointers]);
        assert!(line.starts_with("it failed; 5 submodules") && line.ends_with("not the content"), "{line}");
        assert!(
            hint.starts_with("set runtime.submodules = true") && hint.ends_with("otherwise: see the log"),
            "{hint}"
        );
        assert_eq!((Gap::of_submodules(&[]), Gap::of_pointers(&[])), (None, None));
    }
}
