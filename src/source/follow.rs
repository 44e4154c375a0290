//! Has the followed ref moved?
//!
//! The ref itself is the truth: it is asked for at every poll. For a repository on this machine inotify makes the next
//! question come at once; a wake-up that is missed or superfluous changes nothing but the delay.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::error::Error;
use super::mirror::Mirror;
use super::parse::ObjectId;
use super::places::common_dir;

/// The least pause between two questions, so that a busy repository does not keep git running.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// Directories that are watched at most: branches with slashes are directories, and the kernel has a bound of its own.
const WATCHES_MAX: usize = 256;

/// The commits that a followed ref takes on.
pub struct Follower {
    mirror: Mirror,
    poll: Duration,
    seen: Option<ObjectId>,
    asked: Instant,
    due: Instant,
    watch: Option<Watch>,
}

impl Follower {
    /// Follows the ref of `mirror`, asking at least every `poll`. `seen` is the commit that is known already.
    pub fn new(mirror: Mirror, poll: Duration, seen: Option<ObjectId>) -> Self {
        let watch = mirror.source_dir().and_then(|dir| Watch::on(&dir));
        let now = Instant::now();
        Self { mirror, poll, seen, asked: now, due: now, watch }
    }

    /// Waits until the ref names another commit than the last one given, and gives it; nothing is transferred.
    ///
    /// Can be dropped and called again at any time: a change is then found by the next call.
    ///
    /// # Errors
    /// When the source cannot be asked. The next call waits for the next poll and asks again.
    pub async fn next(&mut self) -> Result<ObjectId, Error> {
        loop {
            self.wait().await;
            self.asked = Instant::now();
            self.due = self.asked + self.poll;
            // Directories come and go with branches, and a watch on one that is gone is spent. Armed before git is
            // asked, so that no change falls between the two.
            if let Some(watch) = &self.watch {
                watch.arm();
            }
            let commit = self.mirror.look().await?;
            if self.seen.as_ref() != Some(&commit) {
                self.seen = Some(commit.clone());
                return Ok(commit);
            }
        }
    }

    /// Waits until the next question is due, which a wake-up brings forward.
    async fn wait(&mut self) {
        let soonest = self.asked + ASK_PAUSE;
        while let Some(watch) = self.watch.as_mut().filter(|_| self.due > soonest) {
            tokio::select! {
                () = tokio::time::sleep_until(self.due) => return,
                () = watch.woken() => self.due = soonest,
            }
        }
        tokio::time::sleep_until(self.due).await;
    }
}

/// inotify on the places in which git keeps refs.
struct Watch {
    common_dir: PathBuf,
    inotify: AsyncFd<Events>,
}

/// The crate's type with the traits that tokio wants.
struct Events(Inotify);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// `None` where there is nothing to watch: polling suffices.
    fn on(source: &Path) -> Option<Self> {
        let common_dir = common_dir(source)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        // SAFETY: `Events` owns its descriptor and gives the same one for as long as it lives.
        let inotify = unsafe { AsyncFd::register_with_interest(Events(inotify), Interest::READABLE) }.ok()?;
        let watch = Self { common_dir, inotify };
        watch.arm();
        Some(watch)
    }

    /// Watches every directory of refs, again where it is watched already.
    fn arm(&self) {
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        let flags = flags | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        let mut dirs = VecDeque::from([self.common_dir.clone(), self.common_dir.join("reftable")]);
        dirs.extend(["refs/heads", "refs/tags"].map(|dir| self.common_dir.join(dir)));
        let mut watched = 0;
        while let Some(dir) = dirs.pop_front() {
            if watched == WATCHES_MAX {
                break;
            }
            if self.inotify.get_ref().0.add_watch(&dir, flags).is_err() {
                continue;
            }
            watched += 1;
            if dir.starts_with(self.common_dir.join("refs")) {
                let below = std::fs::read_dir(&dir).into_iter().flatten().flatten();
                dirs.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
            }
        }
    }

    /// Waits for a change of a ref. Work in progress (index, messages, lock files) does not count.
    async fn woken(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => {
                    let names = events.iter().map(|event| event.name.as_deref());
                    if names.into_iter().any(|name| name.is_none_or(|name| tells_of_a_ref(&name.to_string_lossy()))) {
                        return;
                    }
                }
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

fn tells_of_a_ref(name: &str) -> bool {
    const WORK_IN_PROGRESS: [&str; 4] = ["index", "COMMIT_EDITMSG", "ORIG_HEAD", "FETCH_HEAD"];
    !name.ends_with(".lock") && !WORK_IN_PROGRESS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Repository;

    /// Longer than any test may take: with it, only a wake-up can end the wait.
    const NEVER: Duration = Duration::from_secs(3600);
    /// The bound of a test that waits for a fact.
    const SOON: Duration = Duration::from_secs(30);

    async fn follower(repository: &Repository, state: &Path, poll: Duration) -> Follower {
        let mirror = Mirror::open(state, repository.path(), "main").await.unwrap();
        Follower::new(mirror, poll, None)
    }

    async fn next(follower: &mut Follower) -> String {
        tokio::time::timeout(SOON, follower.next()).await.expect("the ref moved unseen").unwrap().to_string()
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
        follower.watch = None;
        next(&mut follower).await;
        let second = repository.commit(&[("a", "2")], "second");
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
