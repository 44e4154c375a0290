//! The files of commits in the store: what is built is byte for byte what is compared.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::tools::Tools;
use super::work::reason;
use crate::nix::FlakeRef;
use crate::source::{Described, ObjectId};

/// What the names of the roots of sources begin with.
const ROOT_PREFIX: &str = "tree_";
/// Sources that are kept for a next time: Active's, Previous', and those of some candidates.
const KEPT_MAX: usize = 8;

/// Active and Previous.
const SERVING: usize = 2;

/// The sources that are in the store, by their trees. It is known from this process alone: a list on disk would have to be
/// believed. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    by_tree: BTreeMap<ObjectId, Entry>,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    source: Arc<Source>,
    used: u64,
}

/// A tree in the store.
struct Source {
    path: PathBuf,
    nar_hash: String,
    root: PathBuf,
}

/// A flake whose source stays in the store as long as this does.
pub struct Held {
    flake: FlakeRef,
    _source: Arc<Source>,
}

impl Deref for Held {
    type Target = FlakeRef;

    fn deref(&self) -> &FlakeRef {
        &self.flake
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.source) == 1
    }
}

impl Source {
    /// Whether the store has it and the garbage collector knows that it must.
    fn is_there(&self) -> bool {
        self.path.is_dir() && std::fs::read_link(&self.root).is_ok_and(|kept| kept == self.path)
    }
}

impl Known {
    /// The tree's source, where it is still there.
    fn find(&mut self, tree: &ObjectId) -> Option<Arc<Source>> {
        self.clock += 1;
        let entry = self.by_tree.get_mut(tree)?;
        entry.used = self.clock;
        Some(entry.source.clone()).filter(|source| source.is_there())
    }

    fn insert(&mut self, tree: ObjectId, source: Arc<Source>) {
        self.by_tree.insert(tree, Entry { source, used: self.clock });
    }

    /// Forgets sources that nobody holds, the longest unused first, until `max` are left.
    fn shrink_to(&mut self, max: usize) {
        while self.by_tree.len() > max {
            let idle = self.by_tree.iter().filter(|(_, entry)| entry.is_idle());
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(tree, _)| tree.clone()) else { return };
            self.drop_idle(|tree| *tree == oldest);
        }
    }

    /// Forgets those sources that nobody holds.
    fn drop_idle(&mut self, which: impl Fn(&ObjectId) -> bool) {
        for (_, entry) in self.by_tree.extract_if(.., |tree, entry| which(tree) && entry.is_idle()) {
            if let Err(error) = std::fs::remove_file(&entry.source.root) {
                tracing::warn!(%error, root = %entry.source.root.display(), "cannot let go of a source");
            }
        }
    }
}

impl Sources {
    /// The flake of a commit: its files are written to the store unless they are there.
    ///
    /// # Errors
    /// Why not, for a person.
    pub async fn flake(&self, tools: &Tools, commit: &ObjectId) -> Result<Held, String> {
        let described = tools.mirror.describe(commit).await.map_err(|error| reason(&error, error.hint()))?;
        // Whoever wants the same tree meanwhile waits for it instead of writing it too.
        let mut known = self.0.lock().await;
        let source = match known.find(&described.tree) {
            Some(source) => source,
            None => {
                let source = Arc::new(write(tools, commit, &described).await?);
                known.insert(described.tree.clone(), source.clone());
                known.shrink_to(KEPT_MAX);
                source
            }
        };
        drop(known);
        let flake = FlakeRef::tree(&source.path, &source.nar_hash)
            .and_then(|flake| flake.of_commit(commit.as_str(), described.count, described.committed_at))
            .map_err(|error| reason(&error, error.hint()))?;
        Ok(Held { flake: flake.in_dir(&tools.config.runtime.dir), _source: source })
    }
}

impl Sources {
    /// Lets go of sources that only ended evolutions needed, and of the roots that an earlier process has left.
    pub async fn sweep(&self, tools: &Tools) {
        let mut known = self.0.lock().await;
        if tools.needed.evolving_since().is_none() {
            let serving: Vec<String> = tools.needed.versions().into_iter().take(SERVING).map(|it| it.tree).collect();
            known.drop_idle(|tree| !serving.iter().any(|kept| *kept == tree.as_str()));
        }
        let Ok(roots) = tools.roots.list() else { return };
        for name in roots.into_keys() {
            let tree = name.strip_prefix(ROOT_PREFIX).map(ObjectId::parse);
            if tree.is_some_and(|tree| tree.is_none_or(|tree| !known.by_tree.contains_key(&tree)))
                && let Err(error) = tools.roots.remove(&name)
            {
                tracing::warn!(error = crate::report::chain(&error), name, "cannot remove a root");
            }
        }
    }
}

/// Writes the files of a commit and adds them to the store.
async fn write(tools: &Tools, commit: &ObjectId, described: &Described) -> Result<Source, String> {
    let source = |error: crate::source::Error| reason(&error, error.hint());
    let store = |error: crate::nix::Error| reason(&error, error.hint());
    let root = tools.roots.path(&format!("{ROOT_PREFIX}{}", described.tree)).map_err(store)?;
    let nix = tools.nix().await.map_err(store)?;
    let exported = tools.mirror.export(commit).await.map_err(source)?;
    for submodule in exported.submodules() {
        tracing::warn!(%commit, path = %submodule.display(), "a submodule is an empty directory in a build");
    }
    let added = nix.add_rooted(&exported.dir(), &root).await;
    if let Err(error) = exported.remove().await {
        tracing::warn!(error = source(error), "cannot remove what a build no longer needs");
    }
    let (path, nar_hash) = added.map_err(store)?;
    Ok(Source { path, nar_hash, root })
}
