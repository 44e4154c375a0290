//! Finds the directory in which a repository on this machine keeps its refs and objects.

use std::path::{Path, PathBuf};

/// The directory with the refs of `source`: `source` itself, its `.git`, or the `.git` of its main worktree.
pub(super) fn common_dir(source: &Path) -> Option<PathBuf> {
    const POINTER_BYTES_MAX: u64 = 4096; // a path
    let read = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok()?;
        (meta.is_file() && meta.len() <= POINTER_BYTES_MAX).then(|| std::fs::read_to_string(path).ok())?
    };
    let dot_git = source.join(".git");
    let git_dir = match read(dot_git.clone()) {
        Some(pointer) => source.join(pointer.trim_end().strip_prefix("gitdir: ")?),
        None if dot_git.is_dir() => dot_git,
        None => source.to_owned(),
    };
    let common = read(git_dir.join("commondir")).map_or(git_dir.clone(), |dir| git_dir.join(dir.trim_end()));
    common.join("HEAD").exists().then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Repository;

    #[test]
    fn worktrees_and_bare_repositories_are_watched_where_their_refs_are() {
        let repository = Repository::new();
        repository.commit(&[("a", "1")], "first");
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("w");
        repository.git(&["worktree", "add", "-q", path.to_str().unwrap(), "-b", "other"]);
        let common = common_dir(&path).unwrap().canonicalize().unwrap();
        assert_eq!(common, repository.dir().join(".git").canonicalize().unwrap());
        assert_eq!(common_dir(&repository.dir().join(".git")), Some(repository.dir().join(".git")));
        assert_eq!(common_dir(Path::new("/nonexistent")), None);
    }
}
