//! What is decided about a commit or candidate, and how its evolution ends.

use super::state::{Lifecycle, Phase, QUARANTINE_MAX, Quarantined, SETTLED_MAX, Settled};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{MaintenanceAction, Version};

impl Lifecycle {
    /// Whether a commit with these files needs no evolution: the one that it had is all that there is to say.
    pub(super) fn is_settled(&self, tree: &str) -> bool {
        let active = self.active.as_ref().map(|active| &active.version.store_path);
        self.settled.iter().any(|it| it.tree == tree && active == Some(&it.same_as))
    }

    fn add_settled(&mut self, entry: Settled) {
        self.settled.retain(|known| known.tree != entry.tree);
        if self.settled.len() >= SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(entry);
    }

    /// The candidate's build is Active's own. Nothing was judged, so Active stays the version that it was judged as: its
    /// commit is what candidates are compared with, and two harmless commits could otherwise take away what one may not.
    pub(super) fn end_unchanged(&mut self, out: &mut Out, version: Version) {
        let Some(current) = &self.evolution else { return };
        if current.incident.is_some() {
            // It was tried, and what is wrong with Active is wrong still.
            self.end_rejected(out, SUPERVISOR, "the build is the same as Active's: it repairs nothing".to_owned());
            return;
        }
        // It cost no judgement and no traffic, so it does not count in the hour.
        if self.recent.back() == Some(&current.since) {
            self.recent.pop_back();
        }
        self.add_settled(Settled { tree: version.tree, same_as: version.store_path });
        self.record(out, MaintenanceAction::Unchanged, SUPERVISOR, "the build is the same as Active's");
        self.end_evolution(out);
    }

    /// Puts the candidate's content into quarantine and lets its generation go.
    pub(super) fn quarantine_candidate(&mut self, out: &Out, reason: &str) {
        let Some(current) = &self.evolution else { return };
        let Some(version) = &current.version else { return };
        let entry = Quarantined {
            tree: version.tree.clone(),
            store_path: version.store_path.clone(),
            candidate: current.candidate.clone(),
            reason: reason.to_owned(),
            at: out.at,
        };
        self.quarantine_entry(entry);
    }

    pub(super) fn quarantine_entry(&mut self, entry: Quarantined) {
        self.known_good.retain(|_, version| version.store_path != entry.store_path);
        if self.quarantine.len() >= QUARANTINE_MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(entry);
    }

    /// Ends the evolution without a promotion; Active goes on.
    pub(super) fn end_rejected(&mut self, out: &mut Out, by: &str, reason: String) {
        self.cancel(out);
        self.record(out, MaintenanceAction::Rejected, by, reason);
        self.end_evolution(out);
    }

    /// Back to Steady.
    pub(super) fn end_evolution(&mut self, out: &mut Out) {
        self.evolution = None;
        self.enter(out, Phase::Steady);
        if let Some(policy) = self.next_policy.take() {
            self.policy = Some(policy);
        }
    }
}
