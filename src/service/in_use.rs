//! The files that a sweep must not remove: those that the evolution under way, open incidents, and versions that can
//! serve again need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interface::types::{CandidateId, EvolutionId, Version};
use crate::lifecycle::Lifecycle;
use crate::time::Timestamp;

/// The ids and versions in use. A sweep runs outside the loop and asks before each removal, because an evolution may
/// have begun after the sweep did. Clones share the value.
#[derive(Clone, Default)]
pub struct InUse(Arc<Mutex<Now>>);

#[derive(Default)]
struct Now {
    /// Ids of the evolution under way and of open incidents.
    ids: BTreeSet<String>,
    /// When that evolution began.
    since: Option<Timestamp>,
    /// Active first, then Previous, then the versions to which an operator may roll back.
    versions: Vec<Version>,
    /// The ids of builds and validations outside the lifecycle, with the number of tasks that need each.
    external: BTreeMap<String, u32>,
}

/// A guard: while it lives, the files with these ids are in use.
pub struct Protection {
    needed: InUse,
    ids: Vec<String>,
}

impl Drop for Protection {
    fn drop(&mut self) {
        let mut now = self.needed.lock();
        for id in &self.ids {
            let left = now.external.get(id).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                now.external.remove(id)
            } else {
                now.external.insert(id.clone(), left)
            };
        }
    }
}

impl InUse {
    /// Copies the ids and versions that the lifecycle knows. The caller does so before it executes an effect.
    pub fn update(&self, core: &Lifecycle) {
        let mut now = self.lock();
        let current = core.evolution();
        let of_evolution =
            current.map(|it| [it.id.0.clone(), it.id.0.replacen("evo", "ctx", 1), it.candidate.0.clone()]);
        now.ids = of_evolution.into_iter().flatten().collect();
        now.ids.extend(core.incidents().values().map(|open| open.id.0.clone()));
        now.since = current.map(|it| it.since);
        let serving = core.active().into_iter().chain(core.previous()).map(|deployed| &deployed.version);
        now.versions = serving.chain(core.known_good().values()).cloned().collect();
    }

    /// Protects a candidate that is built or judged outside the lifecycle.
    pub fn protect(&self, evolution: &EvolutionId, candidate: &CandidateId) -> Protection {
        let ids = vec![evolution.0.clone(), candidate.0.clone()];
        let mut now = self.lock();
        for id in &ids {
            *now.external.entry(id.clone()).or_default() += 1;
        }
        drop(now);
        Protection { needed: self.clone(), ids }
    }

    /// Whether a file with this name is in use. The name is an id, or an id with more after a dash or a dot.
    pub fn needs(&self, name: &str) -> bool {
        let is_of =
            |id: &str| name.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']));
        let now = self.lock();
        now.ids.iter().chain(now.external.keys()).any(|id| is_of(id))
    }

    /// When the evolution under way began.
    pub fn evolving_since(&self) -> Option<Timestamp> {
        self.lock().since
    }

    /// The versions that serve or can serve again, Active first and then Previous.
    pub fn versions(&self) -> Vec<Version> {
        self.lock().versions.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_does_not_protect_a_longer_id() {
        let needed = InUse::default();
        let first = needed.protect(&EvolutionId("evo_0001".into()), &CandidateId("cand_0001".into()));
        let again = needed.protect(&EvolutionId("evo_0002".into()), &CandidateId("cand_0001".into()));
        for name in ["evo_0001", "evo_0001-cand_0001", "cand_0001-drv-2", "cand_0001.json"] {
            assert!(needed.needs(name), "{name}");
        }
        for name in ["evo_00011", "cand_00010-drv", "cand_0002", "x-evo_0001", ""] {
            assert!(!needed.needs(name), "{name}");
        }
        drop(first);
        assert!(needed.needs("cand_0001") && !needed.needs("evo_0001"));
        drop(again);
        assert!(!needed.needs("cand_0001"));
    }
}
