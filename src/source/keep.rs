//! What the mirror keeps: the commits that something still needs, and no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::sync::RwLockReadGuard;

use super::error::Error;
use super::git::answer;
use super::mirror::{CANDIDATES, Mirror, VERSIONS, expect_success};
use super::parse::{ObjectId, parse_remote_refs};
use super::turns::InUse;
use super::workspace::remove_dir;
use crate::interface::types::CandidateId;

/// The bound of a step of packing: a large history takes minutes, and nothing waits for it.
const PACK_TIMEOUT: Duration = Duration::from_secs(900);
/// Packs, and loose objects in one of their 256 directories, from which on the mirror is packed: a fetch leaves a pack or
/// up to a hundred objects, so this is every twenty evolutions or so. git itself would do so at 50 and 27.
const PACKS_MAX: usize = 20;
const LOOSE_MAX: usize = 8;

impl Mirror {
    /// Keeps these commits, and the candidates' that `needed` takes; forgets all other candidates and versions. What nothing
    /// keeps goes with a later [`Mirror::tidy`].
    ///
    /// # Errors
    /// When the mirror cannot be written. Whatever was forgotten by then, the versions are kept.
    pub async fn keep_only(
        &self,
        versions: &BTreeSet<ObjectId>,
        needed: impl Fn(&CandidateId) -> bool,
    ) -> Result<(), Error> {
        let (candidates, kept) = (self.refs(CANDIDATES).await?, self.refs(VERSIONS).await?);
        for version in versions {
            // A mirror that was made anew may not have it, and can do without.
            if !kept.contains(version.as_str()) && self.has_commit(version).await? {
                self.set_ref(&format!("{VERSIONS}{version}"), version).await?;
            }
        }
        for old in kept.iter().filter(|old| !versions.iter().any(|version| version.as_str() == **old)) {
            self.drop_ref(&format!("{VERSIONS}{old}")).await?;
        }
        for id in candidates.into_iter().map(CandidateId).filter(|id| !needed(id)) {
            self.drop_candidate(&id).await?;
        }
        Ok(())
    }

    /// What follows `prefix` in the names of the refs that begin with it.
    async fn refs(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let doing = "list what the mirror keeps";
        let stdout = self.git().run(doing, ["for-each-ref", "--format=%(objectname)%09%(refname)", prefix]).await?;
        let refs = parse_remote_refs(&stdout).ok_or_else(|| answer(doing, &stdout))?;
        Ok(refs.iter().filter_map(|kept| kept.name.strip_prefix(prefix).map(str::to_owned)).collect())
    }

    /// Removes what crashes and cancelled work have left beside the mirror.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn sweep(&self) -> Result<(), Error> {
        let parent = self.scratch("");
        let Ok(entries) = std::fs::read_dir(&parent) else { return Ok(()) };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if !self.turns.uses_scratch(&name) {
                remove_dir(&parent.join(&name)).await?;
            }
        }
        Ok(())
    }

    /// Whether packing would be worth its while, by the number of files. Blocks on the disk for some milliseconds.
    pub fn is_untidy(&self) -> bool {
        let count = |dir: &Path, extension: Option<&str>| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let wanted = |name: &Path| extension.is_none() || name.extension().and_then(|it| it.to_str()) == extension;
            entries.filter(|entry| wanted(Path::new(&entry.file_name()))).count()
        };
        let objects = self.git_dir().join("objects");
        count(&objects.join("pack"), Some("pack")) >= PACKS_MAX || count(&objects.join("17"), None) >= LOOSE_MAX
    }

    /// Packs the mirror and drops objects that nothing kept has needed for two weeks. Gives way to a task that needs objects:
    /// then `false` is given, and it is to be tried again.
    ///
    /// # Errors
    /// When git fails or takes longer than half an hour.
    pub async fn tidy(&self) -> Result<bool, Error> {
        let mut wanted = std::pin::pin!(self.turns.wanted.notified());
        // From here on no call is missed.
        wanted.as_mut().enable();
        let Ok(_alone) = self.turns.lock.try_write() else { return Ok(false) };
        // The only step that takes a lock of git's, and a short one: never left in the middle. So not `git gc`.
        self.update_ref("pack the refs", &["pack-refs", "--all", "--prune"]).await?;
        tokio::select! {
            packed = self.pack() => packed.map(|()| true),
            () = wanted => Ok(false),
        }
    }

    async fn pack(&self) -> Result<(), Error> {
        let doing = "tidy the mirror";
        // One thread: the service has the other processors.
        let repack =
            ["-c", "pack.threads=1", "repack", "-A", "-d", "-l", "--quiet", "--unpack-unreachable=2.weeks.ago"];
        for args in [&repack[..], &["prune", "--expire=2.weeks.ago"]] {
            expect_success(doing, &self.git().try_run(doing, PACK_TIMEOUT, args).await?)?;
        }
        Ok(())
    }

    /// Waits until nobody packs the objects, and keeps them from being packed until the guard is dropped.
    pub(super) async fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        self.turns.wanted.notify_waiters();
        self.turns.lock.read().await
    }

    /// Keeps a directory beside the mirror from being swept away.
    pub(super) fn use_scratch(&self, name: &str) -> InUse {
        self.turns.use_scratch(name)
    }
}
