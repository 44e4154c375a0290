//! The files of commits in the store: what is built is byte for byte what is compared.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::tools::Tools;
use super::work::Failed;
use crate::nix::FlakeRef;
use crate::source::{Described, ObjectId};

/// What the names of the roots of sources begin with.
const ROOT_PREFIX: &str = "tree_";
/// Sources that are kept for a next time: Active's, Previous', and those of some candidates.
const KEPT_MAX: usize = 8;

/// Commits whose description is remembered: some evolutions' worth, and a few kilobytes.
const DESCRIBED_MAX: usize = 32;
/// Active and Previous.
const SERVING: usize = 2;

/// The sources that are in the store, by their trees. It is known from this process alone: a list on disk would have to be
/// believed. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    by_tree: BTreeMap<ObjectId, Entry>,
    /// What flakes are told of commits, which never changes.
    described: BTreeMap<ObjectId, Described>,
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

    fn describe(&mut self, commit: &ObjectId, described: &Described) {
        if self.described.len() >= DESCRIBED_MAX {
            self.described.clear();
        }
        self.described.insert(commit.clone(), described.clone());
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
    pub async fn flake(&self, tools: &Tools, commit: &ObjectId) -> Result<Held, Failed> {
        // Whoever wants the same tree meanwhile waits for it instead of writing it too.
        let mut known = self.0.lock().await;
        let described = match known.described.get(commit) {
            Some(described) => described.clone(),
            None => {
                let described = tools.mirror.describe(commit).await?;
                known.describe(commit, &described);
                described
            }
        };
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
            .and_then(|flake| flake.of_commit(commit.as_str(), described.count, described.committed_at))?;
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
async fn write(tools: &Tools, commit: &ObjectId, described: &Described) -> Result<Source, Failed> {
    let root = tools.roots.path(&format!("{ROOT_PREFIX}{}", described.tree))?;
    let nix = tools.nix().await?;
    let exported = tools.mirror.export(commit).await?;
    for submodule in exported.submodules() {
        tracing::warn!(%commit, path = %submodule.display(), "a submodule is an empty directory in a build");
    }
    let added = nix.add_rooted(&exported.dir(), &root).await;
    if let Err(error) = exported.remove().await {
        tracing::warn!(error = crate::report::chain(&error), "cannot remove what a build no longer needs");
    }
    let (path, nar_hash) = added?;
    Ok(Source { path, nar_hash, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as if it were in the store.
    fn add(known: &mut Known, dir: &std::path::Path, number: u32) -> (ObjectId, Arc<Source>) {
        let tree = ObjectId::parse(&format!("{number:040x}")).unwrap();
        let (path, root) = (dir.join(format!("{number}-source")), dir.join(format!("{ROOT_PREFIX}{tree}")));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink(&path, &root).unwrap();
        let source = Arc::new(Source { path, nar_hash: String::new(), root });
        known.insert(tree.clone(), source.clone());
        (tree, source)
    }

    #[test]
    fn a_tree_is_found_again_until_the_store_or_its_root_is_gone() {
        let (dir, mut known) = (tempfile::tempdir().unwrap(), Known::default());
        let (tree, source) = add(&mut known, dir.path(), 1);
        assert!(known.find(&tree).is_some_and(|found| Arc::ptr_eq(&found, &source)), "it would be written again");
        std::fs::remove_file(&source.root).unwrap();
        assert!(known.find(&tree).is_none(), "the garbage collector may take it");
        std::os::unix::fs::symlink(&source.path, &source.root).unwrap();
        std::fs::remove_dir(&source.path).unwrap();
        assert!(known.find(&tree).is_none());
    }

    #[test]
    fn the_longest_unused_go_and_who_evaluates_keeps_its_source() {
        let (dir, mut known) = (tempfile::tempdir().unwrap(), Known::default());
        let (first, held) = add(&mut known, dir.path(), 1);
        let others: Vec<_> = (2..=4).map(|number| add(&mut known, dir.path(), number).0).collect();
        assert!(known.find(&others[0]).is_some() && known.find(&others[2]).is_some());
        known.shrink_to(2);
        let left: Vec<_> = known.by_tree.keys().cloned().collect();
        assert_eq!(left, [first.clone(), others[2].clone()], "the first is held, and the last was used last");
        known.drop_idle(|_| true);
        assert!(known.by_tree.keys().eq([&first]) && held.is_there());
        let roots = std::fs::read_dir(dir.path()).unwrap().flatten();
        let roots = roots.filter(|entry| entry.file_name().to_string_lossy().starts_with(ROOT_PREFIX));
        assert_eq!(roots.count(), 1);
    }
}
