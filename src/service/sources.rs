//! Which files of commits are in the store.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::nix::FlakeRef;
use crate::source::{Described, ObjectId};

/// What the names of the roots of sources begin with.
pub(super) const ROOT_PREFIX: &str = "tree_";
/// Sources that are kept for a next time: Active's, Previous', and those of some candidates.
pub(super) const KEPT_MAX: usize = 8;

/// Commits whose description is remembered: some evolutions' worth, and a few kilobytes.
const DESCRIBED_MAX: usize = 32;

/// The sources that are in the store, by their trees. It is known from this process alone: a list on disk would have to be
/// believed. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(pub(super) Arc<Mutex<Known>>);

/// What is known of them.
#[derive(Default)]
pub(super) struct Known {
    pub(super) by_tree: BTreeMap<ObjectId, Entry>,
    /// What flakes are told of commits, which never changes.
    pub(super) described: BTreeMap<ObjectId, Described>,
    /// Counts uses.
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
}

/// A flake whose source stays in the store as long as this does.
pub struct Held {
    pub(super) flake: FlakeRef,
    pub(super) _source: Arc<Source>,
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

    /// Forgets sources that nobody holds, the longest unused first, until `max` are left.
    pub(super) fn shrink_to(&mut self, max: usize) {
        while self.by_tree.len() > max {
            let idle = self.by_tree.iter().filter(|(_, entry)| entry.is_idle());
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(tree, _)| tree.clone()) else { return };
            self.drop_idle(|tree| *tree == oldest);
        }
    }

    /// Forgets those sources that nobody holds.
    pub(super) fn drop_idle(&mut self, which: impl Fn(&ObjectId) -> bool) {
        for (_, entry) in self.by_tree.extract_if(.., |tree, entry| which(tree) && entry.is_idle()) {
            if let Err(error) = std::fs::remove_file(&entry.source.root) {
                tracing::warn!(%error, root = %entry.source.root.display(), "cannot let go of a source");
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
