//! What is in the store: `nix-store --check-validity`, `--query`, `--add`, `--verify-path`, `--read-log`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::{Error, Problem, Result};
use super::locate::Nix;

/// The bound of adding a tree or hashing a path: gigabytes on a slow disk.
const HASH_TIMEOUT: Duration = Duration::from_secs(900);

/// The bound of writing to disk what a build has left in memory: gigabytes on a slow one.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a tree is added because what the store had of it was taken away or is damaged.
const TRIES_MAX: usize = 3;

/// By so much a file system's clock is behind: a tick of the slowest kernels.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Nix's own alphabet for hashes: no letters that make words.
const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

impl Nix {
    /// Those of `paths` that the store does not have. A path that exists on disk may still be invalid: a failed build
    /// leaves its output behind.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn invalid(&self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<BTreeSet<PathBuf>> {
        let mut call = self.store().args(["--check-validity", "--print-invalid"]);
        for path in paths {
            self.require_store_path(path.as_ref())?;
            call = call.arg(path.as_ref());
        }
        let printed = self.run("asking which paths are valid", &call).await?.stdout_text();
        Ok(paths_in(&printed).collect())
    }

    /// Writes to disk what the store and Nix's caches have in memory. Nix does so for its databases alone: when the power
    /// fails, a path can be valid and its files empty.
    ///
    /// # Errors
    /// When the disk refuses it or takes too long.
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

    /// Copies a file or tree into the store, under its own name, and gives its path there. A program stays executable.
    ///
    /// # Errors
    /// When it cannot be read or the store not be written.
    pub async fn add(&self, path: &Path) -> Result<PathBuf> {
        let what = format!("adding {} to the store", path.display());
        let path =
            std::path::absolute(path).map_err(|source| Error::File { act: "find", path: path.to_owned(), source })?;
        let call = self.store().timeout(HASH_TIMEOUT).arg("--add").arg(path);
        let printed = self.run(&what, &call).await?.stdout_text();
        self.one_path(&what, &printed)
    }

    /// As [`Nix::add`], and keeps it from the garbage collector by a link at `link`. Gives its path and the hash of its
    /// contents. What was there before is not taken on trust: when the power fails, the store's database can have a path
    /// whose files are empty.
    ///
    /// # Errors
    /// As [`Nix::add`], or when the store has something else under that path and keeps it.
    pub async fn add_rooted(&self, path: &Path, link: &Path) -> Result<(PathBuf, String)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let since = SystemTime::now();
            let added = self.add(path).await?;
            let (rooted, hash) =
                tokio::join!(self.root_paths(std::slice::from_ref(&added), link), self.nar_hash(&added));
            match rooted.and(hash) {
                // Between the two there is a moment for the garbage collector.
                Err(error) if tries < TRIES_MAX && error.problem() == Some(&Problem::Gone) => {}
                Err(error) => return Err(error),
                Ok(hash) if is_younger(&added, since) || self.verify_path(&added).await? => return Ok((added, hash)),
                Ok(_) if tries == TRIES_MAX => return Err(Error::Damaged { path: added }),
                Ok(_) => self.delete(&added, link).await?,
            }
        }
    }

    /// Removes a path that only `link` keeps from the store.
    async fn delete(&self, path: &Path, link: &Path) -> Result<()> {
        std::fs::remove_file(link).map_err(|source| Error::File { act: "remove", path: link.to_owned(), source })?;
        tracing::warn!(path = %path.display(), "a source in the store is damaged, perhaps by a loss of power; it is made anew");
        let call = self.store().timeout(HASH_TIMEOUT).arg("--delete").arg(path);
        let deleted = self.run("removing a damaged path from the store", &call).await;
        deleted.map(drop).map_err(|_| Error::Damaged { path: path.to_owned() })
    }

    /// The path with everything that it needs, itself included.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn closure(&self, path: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("closure", "--requisites", &[path]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The size of the path with everything that it needs, in bytes.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn closure_size(&self, path: &Path) -> Result<u64> {
        let closure = self.closure(path).await?;
        let printed = self.query("size", "--size", &closure.iter().map(PathBuf::as_path).collect::<Vec<_>>()).await?;
        let sizes = printed.lines().map(|line| line.trim().parse::<u64>());
        let sum = sizes.sum::<std::result::Result<u64, _>>();
        sum.map_err(|_| Error::unreadable("the size of a closure", &printed))
    }

    /// What the path names directly.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn references(&self, path: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("references", "--references", &[path]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The derivation that the path was built from; `None` when it was added or the store does not know.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn deriver(&self, path: &Path) -> Result<Option<PathBuf>> {
        let printed = self.query("deriver", "--deriver", &[path]).await?;
        Ok(paths_in(&printed).next().filter(|deriver| deriver.starts_with(self.store_dir())))
    }

    /// The outputs of a derivation.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn outputs(&self, drv: &Path) -> Result<BTreeSet<PathBuf>> {
        let printed = self.query("outputs", "--outputs", &[drv]).await?;
        Ok(paths_in(&printed).collect())
    }

    /// The hash of the path's contents, as flake references write it: `sha256-BASE64`.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn nar_hash(&self, path: &Path) -> Result<String> {
        let printed = self.query("hash", "--hash", &[path]).await?;
        sri(printed.trim()).ok_or_else(|| Error::unreadable("the hash of a path", &printed))
    }

    /// Whether the path's contents are what was once put there.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn verify_path(&self, path: &Path) -> Result<bool> {
        self.require_store_path(path)?;
        let what = format!("verifying {}", path.display());
        let call = self.store().timeout(HASH_TIMEOUT).arg("--verify-path").arg(path);
        let output = call.run().await.map_err(|source| Error::Run { what: what.clone(), source })?;
        let said = output.stderr_text();
        match (output.success(), said.contains("was modified!")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(Error::from_nix(what, &said)),
        }
    }

    /// The end of the log of the derivation's last build, at most `bytes`; `None` when there is no log. The log of a
    /// failed build is there too.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn log(&self, drv: &Path, bytes: usize) -> Result<Option<Vec<u8>>> {
        self.require_store_path(drv)?;
        let what = format!("reading the log of {}", drv.display());
        let call = self.store().arg("--read-log").arg(drv).output_bytes_max(bytes.max(LOG_MESSAGE_BYTES)).keep_tail();
        let output = call.run().await.map_err(|source| Error::Run { what: what.clone(), source })?;
        let said = output.stderr_text();
        if !output.success() {
            return if said.contains("is not available") { Ok(None) } else { Err(Error::from_nix(what, &said)) };
        }
        let mut log = output.stdout;
        log.drain(..log.len().saturating_sub(bytes));
        Ok(Some(log))
    }

    async fn query(&self, what: &str, question: &str, paths: &[&Path]) -> Result<String> {
        paths.iter().try_for_each(|path| self.require_store_path(path))?;
        let first = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let call = self.store().args(["--query", question]).args(paths);
        Ok(self.run(&format!("asking for the {what} of {first}"), &call).await?.stdout_text())
    }

    /// The store path that `printed` is.
    fn one_path(&self, what: &str, printed: &str) -> Result<PathBuf> {
        let path = PathBuf::from(printed.trim_end_matches('\n'));
        self.require_store_path(&path).map_err(|_| Error::unreadable(what, printed))?;
        Ok(path)
    }
}

