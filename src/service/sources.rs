//! The list of commits whose files are in the store.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::nix::FlakeRef;
use crate::source::{Described, Gap, ObjectId};

/// The prefix of the names of the roots that protect sources.
pub(super) const ROOT_PREFIX: &str = "tree_";
/// The bound of sources that stay in the store for later use: Active's, Previous', and those of some candidates.
pub(super) const SOURCES_MAX: usize = 8;

/// The bound of commits whose description is cached: enough for several evolutions, and a few kilobytes.
const DESCRIBED_MAX: usize = 32;

/// The sources that are in the store, by their git trees. The list is only in this process's memory, because rei could
/// not trust a list on disk. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(pub(super) Arc<Mutex<Known>>);

/// The sources and descriptions that this process knows.
#[derive(Default)]
pub(super) struct Known {
    pub(super) by_tree: BTreeMap<ObjectId, Entry>,
    /// The facts about commits that flakes get. They never change.
    pub(super) described: BTreeMap<ObjectId, Described>,
    /// Counts uses, to find the source that is unused for the longest time.
    clock: u64,
}

pub(super) struct Entry {
    source: Arc<Source>,
    used: u64,
}

/// A tree in the store.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) nar_hash: String,
    pub(super) root: PathBuf,
    /// The content that the commit only names.
    pub(super) gaps: Vec<Gap>,
}

/// A flake whose source stays in the store as long as this value lives.
pub struct Held {
    pub(super) flake: FlakeRef,
    pub(super) source: Arc<Source>,
}

impl Held {
    /// The content that the commit only names, so that a build does not have it.
    pub fn gaps(&self) -> &[Gap] {
        &self.source.gaps
    }
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
    /// Whether the source is in the store, and its garbage collector root exists.
    fn is_there(&self) -> bool {
        self.path.is_dir() && std::fs::read_link(&self.root).is_ok_and(|target| target == self.path)
    }
}

impl Known {
    /// The source of a tree, if it is still in the store.
    pub(super) fn find(&mut self, tree: &ObjectId) -> Option<Arc<Source>> {
        self.clock += 1;
        let entry = self.by_tree.get_mut(tree)?;
        entry.used = self.clock;
        Some(entry.source.clone()).filter(|source| source.is_there())
    }

    pub(super) fn describe(&mut self, commit: &ObjectId, described: &Described) {
        if self.described.len() >= DESCRIBED_MAX {
            self.described.clear();
        }
        self.described.insert(commit.clone(), described.clone());
    }

    pub(super) fn insert(&mut self, tree: ObjectId, source: Arc<Source>) {
        self.by_tree.insert(tree, Entry { source, used: self.clock });
    }

    /// Removes sources that no task holds, the longest unused first, until at most `max` are left.
    pub(super) fn shrink_to(&mut self, max: usize) {
        while self.by_tree.len() > max {
            let idle = self.by_tree.iter().filter(|(_, entry)| entry.is_idle());
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(tree, _)| tree.clone()) else { return };
            self.drop_idle(|tree| *tree == oldest);
        }
    }

    /// Removes the sources that `which` selects and that no task holds.
    pub(super) fn drop_idle(&mut self, which: impl Fn(&ObjectId) -> bool) {
        for (_, entry) in self.by_tree.extract_if(.., |tree, entry| which(tree) && entry.is_idle()) {
            if let Err(error) = std::fs::remove_file(&entry.source.root) {
                tracing::warn!(%error, root = %entry.source.root.display(), "cannot remove the garbage collector root of a source");
            }
        }
    }
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
        let source = Arc::new(Source { path, nar_hash: String::new(), root, gaps: Vec::new() });
        known.insert(tree.clone(), source.clone());
        (tree, source)
    }

    #[test]
    fn a_tree_is_found_again_until_the_store_or_its_root_is_gone() {
        let (dir, mut known) = (tempfile::tempdir().unwrap(), Known::default());
        let (tree, source) = add(&mut known, dir.path(), 1);
        assert!(
            known.find(&tree).is_some_and(|found| Arc::ptr_eq(&found, &source)),
            "the source is found, so it is not written again"
        );
        std::fs::remove_file(&source.root).unwrap();
        assert!(known.find(&tree).is_none(), "without its root, the garbage collector may delete it");
        std::os::unix::fs::symlink(&source.path, &source.root).unwrap();
        std::fs::remove_dir(&source.path).unwrap();
        assert!(known.find(&tree).is_none());
    }

    #[test]
    fn the_longest_unused_sources_are_removed_and_a_source_in_use_stays() {
        let (dir, mut known) = (tempfile::tempdir().unwrap(), Known::default());
        let (first, held) = add(&mut known, dir.path(), 1);
        let others: Vec<_> = (2..=4).map(|number| add(&mut known, dir.path(), number).0).collect();
        assert!(known.find(&others[0]).is_some() && known.find(&others[2]).is_some());
        known.shrink_to(2);
        let left: Vec<_> = known.by_tree.keys().cloned().collect();
        assert_eq!(left, [first.clone(), others[2].clone()], "the first is in use, and the last was used last");
        known.drop_idle(|_| true);
        assert!(known.by_tree.keys().eq([&first]) && held.is_there());
        let roots = std::fs::read_dir(dir.path()).unwrap().flatten();
        let roots = roots.filter(|entry| entry.file_name().to_string_lossy().starts_with(ROOT_PREFIX));
        assert_eq!(roots.count(), 1);
    }
}
