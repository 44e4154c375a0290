//! Queries and changes the store: `nix-store --check-validity`, `--query`, `--add`, `--verify-path`, `--read-log`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::{Error, Problem, Result};
use super::locate::Nix;

/// Timeout of adding a tree or hashing a path: gigabytes on a slow disk.
const HASH_TIMEOUT: Duration = Duration::from_secs(900);

/// Timeout of writing the results of a build from memory to disk: gigabytes on a slow disk.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum attempts to add a tree whose copy in the store was removed or is damaged.
const TRIES_MAX: usize = 3;

/// How far the timestamps of a file system may be behind: one tick of the slowest kernels.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Nix's own base-32 alphabet, without the letters e, o, u and t.
const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

impl Nix {
    /// The paths that are not valid in the store. A path that exists on disk may be invalid: a failed build leaves its
    /// output behind.
    ///
    /// # Errors
    /// If the store cannot be queried.
    pub async fn invalid(&self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<BTreeSet<PathBuf>> {
        let mut call = self.store().args(["--check-validity", "--print-invalid"]);
        for path in paths {
            self.require_store_path(path.as_ref())?;
            call = call.arg(path.as_ref());
        }
        let printed = self.run("querying which paths are valid", &call).await?.stdout_text();
        Ok(paths_in(&printed).collect())
    }

    /// Writes the data of the store and of Nix's caches from memory to disk. Nix does this only for its databases, so
    /// after a power failure a valid path could have empty files.
    ///
    /// # Errors
    /// If the disk fails or takes too long.
    pub async fn sync(&self) -> Result<()> {
        let failed = |source| Error::File { act: "write to disk", path: self.store_dir().to_owned(), source };
        let dirs = [self.store_dir(), self.home()].map(Path::to_owned);
        let synced = tokio::task::spawn_blocking(move || {
            dirs.iter().try_for_each(|dir| Ok(nix::unistd::syncfs(std::fs::File::open(dir)?)?))
        });
        let synced =
            tokio::time::timeout(SYNC_TIMEOUT, synced).await.map_err(|_| failed(ErrorKind::TimedOut.into()))?;
        synced.map_err(|panic| failed(panic.into()))?.map_err(failed)
    }

    /// Copies a file or tree into the store, under its own name, and returns its store path. A program stays
    /// executable.
    ///
    /// # Errors
    /// If it cannot be read, or the store cannot be written.
    pub async fn add(&self, path: &Path) -> Result<PathBuf> {
        let what = format!("adding {} to the store", path.display());
        let path =
            std::path::absolute(path).map_err(|source| Error::File { act: "find", path: path.to_owned(), source })?;
        let call = self.store().timeout(HASH_TIMEOUT).arg("--add").arg(path);
        let printed = self.run(&what, &call).await?.stdout_text();
        self.one_path(&what, &printed)
    }

    /// Like [`Nix::add`], and protects it from the garbage collector by a root at `link`. Returns its path and the hash
    /// of its contents. If the path existed before, its contents are verified: after a power failure, the store's
    /// database may have a path whose files are empty.
    ///
    /// # Errors
    /// As for [`Nix::add`], or if the store has different contents under that path that cannot be removed.
    pub async fn add_rooted(&self, path: &Path, link: &Path) -> Result<(PathBuf, String)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let since = SystemTime::now();
            let added = self.add(path).await?;
            let (rooted, hash) =
                tokio::join!(self.root_paths(std::slice::from_ref(&added), link), self.nar_hash(&added));
            match rooted.and(hash) {
                // The garbage collector may have run between the two calls.
                Err(error) if tries < TRIES_MAX && error.problem() == Some(&Problem::Gone) => {}
                Err(error) => return Err(error),
                Ok(hash) if is_younger(&added, since) || self.verify_path(&added).await? => return Ok((added, hash)),
                Ok(_) if tries == TRIES_MAX => return Err(Error::Damaged { path: added }),
                Ok(_) => self.delete(&added, link).await?,
            }
        }
    }

    /// Removes a path from the store that only the root `link` protects.
    async fn delete(&self, path: &Path, link: &Path) -> Result<()> {
        std::fs::remove_file(link).map_err(|source| Error::File { act: "remove", path: link.to_owned(), source })?;
        tracing::warn!(path = %path.display(), "a source in the store is damaged, perhaps by a power failure; adding it again");
        let call = self.store().timeout(HASH_TIMEOUT).arg("--delete").arg(path);
        let deleted = self.run("removing a damaged path from the store", &call).await;
        deleted.map(drop).map_err(|_| Error::Damaged { path: path.to_owned() })
    }

    /// The closure: the path with everything that it needs.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn closure(&self, path: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("closure", "--requisites", &[path]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The total size of the closure, in bytes.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn closure_size(&self, path: &Path) -> Result<u64> {
        let closure = self.closure(path).await?;
        let printed = self.query("size", "--size", &closure.iter().map(PathBuf::as_path).collect::<Vec<_>>()).await?;
        let sizes = printed.lines().map(|line| line.trim().parse::<u64>());
        let sum = sizes.sum::<std::result::Result<u64, _>>();
        sum.map_err(|_| Error::unreadable("the size of a closure", &printed))
    }

    /// The direct references of the path.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn references(&self, path: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("references", "--references", &[path]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The derivation from which the path was built; `None` if it was added, or if the store does not know.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn deriver(&self, path: &Path) -> Result<Option<PathBuf>> {
        let printed = self.query("deriver", "--deriver", &[path]).await?;
        Ok(paths_in(&printed).next().filter(|deriver| deriver.starts_with(self.store_dir())))
    }

    /// The output paths of a derivation.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn outputs(&self, drv: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("outputs", "--outputs", &[drv]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The hash of the path's contents, in the form of flake references: `sha256-BASE64`.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn nar_hash(&self, path: &Path) -> Result<String> {
        let printed = self.query("hash", "--hash", &[path]).await?;
        sri(printed.trim()).ok_or_else(|| Error::unreadable("the hash of a path", &printed))
    }

    /// True if the path's contents are unchanged since it was added.
    ///
    /// # Errors
    /// If it is not in the store.
    pub async fn verify_path(&self, path: &Path) -> Result<bool> {
        self.require_store_path(path)?;
        let what = format!("verifying {}", path.display());
        let call = self.store().timeout(HASH_TIMEOUT).arg("--verify-path").arg(path);
        let output = call.run().await.map_err(|source| Error::Run { what: what.clone(), source })?;
        let stderr = output.stderr_text();
        match (output.success(), stderr.contains("was modified!")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(Error::from_nix(what, &stderr)),
        }
    }

    /// The end of the log of the derivation's last build, at most `bytes`; `None` if there is no log. Failed builds
    /// have a log, too.
    ///
    /// # Errors
    /// If the store cannot be queried.
    pub async fn log(&self, drv: &Path, bytes: usize) -> Result<Option<Vec<u8>>> {
        self.require_store_path(drv)?;
        let what = format!("reading the log of {}", drv.display());
        // The limit also holds for stderr, which must be long enough to explain a failure.
        let call = self.store().arg("--read-log").arg(drv).output_bytes_max(bytes.max(ERROR_BYTES_MIN)).keep_tail();
        let output = call.run().await.map_err(|source| Error::Run { what: what.clone(), source })?;
        let stderr = output.stderr_text();
        if !output.success() {
            return if stderr.contains("is not available") { Ok(None) } else { Err(Error::from_nix(what, &stderr)) };
        }
        let mut log = output.stdout;
        log.drain(..log.len().saturating_sub(bytes));
        Ok(Some(log))
    }

    async fn query(&self, what: &str, question: &str, paths: &[&Path]) -> Result<String> {
        paths.iter().try_for_each(|path| self.require_store_path(path))?;
        let first = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let call = self.store().args(["--query", question]).args(paths);
        Ok(self.run(&format!("querying the {what} of {first}"), &call).await?.stdout_text())
    }

    /// The store path in `printed`.
    fn one_path(&self, what: &str, printed: &str) -> Result<PathBuf> {
        let path = PathBuf::from(printed.trim_end_matches('\n'));
        self.require_store_path(&path).map_err(|_| Error::unreadable(what, printed))?;
        Ok(path)
    }
}

