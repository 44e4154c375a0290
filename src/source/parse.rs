//! Pure functions that parse git's output.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of a commit, tree or blob: 40 lower-case hexadecimal digits.
///
/// A value of this type can be given to git as an argument: it is never an option, a range or a ref.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(String);

/// The digits of an object name.
const OBJECT_ID_DIGITS: usize = 40;

impl ObjectId {
    /// The object with this name; `None` unless it is 40 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == OBJECT_ID_DIGITS && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ObjectId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not a git object name"))
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.0
    }
}

/// One file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Relative to the repository's root.
    pub path: PathBuf,
    /// The mode in git: `0o100644`, `0o100755`, `0o120000` (symbolic link), `0o160000` (submodule).
    pub mode: u32,
    /// The object with its content.
    pub blob: ObjectId,
}

/// The mode of a submodule. The commit contains the name of the submodule's commit, but not its files.
const SUBMODULE: u32 = 0o160_000;

impl TreeFile {
    /// True if it is a submodule.
    pub fn is_submodule(&self) -> bool {
        self.mode == SUBMODULE
    }
}

/// A commit with the first line of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The commit.
    pub commit: ObjectId,
    /// The first line.
    pub subject: String,
}

/// The facts about a commit that Nix gives to a flake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The commit's tree: equal trees are equal sources.
    pub tree: ObjectId,
    /// When it was committed, in seconds since 1970: `self.lastModified`.
    pub committed_at: u64,
    /// The number of its ancestors plus one: `self.revCount`.
    pub count: u64,
}

/// One submodule of `.gitmodules`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SubmoduleEntry {
    /// Its name: git keeps its repository in a directory of this name.
    pub name: String,
    /// Its directory, relative to the root of the tree.
    pub path: PathBuf,
    /// The address of its repository, as it is written.
    pub url: Option<String>,
}

/// One line of `git ls-remote`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteRef {
    /// The object name as git printed it, of any length.
    pub object: String,
    /// `refs/heads/main`, `refs/tags/v1^{}`, `HEAD`.
    pub name: String,
}

