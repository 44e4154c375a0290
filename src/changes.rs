//! Reports that files may have changed.
//!
//! An event is a hint and no fact: after it the caller looks at the files and sets the watches again, because directories are
//! removed and made anew. So a superfluous or missing event changes only the delay. This module watches directories, not files: an
//! editor replaces a file by another one. If the kernel gives no watches, the caller looks at the files from time to time, and the
//! log says so.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};

/// Directories that are watched at most: branches with slashes are directories, and the kernel has a bound of its own.
const WATCHES_MAX: usize = 256;
/// The pause between two looks without watches.
const BLIND_LOOK: Duration = Duration::from_secs(2);
/// The pause between two tries to have watches.
const RETRY: Duration = Duration::from_secs(60);

/// Watches on directories.
pub struct Changes {
    watcher: Option<INotifyWatcher>,
    woken: Arc<tokio::sync::Notify>,
    counts: Arc<dyn Fn(&Path) -> bool + Send + Sync>,
    watched: BTreeSet<PathBuf>,
    tried: Option<Instant>,
    /// Why not all directories are watched; `None` if all are.
    blind: Option<String>,
}

impl Changes {
    /// Watches nothing yet. A change counts only if `counts` returns true for its path; another thread calls `counts`.
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

    /// Watches these directories from now on, and no others. If a directory does not exist, its nearest ancestor is watched. Call
    /// this again after each event, before you look at the files: then no change is lost between the two.
    pub fn watch(&mut self, dirs: impl IntoIterator<Item = PathBuf>) {
        let dirs: BTreeSet<PathBuf> = dirs.into_iter().filter_map(|dir| nearest(&dir)).take(WATCHES_MAX).collect();
        let before = self.blind.take();
        self.blind = self.arm(&dirs).err();
        match (&before, &self.blind) {
            (None, Some(why)) => tracing::warn!(
                "rei looks for changes of files from time to time, as the kernel gives no watches: {why}; hint: raise \
                 `sysctl fs.inotify.max_user_instances` or `fs.inotify.max_user_watches`"
            ),
            (Some(_), None) => tracing::info!("rei sees changes of files at once again"),
            _ => {}
        }
        self.watched = dirs;
    }

    /// Whether the kernel gives no watches, or not all.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// Waits until something may have changed, and at most for `poll`.
    pub async fn next(&mut self, poll: Duration) {
        let poll = if self.is_blind() { BLIND_LOOK.min(poll) } else { poll };
        // After the timeout the caller looks as well.
        let _ = tokio::time::timeout(poll, self.woken.notified()).await;
    }

    /// Waits for an event.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Waits until no event has arrived for `quiet`: by then the writer of a file has finished. Waits at most for `max`.
    pub async fn settled(&self, quiet: Duration, max: Duration) {
        let settle = async { while tokio::time::timeout(quiet, self.woken.notified()).await.is_ok() {} };
        // After `max` the caller looks even if events still arrive.
        let _ = tokio::time::timeout(max, settle).await;
    }

    /// Sets the watches. The thread of `notify` answers each call. If that thread could not be made or has ended, `notify` panics.
    fn arm(&mut self, dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
        self.begin()?;
        let armed = std::panic::catch_unwind(AssertUnwindSafe(|| self.arm_by_thread(dirs)));
        armed.unwrap_or_else(|_| {
            self.watcher = None;
            Err("the thread that hears of changes is gone".to_owned())
        })
    }

    fn arm_by_thread(&mut self, dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
        let Some(watcher) = &mut self.watcher else { return Err("they were refused a moment ago".to_owned()) };
        for gone in self.watched.iter().filter(|dir| !dirs.contains(*dir)) {
            // The kernel has removed the watch of a directory that is gone.
            let _ = watcher.unwatch(gone);
        }
        for dir in dirs {
            // Also if the path is watched already: another directory may be in its place.
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // The directory was removed just now, so another event follows.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Makes the watcher, if there is none.
    fn begin(&mut self) -> Result<(), String> {
        if self.watcher.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return Ok(());
        }
        self.tried = Some(Instant::now());
        let (woken, counts) = (self.woken.clone(), self.counts.clone());
        let tell = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| may_change(event, &*counts)) {
                woken.notify_one();
            }
        };
        self.watcher = Some(INotifyWatcher::new(tell, notify::Config::default()).map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// Whether an event is a reason to look. A read is none: the caller reads the files itself.
fn may_change(event: &Event, counts: &dyn Fn(&Path) -> bool) -> bool {
    let reads = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    // The kernel has dropped events: any file may have changed.
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

    /// Longer than any test may take: only a wake-up can end the wait.
    const NEVER: Duration = Duration::from_secs(3600);
    /// The bound of a test that waits for a fact.
    const SOON: Duration = Duration::from_secs(60);

    async fn wakes(changes: &mut Changes) {
        tokio::time::timeout(SOON, changes.next(NEVER)).await.expect("a change was not seen");
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_and_a_directory_that_is_made_anew_are_seen() {
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
            // Removed with all above it but one, and made anew step by step.
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
    async fn who_missed_events_is_woken() {
        let queued_max: usize =
            std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (gate, seen) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let closed = gate.lock().unwrap();
        // The thread that hears of changes is held, and takes no path: only lost events can wake.
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
            assert!(since.elapsed() < SOON, "the first change was not heard of");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Equal events in a row are one to the kernel, so two files take turns.
        let mut files = ["a", "b"].map(|name| std::fs::File::create(dir.path().join(name)).unwrap());
        for number in 0..=queued_max {
            files[number % 2].write_all(b"x").unwrap();
        }
        drop(closed);
        wakes(&mut changes).await;
    }

    /// Set for the run of this test program that has no watches.
    const WITHOUT: &str = "REI_TEST_WITHOUT_INOTIFY";

    #[tokio::test]
    async fn without_watches_files_are_looked_at() {
        if std::env::var_os(WITHOUT).is_some() {
            let dir = tempfile::tempdir().unwrap();
            let mut changes = Changes::new(|_| true);
            changes.watch([dir.path().to_owned()]);
            assert!(changes.is_blind(), "{:?}", changes.blind);
            tokio::time::timeout(SOON, changes.next(NEVER)).await.expect("no look without watches");
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
