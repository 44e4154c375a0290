//! Watches the followed ref for a new commit.
//!
//! Each poll asks git for the commit of the ref. For a repository on this machine, a change of its files starts the
//! next poll at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;
use super::mirror::Mirror;
use super::parse::ObjectId;
use super::places::common_dir;
use crate::changes::Changes;

/// The minimum pause between two polls, so that a busy repository does not keep git running.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of watched directories of refs: a branch with slashes is in subdirectories.
const DIRECTORIES_MAX: usize = 256;

/// Reports each new commit of the followed ref.
pub struct Follower {
    mirror: Mirror,
    poll: Duration,
    seen: Option<ObjectId>,
    asked: Instant,
    due: Instant,
    /// `None` for a repository on another machine.
    changes: Option<Changes>,
}

impl Follower {
    /// Follows the ref of `mirror` and polls it at least every `poll`. `seen` is the commit that is known already.
    pub fn new(mirror: Mirror, poll: Duration, seen: Option<ObjectId>) -> Self {
        let changes = mirror.source_dir().map(|_| Changes::new(tells_of_a_ref));
        let now = Instant::now();
        Self { mirror, poll, seen, asked: now, due: now, changes }
    }

    /// Waits until the ref names a commit other than the one returned last, and returns it. No objects are transferred.
    ///
    /// The future can be dropped at any time: the next call finds the change.
    ///
    /// # Errors
    /// If git cannot read the ref of the source. The next call waits for the next poll and tries again.
    pub async fn next(&mut self) -> Result<ObjectId, Error> {
        loop {
            self.wait().await;
            self.asked = Instant::now();
            self.due = self.asked + self.poll;
            // Branches add and remove directories, and the watch of a removed directory ends. Set the watches before
            // git reads the ref, so that no change in between is missed.
            if let Some((changes, source)) = self.changes.as_mut().zip(self.mirror.source_dir()) {
                changes.watch(places_of_refs(&source));
            }
            let commit = self.mirror.look().await?;
            if self.seen.as_ref() != Some(&commit) {
                self.seen = Some(commit.clone());
                return Ok(commit);
            }
        }
    }

    /// Waits until the next poll is due. A wake-up makes it due earlier.
    async fn wait(&mut self) {
        let soonest = self.asked + ASK_PAUSE;
        while let Some(changes) = self.changes.as_mut().filter(|_| self.due > soonest) {
            tokio::select! {
                () = tokio::time::sleep_until(self.due) => return,
                () = changes.woken() => self.due = soonest,
            }
        }
        tokio::time::sleep_until(self.due).await;
    }
}

/// True if a change of this path can be a change of a ref. Work in progress (index, messages, lock files) is not.
fn tells_of_a_ref(path: &Path) -> bool {
    const WORK_IN_PROGRESS: [&str; 4] = ["index", "COMMIT_EDITMSG", "ORIG_HEAD", "FETCH_HEAD"];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.ends_with(".lock") && !WORK_IN_PROGRESS.contains(&&*name)
}

/// The directories with the refs of a repository. If the repository does not exist, the directories where it would be.
fn places_of_refs(source: &Path) -> Vec<PathBuf> {
    let Some(common_dir) = common_dir(source) else { return vec![source.to_owned()] };
    let refs = common_dir.join("refs");
    let mut open = VecDeque::from(["heads", "tags"].map(|dir| refs.join(dir)));
    let mut dirs = vec![common_dir.join("reftable"), refs, common_dir];
    while let Some(dir) = open.pop_front().filter(|_| dirs.len() < DIRECTORIES_MAX) {
        let below = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        dirs.push(dir);
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Repository;

    /// Longer than any test may take, so only a wake-up can end the wait.
    const NEVER: Duration = Duration::from_secs(3600);
    /// Timeout of a test that waits for a fact.
    const SOON: Duration = Duration::from_secs(30);

    async fn follower(repository: &Repository, state: &Path, poll: Duration) -> Follower {
        let mirror = Mirror::open(state, repository.path(), "main").await.unwrap();
        Follower::new(mirror, poll, None)
    }

    async fn next(follower: &mut Follower) -> String {
        tokio::time::timeout(SOON, follower.next())
            .await
            .expect("the follower did not see the new commit")
            .unwrap()
            .to_string()
    }

    #[tokio::test]
    async fn a_commit_a_rewrite_and_packed_refs_wake_the_follower() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        let first = repository.commit(&[("a", "1")], "first");
        let mut follower = follower(&repository, state.path(), NEVER).await;
        assert_eq!(next(&mut follower).await, first);
        let second = repository.commit(&[("a", "2")], "second");
        assert_eq!(next(&mut follower).await, second);
        repository.git(&["pack-refs", "--all"]);
        let third = repository.commit(&[("a", "3")], "third");
        assert_eq!(next(&mut follower).await, third);
        repository.git(&["reset", "-q", "--hard", &first]);
        assert_eq!(next(&mut follower).await, first);
    }

    #[tokio::test]
    async fn without_a_wake_up_the_poll_finds_it() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        repository.commit(&[("a", "1")], "first");
        let mut follower = follower(&repository, state.path(), Duration::from_millis(50)).await;
        follower.changes = None;
        next(&mut follower).await;
        let second = repository.commit(&[("a", "2")], "second");
        assert_eq!(next(&mut follower).await, second);
    }

    /// The repository is moved away and created again, as a deployment does.
    #[tokio::test]
    async fn a_repository_in_the_place_of_another_wakes_the_follower() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        repository.commit(&[("a", "1")], "first");
        let mut follower = follower(&repository, state.path(), NEVER).await;
        next(&mut follower).await;
        std::fs::rename(repository.dir().join(".git"), repository.dir().join("away")).unwrap();
        assert!(
            tokio::time::timeout(SOON, follower.next())
                .await
                .expect("the follower did not see that the repository is gone")
                .is_err()
        );
        repository.git(&["init", "-q", "-b", "main"]);
        let anew = repository.commit(&[("a", "2")], "anew");
        // The follower may poll while the repository is only partly written.
        let found = async {
            loop {
                if let Ok(commit) = follower.next().await {
                    break commit.to_string();
                }
            }
        };
        assert_eq!(tokio::time::timeout(SOON, found).await.expect("the follower did not see the new repository"), anew);
        let second = repository.commit(&[("a", "3")], "second");
        assert_eq!(next(&mut follower).await, second);
    }

    #[tokio::test]
    async fn a_source_that_is_away_is_an_error_and_then_found_again() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        let first = repository.commit(&[("a", "1")], "first");
        let mut follower = follower(&repository, state.path(), Duration::from_millis(50)).await;
        let (here, away) = (repository.dir().join(".git"), repository.dir().join("away"));
        std::fs::rename(&here, &away).unwrap();
        assert!(follower.next().await.is_err());
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(next(&mut follower).await, first);
    }
}
