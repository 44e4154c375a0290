//! The current and previous versions: a Nix profile, in Nix's own format.
//!
//! ```text
//! greeter -> greeter-3-link            the current generation: one symlink, replaced atomically
//! greeter-1-link -> /nix/store/…-v1    every generation is a root of the garbage collector
//! greeter-3-link -> /nix/store/…-v3
//! .greeter-prepared -> greeter-1-link  prepared: a rollback exchanges the two names
//! ```
//!
//! A switch runs no Nix program and needs no free disk space: it exchanges the names of two existing directory entries.
//! It holds the lock that `nix-env` uses, and its result is what `nix-env --list-generations` shows. The target is
//! always named by its number, because the generation before the current one may be a bad one.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};

use super::error::{Error, Result};
use super::locate::Nix;
use super::roots::require_name;

/// How long a switch waits for another program's lock. `nix-env` holds the lock for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The pause between attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// A profile: a directory of rei and a name in it.
#[derive(Clone, Debug)]
pub struct Profile {
    dir: PathBuf,
    name: String,
}

/// One generation of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The number, from 1 on. Numbers are not reused.
    pub number: u64,
    /// The store path.
    pub path: PathBuf,
    /// True if the profile points to it.
    pub current: bool,
}

impl Profile {
    /// Opens the profile `dir/name`, which may have no generation yet. Creates `dir` if it does not exist.
    ///
    /// # Errors
    /// If the name is invalid or the directory cannot be created.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        require_name(name, "profile")?;
        std::fs::create_dir_all(dir).map_err(file("make the directory", dir))?;
        Ok(Self { dir: dir.canonicalize().map_err(file("find", dir))?, name: name.to_owned() })
    }

    /// The path of the symlink, for `nix-env --profile`.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// All generations, oldest first.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn generations(&self) -> Result<Vec<Generation>> {
        let current = self.current_number()?;
        let mut generations = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let entry = entry.map_err(file("read", &self.dir))?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| self.number_of(name)) else { continue };
            // A generation that disappears meanwhile is no error.
            let Ok(path) = std::fs::read_link(entry.path()) else { continue };
            generations.push(Generation { number, path, current: current == Some(number) });
        }
        generations.sort_by_key(|generation| generation.number);
        Ok(generations)
    }

    /// The generation that the profile points to; `None` if the profile has none.
    ///
    /// # Errors
    /// If the links cannot be read.
    pub fn current(&self) -> Result<Option<Generation>> {
        let Some(number) = self.current_number()? else { return Ok(None) };
        self.generation(number).map(Some)
    }

    /// The generation with this number.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn generation(&self, number: u64) -> Result<Generation> {
        let link = self.link(number);
        match std::fs::read_link(&link) {
            Ok(path) => Ok(Generation { number, path, current: self.current_number()? == Some(number) }),
            Err(source) if source.kind() == ErrorKind::NotFound => {
                Err(Error::NoGeneration { profile: self.path(), number })
            }
            Err(source) => Err(file("read", &link)(source)),
        }
    }

    /// Creates a generation for a valid store path, without switching to it, and returns its number. Like Nix, it
    /// creates no new one if the highest generation has this path.
    ///
    /// # Errors
    /// If the path is not in the store, or the profile is locked or cannot be written.
    pub async fn create_generation(&self, nix: &Nix, out: &Path) -> Result<u64> {
        // `nix-env --set` takes no lock, so rei's own processes also need a lock of their own.
        let (profile, own) = (self.clone(), self.dir.join(format!(".{}-generations.lock", self.name)));
        let locked = tokio::task::spawn_blocking(move || {
            let own = profile.lock_file(&own, LOCK_WAIT)?;
            let nixs = profile.lock()?;
            Ok((own, nixs, profile.generations()?))
        });
        let (_own, _nixs, generations) = locked.await.map_err(|_| Error::ProfileBusy { profile: self.path() })??;
        let highest = generations.last();
        if let Some(same) = highest.filter(|highest| highest.path == out) {
            return Ok(same.number);
        }
        let number = highest.map_or(1, |highest| highest.number + 1);
        nix.root_paths(&[out.to_owned()], &self.link(number)).await?;
        let profile = self.clone();
        let synced = tokio::task::spawn_blocking(move || profile.sync());
        synced.await.map_err(|_| Error::ProfileBusy { profile: self.path() })??;
        Ok(number)
    }

    /// Creates the link that a later [`Profile::switch`] to `number` exchanges, so that the switch needs no free disk
    /// space.
    ///
    /// # Errors
    /// If the generation does not exist, or the link cannot be created.
    pub fn prepare_rollback(&self, number: u64) -> Result<()> {
        let _lock = self.lock()?;
        self.require_alive(number)?;
        self.place(number, &self.prepared())?;
        self.sync()
    }

    /// Makes `number` the current generation, atomically and without Nix. When this returns, the change is on disk.
    ///
    /// Blocks the thread: for microseconds and one fsync, or for at most 2 s while `nix-env` holds the lock.
    ///
    /// # Errors
    /// If the generation or its store path does not exist; then the profile is unchanged.
    pub fn switch(&self, number: u64) -> Result<()> {
        self.switch_locked(number, self.lock()?)
    }

    /// Like [`Profile::switch`], but does not wait for the lock, for use in an event loop.
    ///
    /// # Errors
    /// As for [`Profile::switch`]; [`Error::ProfileBusy`] at once if another program holds the lock.
    pub fn switch_now(&self, number: u64) -> Result<()> {
        self.switch_locked(number, self.lock_within(Duration::ZERO)?)
    }

    fn switch_locked(&self, number: u64, _lock: Option<Flock<File>>) -> Result<()> {
        self.require_alive(number)?;
        if self.current_number()? == Some(number) {
            return Ok(());
        }
        let (profile, prepared) = (self.path(), self.prepared());
        let ready = std::fs::read_link(&prepared).is_ok_and(|target| target == Path::new(&self.link_name(number)));
        if ready && profile.is_symlink() {
            match renameat2(AT_FDCWD, &prepared, AT_FDCWD, &profile, RenameFlags::RENAME_EXCHANGE) {
                Ok(()) => return self.sync(),
                // The file system does not support the exchange. A plain rename also needs no free disk space.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    std::fs::rename(&prepared, &profile).map_err(file("switch", &profile))?;
                    return self.sync();
                }
                Err(errno) => return Err(file("switch", &profile)(errno.into())),
            }
        }
        self.place(number, &profile)?;
        self.sync()
    }

    /// Removes all generations except the `keep` highest, the current one, the prepared one and those in `in_use`. The
    /// highest is never removed, so that its number is not reused. Returns the numbers of the removed ones.
    ///
    /// # Errors
    /// If a link cannot be removed.
    pub fn prune(&self, keep: usize, in_use: &[u64]) -> Result<Vec<u64>> {
        let _lock = self.lock()?;
        let prepared = std::fs::read_link(self.prepared()).ok();
        let prepared = prepared.and_then(|target| self.number_of(target.to_str()?));
        let generations = self.generations()?;
        let old = generations.len().saturating_sub(keep.max(1));
        let mut pruned = Vec::new();
        for generation in &generations[..old] {
            let number = generation.number;
            if generation.current || Some(number) == prepared || in_use.contains(&number) {
                continue;
            }
            let link = self.link(number);
            std::fs::remove_file(&link).map_err(file("remove", &link))?;
            pruned.push(number);
        }
        self.sync()?;
        Ok(pruned)
    }

    /// Atomically replaces `at` by a link to the generation.
    fn place(&self, number: u64, at: &Path) -> Result<()> {
        let next = self.dir.join(format!(".{}-next", self.name));
        match std::fs::remove_file(&next) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(file("remove", &next)(source)),
            _ => {}
        }
        symlink(self.link_name(number), &next).map_err(file("make", &next))?;
        std::fs::rename(&next, at).map_err(file("switch", at))
    }

    /// Checks that the store path of a generation exists; otherwise the profile would point to nothing.
    fn require_alive(&self, number: u64) -> Result<()> {
        let generation = self.generation(number)?;
        if generation.path.symlink_metadata().is_ok() {
            return Ok(());
        }
        Err(Error::DeadGeneration { profile: self.path(), number, path: generation.path })
    }

    fn current_number(&self) -> Result<Option<u64>> {
        let profile = self.path();
        match std::fs::read_link(&profile) {
            Ok(target) => Ok(target.file_name().and_then(|name| self.number_of(name.to_str()?))),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file("read", &profile)(source)),
        }
    }

    /// Syncs the directory, so that a rename survives a power failure. Nix itself does not do this.
    fn sync(&self) -> Result<()> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file("sync", &self.dir))
    }

    /// Takes Nix's own lock of the profile.
    ///
    /// `None` if the lock file cannot be created because the disk is full. Then Nix cannot create it either, and a
    /// rollback must not fail for this reason.
    fn lock(&self) -> Result<Option<Flock<File>>> {
        self.lock_within(LOCK_WAIT)
    }

    fn lock_within(&self, wait: Duration) -> Result<Option<Flock<File>>> {
        match self.lock_file(&self.dir.join(format!("{}.lock", self.name)), wait) {
            Ok(lock) => Ok(Some(lock)),
            Err(Error::File { source, .. })
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn lock_file(&self, path: &Path, wait: Duration) -> Result<Flock<File>> {
        let until = Instant::now() + wait;
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
            match Flock::lock(open.map_err(file("open", path))?, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    // Nix removes its lock file after use. Then the file that we have locked is not the lock any more.
                    let held = lock.metadata().map_err(file("read", path))?;
                    if path.metadata().is_ok_and(|there| there.ino() == held.ino()) {
                        return Ok(lock);
                    }
                }
                Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
                Err((_, errno)) => return Err(file("lock", path)(errno.into())),
            }
            if Instant::now() >= until {
                return Err(Error::ProfileBusy { profile: self.path() });
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    fn prepared(&self) -> PathBuf {
        self.dir.join(format!(".{}-prepared", self.name))
    }

    fn link(&self, number: u64) -> PathBuf {
        self.dir.join(self.link_name(number))
    }

    fn link_name(&self, number: u64) -> String {
        format!("{}-{number}-link", self.name)
    }

    fn number_of(&self, link: &str) -> Option<u64> {
        let number = link.strip_prefix(&self.name)?.strip_prefix('-')?.strip_suffix("-link")?;
        if number.bytes().all(|digit| digit.is_ascii_digit()) { number.parse().ok() } else { None }
    }
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { act, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile with generations made by hand in Nix's format; the first is current.
    fn profile(generations: &[u64]) -> (tempfile::TempDir, Profile) {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(&dir.path().join("profiles"), "app").unwrap();
        for number in generations {
            let path = dir.path().join(format!("v{number}"));
            std::fs::create_dir(&path).unwrap();
            symlink(path, profile.link(*number)).unwrap();
        }
        if let Some(first) = generations.first() {
            profile.switch(*first).unwrap();
        }
        (dir, profile)
    }

    fn numbers(profile: &Profile) -> Vec<u64> {
        profile.generations().unwrap().iter().map(|generation| generation.number).collect()
    }

    fn current(profile: &Profile) -> Option<u64> {
        profile.current().unwrap().map(|generation| generation.number)
    }

    #[test]
    fn an_empty_profile_has_nothing() {
        let (_dir, profile) = profile(&[]);
        assert_eq!((current(&profile), numbers(&profile)), (None, vec![]));
        assert!(matches!(profile.switch(1), Err(Error::NoGeneration { number: 1, .. })));
        assert!(Profile::open(&profile.dir, "../x").is_err());
    }

    #[test]
    fn a_switch_goes_to_the_given_generation() {
        let (_dir, profile) = profile(&[1, 2, 10]);
        profile.switch(10).unwrap();
        assert_eq!(current(&profile), Some(10));
        profile.switch(1).unwrap();
        assert_eq!(current(&profile), Some(1));
        assert_eq!(std::fs::read_link(profile.path()).unwrap(), Path::new("app-1-link"));
        profile.switch(1).unwrap();
        assert_eq!(numbers(&profile), [1, 2, 10]);
    }

    #[test]
    fn a_prepared_switch_exchanges_and_can_be_undone() {
        let (_dir, profile) = profile(&[1, 2, 3]);
        profile.switch(3).unwrap();
        profile.prepare_rollback(1).unwrap();
        profile.switch(1).unwrap();
        assert_eq!(current(&profile), Some(1));
        // The old link is now where the prepared one was, so the way back is prepared, too.
        assert_eq!(std::fs::read_link(profile.prepared()).unwrap(), Path::new("app-3-link"));
        profile.switch(3).unwrap();
        assert_eq!(current(&profile), Some(3));
        // A link that was prepared for one generation is not used for another.
        profile.switch(2).unwrap();
        assert_eq!(current(&profile), Some(2));
    }

    #[test]
    fn a_dead_generation_is_refused_and_nothing_changes() {
        let (dir, profile) = profile(&[1, 2]);
        std::fs::remove_dir(dir.path().join("v2")).unwrap();
        assert!(matches!(profile.switch(2), Err(Error::DeadGeneration { number: 2, .. })));
        assert!(matches!(profile.prepare_rollback(2), Err(Error::DeadGeneration { .. })));
        assert_eq!(current(&profile), Some(1));
    }

    #[test]
    fn pruning_keeps_needed_generations() {
        let (_dir, profile) = profile(&[1, 2, 3, 4, 5, 6]);
        profile.switch(3).unwrap();
        profile.prepare_rollback(1).unwrap();
        assert_eq!(profile.prune(1, &[4]).unwrap(), [2, 5]);
        assert_eq!(numbers(&profile), [1, 3, 4, 6]);
        assert_eq!(profile.prune(0, &[]).unwrap(), [4]);
        assert_eq!(numbers(&profile), [1, 3, 6], "the highest stays, or its number would be used again");
    }

    #[test]
    fn names_that_only_look_like_generations_are_none() {
        let (_dir, profile) = profile(&[1]);
        for name in
            ["app-x-link", "app--1-link", "app-2", "app-+2-link", "apple-3-link", "app-99999999999999999999-link"]
        {
            symlink("/x", profile.dir.join(name)).unwrap();
        }
        assert_eq!(numbers(&profile), [1]);
    }

    #[test]
    fn a_held_lock_is_respected_and_a_removed_one_is_ignored() {
        let (_dir, profile) = profile(&[1, 2]);
        let held = profile.lock().unwrap();
        assert!(matches!(profile.switch(2), Err(Error::ProfileBusy { .. })));
        // Nix does this at its end. A program that waited for the old file must lock the new one.
        std::fs::remove_file(profile.dir.join("app.lock")).unwrap();
        profile.switch(2).unwrap();
        drop(held);
        assert_eq!(current(&profile), Some(2));
    }
}