/// `git version`: major and minor.
pub(super) fn parse_version(stdout: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(stdout).ok()?;
    let mut numbers = text.trim().strip_prefix("git version ")?.split(['.', ' ', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A line with one object name, as `rev-parse`, `write-tree` and `commit-tree` print it.
pub(super) fn parse_object_id(stdout: &[u8]) -> Option<ObjectId> {
    ObjectId::parse(std::str::from_utf8(stdout).ok()?.trim_end())
}

/// `git ls-remote`: OBJECT TAB REF.
pub(super) fn parse_remote_refs(stdout: &[u8]) -> Option<Vec<RemoteRef>> {
    String::from_utf8_lossy(stdout)
        .lines()
        .map(|line| {
            let (object, name) = line.split_once('\t')?;
            Some(RemoteRef { object: object.to_owned(), name: name.to_owned() })
        })
        .collect()
}

/// `git ls-tree -r -z`: MODE TYPE OBJECT TAB PATH NUL.
pub(super) fn parse_tree(stdout: &[u8]) -> Option<Vec<TreeFile>> {
    records(stdout)
        .map(|record| {
            let tab = record.iter().position(|&byte| byte == b'\t')?;
            let mut words = std::str::from_utf8(&record[..tab]).ok()?.split(' ');
            let (mode, _kind, blob) = (words.next()?, words.next()?, words.next()?);
            Some(TreeFile {
                path: path(&record[tab + 1..]),
                mode: u32::from_str_radix(mode, 8).ok()?,
                blob: ObjectId::parse(blob)?,
            })
        })
        .collect()
}

/// `git log --format="%T %ct"` and, after it, `git rev-list --count`.
pub(super) fn parse_described(stdout: &[u8]) -> Option<Described> {
    let text = std::str::from_utf8(stdout).ok()?;
    let mut words = text.split_whitespace();
    let tree = ObjectId::parse(words.next()?)?;
    // A date before 1970 is possible, but Nix cannot give it to a flake.
    let committed_at = words.next()?.parse::<i64>().ok()?.try_into().unwrap_or(0);
    Some(Described { tree, committed_at, count: words.next()?.parse().ok()? }).filter(|_| words.next().is_none())
}

/// Paths that each end with NUL.
pub(super) fn parse_paths(stdout: &[u8]) -> Vec<PathBuf> {
    records(stdout).map(path).collect()
}

/// `git log -z --format=%H%x09%s`.
pub(super) fn parse_subjects(stdout: &[u8]) -> Option<Vec<Subject>> {
    records(stdout)
        .map(|record| {
            let text = String::from_utf8_lossy(record);
            let (commit, subject) = text.split_once('\t')?;
            Some(Subject { commit: ObjectId::parse(commit)?, subject: subject.to_owned() })
        })
        .collect()
}

/// `git config -z --list` of `.gitmodules`: `submodule.NAME.KEY` NEWLINE VALUE NUL. Entries without a path are left out.
pub(super) fn parse_submodules(stdout: &[u8]) -> Vec<SubmoduleEntry> {
    let mut entries: Vec<SubmoduleEntry> = Vec::new();
    for record in records(stdout) {
        let text = String::from_utf8_lossy(record);
        let Some((key, value)) = text.split_once('\n') else { continue };
        let Some((name, key)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.')) else { continue };
        let at = entries.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
            entries.push(SubmoduleEntry { name: name.to_owned(), ..SubmoduleEntry::default() });
            entries.len() - 1
        });
        match key {
            "path" => entries[at].path = value.trim_end_matches('/').into(),
            "url" => entries[at].url = Some(value.to_owned()),
            _ => {}
        }
    }
    entries.retain(|entry| !entry.path.as_os_str().is_empty());
    entries
}

/// Why `ls-remote` or `fetch` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemoteFailure {
    NotARepository,
    Unreachable,
}

/// Parses the standard error of a failed `ls-remote` or `fetch`, in the locale C.
pub(super) fn parse_remote_failure(stderr: &str) -> RemoteFailure {
    let absent = ["does not appear to be a git repository", "not a git repository", "repository not found"];
    let text = stderr.to_lowercase();
    if absent.iter().any(|phrase| text.contains(phrase)) {
        RemoteFailure::NotARepository
    } else {
        RemoteFailure::Unreachable
    }
}

/// The lines of standard error that say why, without git's advice about access rights; at most 300 bytes.
pub(super) fn reason_lines(stderr: &str) -> String {
    const REASON_BYTES_MAX: usize = 300; // one message, not a page
    let told = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ") || line.starts_with("ssh: ");
    let mut lines: Vec<&str> = stderr.lines().filter(told).collect();
    if lines.is_empty() {
        lines = stderr.lines().filter(|line| !line.trim().is_empty()).take(2).collect();
    }
    let text = lines.join("; ").replace("fatal: ", "").replace("error: ", "");
    text.chars().take(REASON_BYTES_MAX).collect()
}

fn records(stdout: &[u8]) -> impl Iterator<Item = &[u8]> {
    stdout.split(|&byte| byte == 0).filter(|record| !record.is_empty())
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "e698733a0b1c2d3e4f5061728394a5b6c7d8e9f0";

    #[test]
    fn object_names_are_exact() {
        assert!(ObjectId::parse(A).is_some());
        for wrong in ["", "HEAD", "--all", &A[1..], &A.to_uppercase(), &format!("{A}0"), &format!("{A}\n")] {
            assert_eq!(ObjectId::parse(wrong), None, "{wrong:?}");
        }
        assert!(serde_json::from_str::<ObjectId>("\"--upload-pack=x\"").is_err());
    }

    #[test]
    fn versions_of_several_vendors_are_parsed() {
        assert_eq!(parse_version(b"git version 2.39.5\n"), Some((2, 39)));
        assert_eq!(parse_version(b"git version 2.47.3 (Apple Git-154)\n"), Some((2, 47)));
        assert_eq!(parse_version(b"git version 2.48.0.rc1\n"), Some((2, 48)));
        assert_eq!(parse_version(b"hub version 1\n"), None);
    }

    #[test]
    fn trees_keep_modes_and_odd_names() {
        let sample = format!("100644 blob {A}\ta b\tc\0120000 blob {A}\tlé\0160000 commit {A}\tsub\0");
        let tree = parse_tree(sample.as_bytes()).unwrap();
        let modes: Vec<u32> = tree.iter().map(|file| file.mode).collect();
        assert_eq!(modes, [0o100_644, 0o120_000, 0o160_000]);
        assert_eq!(tree[0].path, PathBuf::from("a b\tc"));
        assert_eq!(parse_tree(b"100644 blob zz\tx\0"), None);
    }

    #[test]
    fn submodules_are_parsed() {
        let text =
            b"submodule.a.b.path\nlibs/a b\0submodule.a.b.url\n../a\nb\0submodule.a.b.update\n!true\0core.x\ny\0\
                     submodule.gone.url\nhttps://h/x\0novalue\0submodule.c.path\nc/\0";
        let entry = |name: &str, path: &str, url: Option<&str>| SubmoduleEntry {
            name: name.into(),
            path: path.into(),
            url: url.map(str::to_owned),
        };
        assert_eq!(parse_submodules(text), [entry("a.b", "libs/a b", Some("../a\nb")), entry("c", "c", None)]);
        assert_eq!(parse_submodules(b""), []);
    }

    #[test]
    fn the_facts_for_a_flake_are_parsed() {
        let described = parse_described(format!("{A} 1700000000\n12\n").as_bytes()).unwrap();
        assert_eq!((described.tree.as_str(), described.committed_at, described.count), (A, 1_700_000_000, 12));
        assert_eq!(parse_described(format!("{A} -5\n1\n").as_bytes()).unwrap().committed_at, 0);
        for garbage in ["", A, &format!("{A} x\n1\n"), &format!("{A} 1\n1\n1\n"), "zz 1\n1\n"] {
            assert_eq!(parse_described(garbage.as_bytes()), None, "{garbage:?}");
        }
    }

    #[test]
    fn failures_of_remotes_are_distinguished() {
        let no_repository = "fatal: '/srv/x' does not appear to be a git repository\nfatal: Could not read from remote \
                             repository.\n\nPlease make sure you have the correct access rights\n";
        let no_host = "fatal: unable to access 'https://h/': Could not resolve host: h\n";
        assert_eq!(parse_remote_failure(no_repository), RemoteFailure::NotARepository);
        assert_eq!(parse_remote_failure(no_host), RemoteFailure::Unreachable);
        assert_eq!(reason_lines(no_host), "unable to access 'https://h/': Could not resolve host: h");
        assert!(!reason_lines(no_repository).contains("Please"));
    }

    #[test]
    fn remote_refs_and_subjects_are_parsed() {
        let refs = parse_remote_refs(format!("{A}\trefs/heads/main\n{A}\trefs/tags/v1^{{}}\n").as_bytes()).unwrap();
        assert_eq!(refs[1].name, "refs/tags/v1^{}");
        assert_eq!(parse_remote_refs(b"garbage\n"), None);
        let subjects = parse_subjects(format!("{A}\tone\ttab\0{A}\t\0").as_bytes()).unwrap();
        assert_eq!(subjects[0].subject, "one\ttab");
        assert_eq!(parse_paths(b"a\0b c\0"), [PathBuf::from("a"), PathBuf::from("b c")]);
    }
}