/// Minimum of a call's output that is kept to explain a failure, in bytes.
const ERROR_BYTES_MIN: usize = 4 << 10;

/// True if a store path was created after `since`. Nix sets its modification time to a constant, so the inode's change
/// time is used.
fn is_younger(path: &Path, since: SystemTime) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = path.symlink_metadata() else { return false };
    let (seconds, nanos) = (u64::try_from(found.ctime()).unwrap_or(0), u32::try_from(found.ctime_nsec()).unwrap_or(0));
    let made = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    // A time in the future is from before the clock was set back.
    (since - CLOCK_TICK..=SystemTime::now()).contains(&made)
}

fn paths_in(printed: &str) -> impl Iterator<Item = PathBuf> {
    printed.lines().filter(|line| line.starts_with('/')).map(PathBuf::from)
}

/// Converts `sha256:BASE32` to `sha256-BASE64`. In Nix's base 32 the last digit comes first.
fn sri(hash: &str) -> Option<String> {
    let digits = hash.strip_prefix("sha256:").filter(|digits| digits.len() == 52)?;
    let mut bytes = [0_u8; 32];
    for (n, digit) in digits.bytes().rev().enumerate() {
        let value = u16::try_from(BASE32.iter().position(|&known| known == digit)?).ok()?;
        let (at, shift) = (n * 5 / 8, n * 5 % 8);
        let [low, high] = (value << shift).to_le_bytes();
        *bytes.get_mut(at)? |= low;
        match bytes.get_mut(at + 1) {
            Some(next) => *next |= high,
            None if high == 0 => {}
            None => return None,
        }
    }
    Some(format!("sha256-{}", base64(&bytes)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = chunk.iter().fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = DIGITS[(three >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_converted() {
        // The expected values are from `nix hash to-sri --type sha256`.
        for (nix, expected) in [
            (
                "sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h",
                "sha256-EFUdrtf6Rn0LWIJufrmg8q99aT3jGfLvd1//zaJEufY=",
            ),
            (
                "sha256:0000000000000000000000000000000000000000000000000000",
                "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            ),
        ] {
            assert_eq!(sri(nix).as_deref(), Some(expected));
        }
        for garbage in [
            "",
            "sha256:",
            "md5:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h",
            &format!("sha256:{}", "e".repeat(52)),
            &format!("sha256:{}", "z".repeat(52)),
        ] {
            assert_eq!(sri(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn lines_that_are_no_paths_are_skipped() {
        let found: Vec<_> = paths_in("/nix/store/a\nunknown-deriver\n\n/nix/store/b\n").collect();
        assert_eq!(found, [Path::new("/nix/store/a"), Path::new("/nix/store/b")]);
    }
}
