//! Removes commits that are not needed any more from the mirror, and packs the mirror.

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

/// Timeout of one step of packing: a large history takes minutes, and no other work waits for it.
const PACK_TIMEOUT: Duration = Duration::from_secs(900);
/// The mirror is packed from this number of packs on, or of loose objects in one of their 256 directories. A fetch adds
/// a pack or up to a hundred objects, so this happens about every twenty evolutions. git's own limits are 50 and 27.
const PACKS_MAX: usize = 20;
const LOOSE_MAX: usize = 8;

impl Mirror {
    /// Keeps these commits, and the commits of the candidates for which `needed` returns true. Removes the refs of all
    /// other candidates and versions. A later [`Mirror::tidy`] removes the objects.
    ///
    /// # Errors
    /// If the mirror cannot be written. The commits of `versions` are kept in any case.
    pub async fn keep_only(
        &self,
        versions: &BTreeSet<ObjectId>,
        needed: impl Fn(&CandidateId) -> bool,
    ) -> Result<(), Error> {
        let (candidates, kept) = (self.refs(CANDIDATES).await?, self.refs(VERSIONS).await?);
        for version in versions {
            // A mirror that was created again may lack the commit; this is no error.
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
        self.keep_pinned_submodules().await
    }

    /// The names of the refs that begin with `prefix`, without the prefix.
    async fn refs(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let doing = "list the refs of the mirror";
        let stdout = self.git().run(doing, ["for-each-ref", "--format=%(objectname)%09%(refname)", prefix]).await?;
        let refs = parse_remote_refs(&stdout).ok_or_else(|| answer(doing, &stdout))?;
        Ok(refs.iter().filter_map(|kept| kept.name.strip_prefix(prefix).map(str::to_owned)).collect())
    }

    /// Removes the directories that crashes and cancelled work left beside the mirror.
    ///
    /// # Errors
    /// If the disk fails.
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

    /// True if the mirror has so many files that it should be packed. Blocks on the disk for some milliseconds.
    pub fn is_untidy(&self) -> bool {
        let count = |dir: &Path, extension: Option<&str>| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let has_extension =
                |name: &Path| extension.is_none() || name.extension().and_then(|it| it.to_str()) == extension;
            entries.filter(|entry| has_extension(Path::new(&entry.file_name()))).count()
        };
        [self.git_dir(), self.submodules_dir()].map(|dir| dir.join("objects")).iter().any(|objects| {
            count(&objects.join("pack"), Some("pack")) >= PACKS_MAX || count(&objects.join("17"), None) >= LOOSE_MAX
        })
    }

    /// Packs the mirror and removes objects that no ref has needed for two weeks. If a job needs objects meanwhile,
    /// this stops and returns `false`: then the caller tries again later.
    ///
    /// # Errors
    /// If git fails or takes longer than half an hour.
    pub async fn tidy(&self) -> Result<bool, Error> {
        let mut requested = std::pin::pin!(self.turns.requested.notified());
        // From here on, no notification of a job that needs objects is missed.
        requested.as_mut().enable();
        let Ok(_alone) = self.turns.lock.try_write() else { return Ok(false) };
        // Only this step takes a lock of git. It is short and never interrupted. `git gc` would not allow that.
        self.update_ref("pack the refs", &["pack-refs", "--all", "--prune"]).await?;
        tokio::select! {
            packed = self.pack() => packed.map(|()| true),
            () = requested => Ok(false),
        }
    }

    async fn pack(&self) -> Result<(), Error> {
        let doing = "tidy the mirror";
        // One thread, so that the instances have the other processors.
        let repack =
            ["-c", "pack.threads=1", "repack", "-A", "-d", "-l", "--quiet", "--unpack-unreachable=2.weeks.ago"];
        let submodules = Some(self.submodules_git()).filter(|_| self.submodules_dir().join("HEAD").exists());
        for git in [self.git()].into_iter().chain(submodules) {
            for args in [&repack[..], &["prune", "--expire=2.weeks.ago"]] {
                expect_success(doing, &git.try_run(doing, PACK_TIMEOUT, args).await?)?;
            }
        }
        Ok(())
    }

    /// Waits until no job packs the objects, and prevents packing until the guard is dropped.
    pub(super) async fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        self.turns.requested.notify_waiters();
        self.turns.lock.read().await
    }

    /// Protects a directory beside the mirror from [`Mirror::sweep`].
    pub(super) fn use_scratch(&self, name: &str) -> InUse {
        self.turns.use_scratch(name)
    }
}