/// What must be kept of a call's output to understand why it failed, in bytes.
const LOG_MESSAGE_BYTES: usize = 4 << 10;

/// Whether a store path was made after `since`. Nix sets its time of change, so the inode's is asked.
fn is_younger(path: &Path, since: SystemTime) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = path.symlink_metadata() else { return false };
    let (seconds, nanos) = (u64::try_from(found.ctime()).unwrap_or(0), u32::try_from(found.ctime_nsec()).unwrap_or(0));
    let made = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    // A time that has not come yet is from before the clock was set back.
    (since - CLOCK_TICK..=SystemTime::now()).contains(&made)
}

fn paths_in(printed: &str) -> impl Iterator<Item = PathBuf> {
    printed.lines().filter(|line| line.starts_with('/')).map(PathBuf::from)
}

/// `sha256-BASE64` of `sha256:BASE32` in Nix's own base 32, whose digits go from the last to the first.
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
    fn hashes_are_rewritten() {
        // From `nix hash to-sri --type sha256`.
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
    fn only_paths_are_paths() {
        let found: Vec<_> = paths_in("/nix/store/a\nunknown-deriver\n\n/nix/store/b\n").collect();
        assert_eq!(found, [Path::new("/nix/store/a"), Path::new("/nix/store/b")]);
    }
}
