//! Uses objects of other repositories on this machine, and detects a shallow history.

use std::path::{Path, PathBuf};

use super::error::Error;

/// Lets git find objects in these directories too, so that a fetch copies nothing that one of them has.
pub(super) fn write_alternates(git_dir: &Path, objects: &[PathBuf]) -> Result<(), Error> {
    if objects.is_empty() {
        return Ok(());
    }
    let file = git_dir.join("objects/info/alternates");
    // git does not read a line that begins with one of these as a path, and it ignores a path without an object
    // directory.
    let is_line = |text: &str| !text.starts_with(['#', '"']) && !text.contains('\n');
    let lines = objects.iter().map(|dir| dir.to_string_lossy()).filter(|text| is_line(text));
    let text: String = lines.map(|text| format!("{text}\n")).collect();
    let written = std::fs::create_dir_all(git_dir.join("objects/info")).and_then(|()| std::fs::write(&file, text));
    written.map_err(|source| Error::Io { doing: "write", path: file, source })
}

/// True if the repository is shallow: its history is incomplete.
pub(super) fn is_shallow(git_dir: &Path) -> bool {
    std::fs::metadata(git_dir.join("shallow")).is_ok_and(|file| file.len() > 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::source::Mirror;
    use crate::source::testing::Repository;

    /// A clone of depth 1 beside the repository.
    fn shallow_clone(of: &Repository) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", of.path());
        let args = ["clone", "--quiet", "--depth", "1", &url, dir.path().to_str().unwrap()];
        let output = Command::new("git").args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir
    }

    #[tokio::test]
    async fn a_shallow_source_is_followed_and_told_until_it_is_whole() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        for number in 1..=3 {
            repository.commit(&[("a", &number.to_string())], "next");
        }
        let source = shallow_clone(&repository);
        let mirror = Mirror::open(state.path(), source.path().to_str().unwrap(), "main").await.unwrap();
        let commit = mirror.fetch().await.unwrap();
        assert!(mirror.is_shallow());
        assert_eq!(mirror.describe(&commit).await.unwrap().count, 1, "a shallow clone has only one commit");
        assert_eq!(mirror.fetch().await.unwrap(), commit, "again");
        let args = ["-C", source.path().to_str().unwrap(), "fetch", "--quiet", "--unshallow"];
        assert!(Command::new("git").args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").status().unwrap().success());
        assert_eq!(mirror.fetch().await.unwrap(), commit);
        assert!(!mirror.is_shallow(), "the mirror is shallow although the source is complete now");
        assert_eq!(mirror.describe(&commit).await.unwrap().count, 3);
    }

    #[tokio::test]
    async fn a_mirror_that_borrows_copies_nothing() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        repository.commit(&[("a", "1")], "first");
        let commit = repository.commit(&[("a", "2")], "second");
        for source in [repository.path().to_owned(), shallow_clone(&repository).keep().display().to_string()] {
            let mirror = Mirror::at(&state.path().join(&source[1..]), &source, "main").unwrap().borrowing(&[]);
            mirror.prepare().await.unwrap();
            assert_eq!(mirror.fetch().await.unwrap().as_str(), commit);
            assert_eq!(mirror.files(&mirror.fetch().await.unwrap()).await.unwrap().len(), 1);
            assert_eq!(mirror.is_shallow(), source != repository.path());
            let objects = std::fs::read_dir(mirror.git_dir().join("objects")).unwrap().flatten();
            let own = objects.filter(|entry| entry.file_name().len() == 2).count();
            let packs = std::fs::read_dir(mirror.git_dir().join("objects/pack")).unwrap().count();
            assert!(source != repository.path() || own + packs == 0, "{own} objects and {packs} packs were copied");
        }
    }
}
