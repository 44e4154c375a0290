//! Wakes a task when files may have changed.
//!
//! A wake-up is only a hint. After each one, the task reads the files itself. It also sets the watches again, because
//! directories may have been made or removed. So a superfluous or missed wake-up changes only the delay.
//!
//! The watches are on directories and not on files, because an editor replaces the old file with a new one. If the kernel
//! refuses watches, the task reads the files at regular times, and the log says so.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};

/// Maximum number of watched directories. A branch name with slashes makes directories, so there can be many. The
/// kernel also has its own bound.
const WATCHES_MAX: usize = 256;
/// Without watches: the pause between two reads of the files.
const BLIND_LOOK: Duration = Duration::from_secs(2);
/// The pause between two attempts to get watches from the kernel.
const RETRY: Duration = Duration::from_secs(60);

/// Watches on directories.
pub struct Changes {
    watcher: Option<INotifyWatcher>,
    woken: Arc<tokio::sync::Notify>,
    counts: Arc<dyn Fn(&Path) -> bool + Send + Sync>,
    watched: BTreeSet<PathBuf>,
    tried: Option<Instant>,
    /// Why some directories are not watched. `None` if all of them are.
    blind: Option<String>,
}

impl Changes {
    /// Watches nothing yet. A change wakes only if `counts` returns true for its path. Another thread calls `counts`.
    pub fn new(counts: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        Self {
            watcher: None,
            woken: Arc::default(),
            counts: Arc::new(counts),
            watched: BTreeSet::new(),
            tried: None,
            blind: None,
        }
    }

    /// From now on, watches these directories and no others. For a directory that does not exist, it watches the nearest
    /// ancestor, so that the creation of the directory wakes.
    ///
    /// Call this again after each wake-up, and before you read the files. Then no change is missed between the two.
    pub fn watch(&mut self, dirs: impl IntoIterator<Item = PathBuf>) {
        let dirs: BTreeSet<PathBuf> = dirs.into_iter().filter_map(|dir| nearest(&dir)).take(WATCHES_MAX).collect();
        let before = self.blind.take();
        self.blind = self.arm(&dirs).err();
        match (&before, &self.blind) {
            (None, Some(why)) => tracing::warn!(
                "the kernel gives no file watches, so rei looks for changed files at least every {BLIND_LOOK:?}: {why}; \
                 hint: raise `sysctl fs.inotify.max_user_instances` or `fs.inotify.max_user_watches`"
            ),
            (Some(_), None) => tracing::info!("the kernel gives file watches again, so rei sees changed files at once"),
            _ => {}
        }
        self.watched = dirs;
    }

    /// Whether the kernel refused some or all of the watches.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// Waits until a file may have changed, and at most for `poll`.
    pub async fn next(&mut self, poll: Duration) {
        let poll = if self.is_blind() { BLIND_LOOK.min(poll) } else { poll };
        // After a timeout, the caller does the same as after a change.
        let _ = tokio::time::timeout(poll, self.woken.notified()).await;
    }

    /// Waits for a wake-up.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Waits until nothing has changed for `quiet`: a program that writes a file has finished by then. Waits at most for
    /// `max`.
    pub async fn settled(&self, quiet: Duration, max: Duration) {
        let settle = async { while tokio::time::timeout(quiet, self.woken.notified()).await.is_ok() {} };
        // Files that change all the time are read after `max`.
        let _ = tokio::time::timeout(max, settle).await;
    }

    /// A thread of the crate answers each call. The crate panics if that thread could not be started, or has ended.
    fn arm(&mut self, dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
        self.begin()?;
        let armed = std::panic::catch_unwind(AssertUnwindSafe(|| self.arm_by_thread(dirs)));
        armed.unwrap_or_else(|_| {
            self.watcher = None;
            Err("the thread that receives the changes has ended".to_owned())
        })
    }

