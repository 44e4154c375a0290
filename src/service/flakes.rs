//! Puts the files of commits in the store. So the files that Nix builds are byte for byte the files that rei compares.

use std::sync::Arc;

use super::failure::Failed;
use super::sources::{Held, ROOT_PREFIX, SOURCES_MAX, Source};
use super::tools::Tools;
use crate::nix::FlakeRef;
use crate::source::{Described, Gap, ObjectId};

/// Active and Previous.
const SERVING: usize = 2;

impl Tools {
    /// The flake of a commit that the mirror has: its files are written to the store unless they are there.
    ///
    /// # Errors
    /// The reason, for a person, if the files cannot be had.
    pub async fn flake(&self, commit: &ObjectId) -> Result<Held, Failed> {
        // A task that needs the same tree in the meantime waits for the lock, and does not write the tree again.
        let mut known = self.sources.0.lock().await;
        let described = match known.described.get(commit) {
            Some(described) => described.clone(),
            None => {
                let described = self.mirror.describe(commit).await?;
                known.describe(commit, &described);
                described
            }
        };
        let source = match known.find(&described.tree) {
            Some(source) => source,
            None => {
                let source = Arc::new(write(self, commit, &described).await?);
                known.insert(described.tree.clone(), source.clone());
                known.shrink_to(SOURCES_MAX);
                source
            }
        };
        drop(known);
        let flake = FlakeRef::tree(&source.path, &source.nar_hash)
            .and_then(|flake| flake.of_commit(commit.as_str(), described.count, described.committed_at))?;
        Ok(Held { flake: flake.in_dir(&self.config.runtime.dir), source })
    }

    /// Releases sources that only ended evolutions needed, and removes roots that an earlier process has left.
    pub async fn sweep_sources(&self) {
        let mut known = self.sources.0.lock().await;
        if self.in_use.evolving_since().is_none() {
            let serving: Vec<String> = self.in_use.versions().into_iter().take(SERVING).map(|it| it.tree).collect();
            known.drop_idle(|tree| !serving.iter().any(|served| *served == tree.as_str()));
        }
        let Ok(roots) = self.roots.list() else { return };
        for name in roots.into_keys() {
            let tree = name.strip_prefix(ROOT_PREFIX).map(ObjectId::parse);
            if tree.is_some_and(|tree| tree.is_none_or(|tree| !known.by_tree.contains_key(&tree)))
                && let Err(error) = self.roots.remove(&name)
            {
                tracing::warn!(error = crate::report::chain(&error), name, "cannot remove a garbage collector root");
            }
        }
    }
}

/// Writes the files of a commit and adds them to the store.
async fn write(tools: &Tools, commit: &ObjectId, described: &Described) -> Result<Source, Failed> {
    let root = tools.roots.path(&format!("{ROOT_PREFIX}{}", described.tree))?;
    let nix = tools.nix().await?;
    let exported = tools.mirror.export(commit).await?;
    let gaps = exported.gaps();
    for Gap { line, hint, .. } in &gaps {
        tracing::warn!(%commit, "{line}; hint: {hint}");
    }
    let added = nix.add_rooted(&exported.dir(), &root).await;
    if let Err(error) = exported.remove().await {
        tracing::warn!(
            error = crate::report::chain(&error),
            "cannot remove the exported files, which no build needs any more"
        );
    }
    let (path, nar_hash) = added?;
    Ok(Source { path, nar_hash, root, gaps })
}
