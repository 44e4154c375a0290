//! Which version is Active, and which was before: a Nix profile, in Nix's own format.
//!
//! ```text
//! greeter -> greeter-3-link            the current generation: one symlink, replaced atomically
//! greeter-1-link -> /nix/store/…-v1    every generation is a root of the garbage collector
//! greeter-3-link -> /nix/store/…-v3
//! .greeter-prepared -> greeter-1-link  made beforehand: going back exchanges the two names
//! ```
//!
//! A switch runs no Nix program and needs no free space: the exchange renames two directory entries that are there. It
//! is done under the lock that `nix-env` takes, and what it leaves is what `nix-env --list-generations` shows. The
//! target is always named by its number; the generation before the current one can be the bad one.

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

/// How long a switch waits for another program's lock. `nix-env` holds it for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The pause between tries for the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// A profile: a directory that is ours and a name in it.
#[derive(Clone, Debug)]
pub struct Profile {
    dir: PathBuf,
    name: String,
}

/// One generation of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number, from 1; numbers are not used twice.
    pub number: u64,
    /// The store path.
    pub path: PathBuf,
    /// Whether it is the one that the profile points to.
    pub current: bool,
}

impl Profile {
    /// The profile `dir/name`, which may have no generation yet. `dir` is made if it is missing.
    ///
    /// # Errors
    /// When the name is none or the directory cannot be made.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        require_name(name, "profile")?;
        std::fs::create_dir_all(dir).map_err(file("make the directory", dir))?;
        Ok(Self { dir: dir.canonicalize().map_err(file("find", dir))?, name: name.to_owned() })
    }

    /// The symlink itself, for `nix-env --profile`.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// All generations, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn generations(&self) -> Result<Vec<Generation>> {
        let current = self.current_number()?;
        let mut generations = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let entry = entry.map_err(file("read", &self.dir))?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| self.number_of(name)) else { continue };
            // A generation that goes while the directory is read is no error.
            let Ok(path) = std::fs::read_link(entry.path()) else { continue };
            generations.push(Generation { number, path, current: current == Some(number) });
        }
        generations.sort_by_key(|generation| generation.number);
        Ok(generations)
    }

    /// The generation that the profile points to; `None` for a profile that has none.
    ///
    /// # Errors
    /// When the links cannot be read.
    pub fn current(&self) -> Result<Option<Generation>> {
        let Some(number) = self.current_number()? else { return Ok(None) };
        self.generation(number).map(Some)
    }

    /// One generation.
    ///
    /// # Errors
    /// When there is none of this number.
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

    /// Makes a generation of a valid store path, without switching to it, and gives its number. As with Nix, no new one
    /// is made when the highest is this path already.
    ///
    /// # Errors
    /// When the path is not in the store, or the profile is locked or cannot be written.
    pub async fn create_generation(&self, nix: &Nix, out: &Path) -> Result<u64> {
        // `nix-env --set` takes no lock, so rei's own programs need one of their own as well.
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

    /// Makes the link that a later [`Profile::switch`] to `number` exchanges, so that it needs no free space.
    ///
    /// # Errors
    /// When there is no such generation, or the link cannot be made.
    pub fn prepare_rollback(&self, number: u64) -> Result<()> {
        let _lock = self.lock()?;
        self.require_alive(number)?;
        self.place(number, &self.prepared())?;
        self.sync()
    }

    /// Makes `number` the current generation, atomically, without any Nix program. It is on disk when this returns.
    ///
    /// Blocks the thread: microseconds and one fsync, at most 2 s while `nix-env` works on the profile.
    ///
    /// # Errors
    /// When there is no such generation or its path is gone; then the profile is as it was.
    pub fn switch(&self, number: u64) -> Result<()> {
        self.switch_locked(number, self.lock()?)
    }

    /// As [`Profile::switch`], without waiting: for a loop that must go round.
    ///
    /// # Errors
    /// As [`Profile::switch`]; [`Error::ProfileBusy`] at once while another program holds the lock.
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
                // A file system without exchange: a rename needs no more than the link that is there.
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

    /// Removes all generations but the `keep` highest, the current one, the prepared one and those in `in_use`. The
    /// highest is never removed, so that no number is used twice. Gives the numbers that went.
    ///
    /// # Errors
    /// When a link cannot be removed.
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

    /// Puts a link to the generation in place of `at`, atomically.
    fn place(&self, number: u64, at: &Path) -> Result<()> {
        let next = self.dir.join(format!(".{}-next", self.name));
        match std::fs::remove_file(&next) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(file("remove", &next)(source)),
            _ => {}
        }
        symlink(self.link_name(number), &next).map_err(file("make", &next))?;
        std::fs::rename(&next, at).map_err(file("switch", at))
    }

    /// A generation whose path is gone would leave a profile that points nowhere.
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

    /// What makes a rename last through a power cut; Nix itself leaves it out.
    fn sync(&self) -> Result<()> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file("sync", &self.dir))
    }

    /// Nix's own lock of the profile.
    ///
    /// `None` where no lock file can be made for want of space: then Nix cannot make one either, and going back must not
    /// fail for it.
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
                    // Nix removes a lock file when it is done with it: then the one we hold is not the lock.
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

    /// A profile whose generations are made by hand, as Nix makes them, with the first `n` current.
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
    fn a_switch_goes_where_it_is_told() {
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
        // The link that was given up lies where the prepared one was, so the way back is prepared too.
        assert_eq!(std::fs::read_link(profile.prepared()).unwrap(), Path::new("app-3-link"));
        profile.switch(3).unwrap();
        assert_eq!(current(&profile), Some(3));
        // What was prepared for one generation is not used for another.
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
    fn pruning_spares_what_is_needed() {
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
    fn a_lock_that_is_held_is_respected_and_one_that_was_removed_is_none() {
        let (_dir, profile) = profile(&[1, 2]);
        let held = profile.lock().unwrap();
        assert!(matches!(profile.switch(2), Err(Error::ProfileBusy { .. })));
        // As Nix does at its end; whoever waited on the old file must take the new one.
        std::fs::remove_file(profile.dir.join("app.lock")).unwrap();
        profile.switch(2).unwrap();
        drop(held);
        assert_eq!(current(&profile), Some(2));
    }
}