    fn arm_by_thread(&mut self, dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
        let Some(watcher) = &mut self.watcher else {
            return Err("the kernel refused them less than a minute ago".to_owned());
        };
        for gone in self.watched.iter().filter(|dir| !dirs.contains(*dir)) {
            // If the directory was removed, the kernel has already removed its watch.
            let _ = watcher.unwatch(gone);
        }
        for dir in dirs {
            // Also if it is watched already: it may have been replaced by another directory.
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It was removed a moment ago, and that change wakes again.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Makes the watcher, if there is none and the last attempt is long enough ago.
    fn begin(&mut self) -> Result<(), String> {
        if self.watcher.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return Ok(());
        }
        self.tried = Some(Instant::now());
        let (woken, counts) = (self.woken.clone(), self.counts.clone());
        let wake = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| may_change(event, &*counts)) {
                woken.notify_one();
            }
        };
        self.watcher = Some(INotifyWatcher::new(wake, notify::Config::default()).map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// Whether an event is a reason to wake. A read of a file is no reason: the woken task itself reads the files.
fn may_change(event: &Event, counts: &dyn Fn(&Path) -> bool) -> bool {
    let reads = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    // `need_rescan`: events were lost, so any file may have changed.
    event.need_rescan() || !reads && event.paths.iter().any(|path| counts(path))
}

/// The directory, or its nearest ancestor that exists.
fn nearest(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Longer than any test may take, so only a wake-up can end the wait.
    const NEVER: Duration = Duration::from_secs(3600);
    /// The bound of a test that waits for a fact.
    const SOON: Duration = Duration::from_secs(60);

    async fn wakes(changes: &mut Changes) {
        tokio::time::timeout(SOON, changes.next(NEVER)).await.expect("a change was not seen");
    }

    #[tokio::test]
    async fn a_replaced_file_and_a_directory_that_is_made_again_are_seen() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("some/where");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        let wanted = file.clone();
        let mut changes = Changes::new(move |path| wanted.starts_with(path));
        changes.watch([dir.clone()]);
        let replace = || {
            std::fs::write(dir.join("new"), "x").unwrap();
            std::fs::rename(dir.join("new"), &file).unwrap();
        };
        for _ in 0..2 {
            replace();
            wakes(&mut changes).await;
            changes.watch([dir.clone()]);
            // The directory and its parent are removed, and made again one after the other.
            std::fs::remove_dir_all(top.path().join("some")).unwrap();
            wakes(&mut changes).await;
            changes.watch([dir.clone()]);
            std::fs::create_dir(top.path().join("some")).unwrap();
            wakes(&mut changes).await;
            changes.watch([dir.clone()]);
            std::fs::create_dir(&dir).unwrap();
            wakes(&mut changes).await;
            changes.watch([dir.clone()]);
            // Another directory in the same place.
            std::fs::create_dir(top.path().join("some/other")).unwrap();
            std::fs::rename(&dir, top.path().join("some/away")).unwrap();
            std::fs::rename(top.path().join("some/other"), &dir).unwrap();
            wakes(&mut changes).await;
            changes.watch([dir.clone()]);
        }
        assert!(!changes.is_blind());
    }

    #[tokio::test]
    async fn lost_events_wake() {
        let queued_max: usize =
            std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (gate, seen) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let closed = gate.lock().unwrap();
        // The thread that receives the changes is blocked, and `counts` is false for every path. So only lost events can wake.
        let held = (gate.clone(), seen.clone());
        let mut changes = Changes::new(move |_| {
            held.1.store(true, Ordering::Relaxed);
            drop(held.0.lock());
            false
        });
        changes.watch([dir.path().to_owned()]);
        std::fs::write(dir.path().join("first"), "").unwrap();
        let since = Instant::now();
        while !seen.load(Ordering::Relaxed) {
            assert!(since.elapsed() < SOON, "the first change was not received");
            std::thread::sleep(Duration::from_millis(1));
        }
        // The kernel merges equal events in a row, so the test writes to two files in turn.
        let mut files = ["a", "b"].map(|name| std::fs::File::create(dir.path().join(name)).unwrap());
        for number in 0..=queued_max {
            files[number % 2].write_all(b"x").unwrap();
        }
        drop(closed);
        wakes(&mut changes).await;
    }

    /// This variable is set if the test program runs in a namespace where the kernel refuses watches.
    const WITHOUT: &str = "REI_TEST_WITHOUT_INOTIFY";

    #[tokio::test]
    async fn without_watches_files_are_looked_at() {
        if std::env::var_os(WITHOUT).is_some() {
            let dir = tempfile::tempdir().unwrap();
            let mut changes = Changes::new(|_| true);
            changes.watch([dir.path().to_owned()]);
            assert!(changes.is_blind(), "{:?}", changes.blind);
            tokio::time::timeout(SOON, changes.next(NEVER)).await.expect("the wait did not end");
            println!("looked without watches");
            return;
        }
        let script = "echo 0 > /proc/sys/user/max_inotify_instances || exit 9; exec \"$0\" \"$@\"";
        let mut hidden = std::process::Command::new("unshare");
        hidden.args(["--user", "--map-root-user", "--", "/bin/sh", "-c", script]).arg(std::env::current_exe().unwrap());
        hidden
            .args(["--exact", "changes::tests::without_watches_files_are_looked_at", "--nocapture"])
            .env(WITHOUT, "1");
        let output = hidden.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.code() == Some(9) || said.contains("unshare failed") {
            eprintln!("SKIPPED: this test needs user namespaces: {said}");
            return;
        }
        assert!(output.status.success() && said.contains("looked without watches"), "{said}");
    }
}
