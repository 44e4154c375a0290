//! Removes lock files that a git left which was killed, or whose machine failed: git never removes the lock of another
//! git.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::error::Error;

/// The pause between two checks whether a lock is gone.
const LOOK: Duration = Duration::from_millis(50);

/// A lock file. A new lock file with the same path is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lock {
    path: PathBuf,
    inode: u64,
    made: SystemTime,
}

/// Removes the lock files that exist for longer than `grace`: a git that holds a lock takes milliseconds, and a git
/// that gets SIGTERM removes its lock. Without locks this returns at once.
///
/// # Errors
/// If a lock cannot be removed.
pub(super) async fn clear(git_dir: &Path, grace: Duration) -> Result<(), Error> {
    let since = Instant::now();
    // Runs beside the event loop, because a mirror may have thousands of refs.
    let dir = git_dir.to_owned();
    let mut left = tokio::task::spawn_blocking(move || find(&dir)).await.unwrap_or_default();
    while !left.is_empty() && since.elapsed() < grace {
        tokio::time::sleep(LOOK).await;
        left.retain(|lock| at(&lock.path).as_ref() == Some(lock));
    }
    for lock in left {
        tracing::warn!(lock = %lock.path.display(), "removing the lock file of a git that was killed");
        match std::fs::remove_file(&lock.path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { doing: "remove", path: lock.path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// True if the message of a failed git says that such a lock exists: git 2.39 says "Unable to create '….lock': File
/// exists.".
pub(super) fn is_blamed(stderr: &str) -> bool {
    stderr.contains(".lock': File exists")
}

fn at(path: &Path) -> Option<Lock> {
    use std::os::unix::fs::MetadataExt;
    let about = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(Lock { path: path.to_owned(), inode: about.ino(), made: about.modified().ok()? })
}

/// All lock files of a repository. The directories of loose objects are skipped: they have many files and no locks.
fn find(dir: &Path) -> Vec<Lock> {
    const OBJECT_DIRECTORY_CHARS: usize = 2;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let objects = dir.ends_with("objects") && name.len() == OBJECT_DIRECTORY_CHARS;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !objects {
                found.extend(find(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            found.extend(at(&path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::types::CandidateId;
    use crate::source::mirror::Mirror;
    use crate::source::parse::ObjectId;
    use crate::source::testing::Repository;

    /// A mirror with one commit, and its temporary directories.
    async fn mirrored() -> (Mirror, ObjectId, (Repository, tempfile::TempDir)) {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        repository.commit(&[("a", "1")], "first");
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        let commit = mirror.fetch().await.unwrap();
        (mirror, commit, (repository, state))
    }

    #[tokio::test]
    async fn a_lock_that_nobody_holds_is_removed_and_one_that_goes_by_itself_is_waited_for() {
        let (mirror, commit, _dirs) = mirrored().await;
        mirror.keep_active(&commit).await.unwrap();
        let stale = ["refs/rei/active.lock", "packed-refs.lock", "objects/info/commit-graph.lock"];
        for name in stale {
            std::fs::create_dir_all(mirror.git_dir().join(name).parent().unwrap()).unwrap();
            std::fs::write(mirror.git_dir().join(name), "").unwrap();
        }
        clear(&mirror.git_dir(), Duration::from_millis(100)).await.unwrap();
        assert_eq!(find(&mirror.git_dir()), []);

        // Another git holds the lock, for longer than git itself waits (100 ms).
        let id = CandidateId::numbered(1);
        let held = mirror.git_dir().join("refs/rei/candidates").join(format!("{id}.lock"));
        std::fs::create_dir_all(held.parent().unwrap()).unwrap();
        std::fs::write(&held, "").unwrap();
        let mut keeping = std::pin::pin!(mirror.keep_candidate(&id, &commit));
        assert!(tokio::time::timeout(Duration::from_millis(400), &mut keeping).await.is_err(), "it does not wait");
        std::fs::remove_file(&held).unwrap();
        keeping.await.unwrap();
        assert_eq!(mirror.candidate(&id).await.unwrap().as_ref(), Some(&commit));
    }

    #[tokio::test]
    async fn a_stale_lock_is_in_the_way_of_nothing_that_rei_writes() {
        let (mirror, commit, _dirs) = mirrored().await;
        for name in ["active.lock", "followed.lock"] {
            std::fs::write(mirror.git_dir().join("refs/rei").join(name), "").unwrap();
        }
        let (kept, fetched) = tokio::join!(mirror.keep_active(&commit), mirror.fetch());
        kept.unwrap();
        assert_eq!(fetched.unwrap(), commit);
        assert_eq!(find(&mirror.git_dir()), []);
    }

    #[tokio::test]
    async fn a_ref_is_written_to_the_end_whoever_asked_for_it() {
        let (mirror, commit, _dirs) = mirrored().await;
        // Long enough for git to start, too short for it to finish.
        let cut = tokio::time::timeout(Duration::from_millis(1), mirror.keep_active(&commit)).await;
        assert!(cut.is_err(), "git finished in less than a millisecond");
        let since = Instant::now();
        while mirror.active().await.unwrap().as_ref() != Some(&commit) {
            assert!(since.elapsed() < Duration::from_secs(30), "the ref was never written");
        }
    }
}
