//! Says that files may have changed.
//!
//! A wake-up is a hint and no fact: whoever is woken looks at the files, and arms again, as directories come and go. So a
//! wake-up that is superfluous or missed changes nothing but the delay. Directories are watched, not files: an editor puts
//! another file in the place of the old one. If the kernel gives no watches, files are looked at now and then, and the log says
//! so.

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
    /// Why not everything is watched; `None` if all is.
    blind: Option<String>,
}

impl Changes {
    /// Watches nothing yet. Only changes of those paths count that `counts` takes. It is asked by another thread.
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

    /// Watches these directories from now on, and no others. One that is not there is waited for: its nearest ancestor is
    /// watched. To be called again after each wake-up, before the files are looked at: then no change falls between the two.
    pub fn watch(&mut self, dirs: impl IntoIterator<Item = PathBuf>) {
        let dirs: BTreeSet<PathBuf> = dirs.into_iter().filter_map(|dir| nearest(&dir)).take(WATCHES_MAX).collect();
        let before = self.blind.take();
        self.blind = self.arm(&dirs).err();
        match (&before, &self.blind) {
            (None, Some(why)) => tracing::warn!(
                "changes of files are looked for now and then, as the kernel gives no watches: {why}; hint: raise \
                 `sysctl fs.inotify.max_user_instances` or `fs.inotify.max_user_watches`"
            ),
            (Some(_), None) => tracing::info!("changes of files are seen at once again"),
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
        // The end of the time is as good as a change.
        let _ = tokio::time::timeout(poll, self.woken.notified()).await;
    }

    /// Waits for a wake-up.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Waits until nothing has changed for `quiet`: whoever writes a file has done by then. At most for `max`.
    pub async fn settled(&self, quiet: Duration, max: Duration) {
        let settle = async { while tokio::time::timeout(quiet, self.woken.notified()).await.is_ok() {} };
        // Who never comes to rest is looked at all the same.
        let _ = tokio::time::timeout(max, settle).await;
    }

    /// The crate's thread answers each call, and without it the crate panics: where no thread could be made, or it ended.
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
            // What is gone is watched no more already.
            let _ = watcher.unwatch(gone);
        }
        for dir in dirs {
            // Also if it is watched: another directory may be in its place.
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It went just now, and the next wake-up is on its way.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Has the watcher, if it can be had.
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

/// Whether an event is a reason to look. That a file is read is none: who looks reads.
fn may_change(event: &Event, counts: &dyn Fn(&Path) -> bool) -> bool {
    let reads = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    // Events were lost: anything may have changed.
    event.need_rescan() || !reads && event.paths.iter().any(|path| counts(path))
}

/// The directory, or the nearest one above it that is there.
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
            tokio::time::timeout(SOON, changes.next(NEVER)).await.expect("nobody looks");
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
