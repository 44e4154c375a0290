//! Decides about a commit or candidate, and ends its evolution.

use super::effect::{Effect, Timer};
use super::evolve::HOUR_MS;
use super::reason::Reason;
use super::state::{
    AGENT_RUNS_MAX, Commit, Ended, Evolution, Lifecycle, PUT_OFF_MAX, Phase, PutOff, QUARANTINE_MAX, Quarantined,
    SETTLED_MAX, Settled,
};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{MaintenanceAction, Version};
use crate::time::Timestamp;

/// A minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// Maximum number of doublings of a pause; the policy's longest pause is reached earlier.
const DOUBLINGS_MAX: u64 = 16;

impl Lifecycle {
    /// True if these files are decided: they are Active's, they have the same build as Active, or they are in
    /// quarantine.
    pub(super) fn is_decided(&self, tree: &str) -> bool {
        let active = self.active.as_ref().map(|active| &active.version);
        let same_build = |it: &Settled| it.tree == tree && it.same_as.as_ref() == active.map(|it| &it.store_path);
        active.is_some_and(|active| active.tree == tree)
            || self.is_quarantined(tree)
            || self.settled.iter().any(|it| it.same_as.is_some() && same_build(it))
    }

    /// True if an evolution about these files ended without a candidate. Only an operator can ask for another one.
    pub(super) fn is_settled(&self, tree: &str) -> bool {
        self.settled.iter().any(|it| it.tree == tree && it.same_as.is_none())
    }

    fn add_settled(&mut self, entry: Settled) {
        self.settled.retain(|known| known.tree != entry.tree);
        if self.settled.len() >= SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(entry);
    }

    /// The candidate's build is the same as Active's. Nothing was judged, so Active keeps the commit that it was judged
    /// with: candidates are compared with that commit, and otherwise two harmless commits together could remove a check
    /// that one commit may not remove.
    pub(super) fn end_unchanged(&mut self, out: &mut Out, version: Version) {
        let Some(current) = &self.evolution else { return };
        if current.incident.is_some() {
            // The repair changed nothing, so the fault of Active is still there.
            self.end_rejected(out, SUPERVISOR, Reason::RepairsNothing);
            return;
        }
        let candidate = current.candidate.clone();
        // It needed no validation and no traffic, so it does not count in the hourly budget.
        self.give_back();
        self.add_settled(Settled { tree: version.tree, candidate, same_as: Some(version.store_path) });
        self.record(out, MaintenanceAction::Unchanged, SUPERVISOR, Reason::SameBuild);
        self.end_evolution(out);
    }

    /// Removes the evolution under way from the hourly budget.
    pub(super) fn give_back(&mut self) {
        let since = self.evolution.as_ref().map(|current| current.since);
        if since.is_some() && self.recent.back().copied() == since {
            self.recent.pop_back();
        }
    }

    pub(super) fn put_off(&self, of: &str) -> Option<&PutOff> {
        self.put_off.iter().find(|it| it.of == of)
    }

    /// The key by which the evolution under way is counted: the fingerprint of its incident, or the tree of its commit.
    pub(super) fn cause(&self) -> Option<String> {
        let current = self.evolution.as_ref()?;
        let Some(incident) = &current.incident else { return current.tree.clone() };
        self.incidents.iter().find(|(_, open)| open.id == *incident).map(|(fingerprint, _)| fingerprint.clone())
    }

    /// The evolution failed, and its content is not the cause. That is no verdict, so it is tried again after a pause
    /// that doubles, up to a number of tries. If only an operator asked for it, it is not tried again by itself.
    pub(super) fn end_put_off(&mut self, out: &mut Out, reason: Reason) {
        let Some(current) = self.evolution.clone() else { return };
        let (of, tries) = match self.cause() {
            Some(of) => {
                let tries = self.put_off(&of).map_or(0, |known| known.tries) + 1;
                (of, tries)
            }
            None => (String::new(), 1),
        };
        if tries >= self.rules().tries {
            self.attention = Some(Reason::NothingCameOf { tries, reason: reason.clone().boxed() });
            if let Some(current) = &mut self.evolution {
                // A failure of the machine is no answer of an agent.
                current.tasks.clear();
            }
            self.end_rejected(out, SUPERVISOR, Reason::NoVerdictAfter { tries, reason: reason.boxed() });
            return;
        }
        self.give_back();
        if current.incident.is_some() {
            self.uncount_attempt(&of);
        }
        self.cancel(out);
        let told = Reason::NoVerdict { reason: reason.clone().boxed() };
        self.record(out, MaintenanceAction::Deferred, SUPERVISOR, told);
        self.end_evolution(out);
        self.last = None;
        if of.is_empty() {
            return;
        }
        let until = out.at.plus_ms(self.pause_ms(u64::from(tries)));
        if self.put_off.len() >= PUT_OFF_MAX {
            self.put_off.remove(0);
        }
        self.put_off.push(PutOff { of, tries, until, reason });
        if let (None, Some(rev), Some(tree)) = (current.incident, current.rev, current.tree)
            && self.followed.as_ref() == Some(&rev)
        {
            self.upgrade = Some(Commit { rev, tree });
        }
    }

    /// The pause after this many failures.
    fn pause_ms(&self, failures: u64) -> u64 {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        (self.rules().retry_ms << doublings).min(self.rules().retry_max_ms)
    }

    pub(super) fn on_agent_ran(&mut self, at: Timestamp, took_ms: u64) {
        self.forget_agent_runs(at);
        if self.agent_runs.len() >= AGENT_RUNS_MAX {
            self.agent_runs.pop_front();
        }
        self.agent_runs.push_back((at, took_ms));
    }

    fn forget_agent_runs(&mut self, now: Timestamp) {
        while self.agent_runs.front().is_some_and(|(at, _)| now.ms_since(*at) >= HOUR_MS) {
            self.agent_runs.pop_front();
        }
    }

    /// The time when the next run of an agent may begin, and the budget that is spent; `None` if no hourly budget of
    /// agents is spent.
    pub(super) fn agents_spent(&mut self, now: Timestamp) -> Option<(Timestamp, Reason)> {
        self.forget_agent_runs(now);
        let first = self.agent_runs.front().map(|(at, _)| at.plus_ms(HOUR_MS))?;
        let (runs, ms) = (self.agent_runs.len() as u64, self.agent_runs.iter().map(|(_, ms)| ms).sum::<u64>());
        let rules = self.rules();
        let told = if runs >= rules.agent_runs {
            Reason::AgentRunsSpent { limit: rules.agent_runs }
        } else if ms >= rules.agent_ms {
            Reason::AgentTimeSpent { minutes: rules.agent_ms / MINUTE_MS }
        } else {
            return None;
        };
        Some((first, told))
    }

    /// Sets or clears the timer for what waits in Steady.
    pub(super) fn arm_retry(&mut self, out: &mut Out, waits: Option<(Timestamp, Reason)>) {
        match waits {
            Some((at, _)) if self.timers.get(&Timer::Retry).is_some_and(|armed| armed.at == at) => {}
            Some((at, reason)) => self.arm_at(out, Timer::Retry, at, reason),
            None => self.clear(out, Timer::Retry),
        }
    }

    /// An operator releases content from quarantine. If the followed ref still names it, it is tried at once.
    pub(super) fn release(&mut self, content: &str) {
        let (released, kept) = std::mem::take(&mut self.quarantine).into_iter().partition(|it| it.answers_to(content));
        self.quarantine = kept;
        let released: Vec<Quarantined> = released;
        let names =
            |it: &Settled| released.iter().any(|entry| entry.candidate == it.candidate || entry.tree == it.tree);
        let followed = self.followed.clone().zip(self.followed_tree.clone());
        if let Some((rev, tree)) = followed
            && (released.iter().any(|entry| entry.tree == tree)
                || self.settled.iter().any(|it| it.tree == tree && names(it)))
        {
            self.upgrade = Some(Commit { rev, tree });
        }
        self.settled.retain(|it| it.same_as.is_some() || !names(it));
        // An agent may make the same content again.
        self.tried.retain(|it| released.iter().all(|entry| entry.candidate != it.candidate));
    }

    /// Puts the candidate's content into quarantine and gives up its generation.
    pub(super) fn quarantine_candidate(&mut self, out: &Out, reason: &Reason) {
        let Some(version) = self.evolution.as_ref().and_then(|current| current.version.clone()) else { return };
        // In its window it is Active: its store path is quarantined nevertheless.
        self.quarantine_as(out, version.tree, version.store_path, reason);
    }

    /// The same for content that did not become a candidate. If its build is Active's, only the tree is quarantined.
    pub(super) fn quarantine_content(&mut self, out: &Out, tree: String, store_path: String, reason: &Reason) {
        let active = self.active.as_ref().map(|active| &active.version.store_path);
        let store_path = if active == Some(&store_path) { String::new() } else { store_path };
        self.quarantine_as(out, tree, store_path, reason);
    }

    fn quarantine_as(&mut self, out: &Out, tree: String, store_path: String, reason: &Reason) {
        let Some(current) = &self.evolution else { return };
        let candidate = current.candidate.clone();
        self.quarantine_entry(Quarantined { tree, store_path, candidate, reason: reason.clone(), at: out.at });
    }

    pub(super) fn quarantine_entry(&mut self, entry: Quarantined) {
        self.known_good.retain(|_, version| version.store_path != entry.store_path);
        if self.quarantine.len() >= QUARANTINE_MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(entry);
    }

    /// Ends the evolution without a promotion; Active continues to serve.
    pub(super) fn end_rejected(&mut self, out: &mut Out, by: &str, reason: Reason) {
        self.cancel(out);
        self.remember_asked(Some(&reason).filter(|_| self.made_something()));
        self.record(out, MaintenanceAction::Rejected, by, reason);
        self.settle_commit();
        let repaired = self.cause().filter(|_| self.evolution.as_ref().is_some_and(|it| it.incident.is_some()));
        self.end_evolution(out);
        self.back_off(out, repaired);
    }

    /// After a failed repair the fault of Active is still there. The next repair knows little more, so it waits, and
    /// longer each time.
    pub(super) fn back_off(&mut self, out: &Out, fingerprint: Option<String>) {
        let Some(of) = fingerprint else { return };
        let pause_ms = self.pause_ms(self.attempts_of(&of));
        if pause_ms == 0 {
            return;
        }
        if self.put_off.len() >= PUT_OFF_MAX {
            self.put_off.remove(0);
        }
        let reason = Reason::LastRepairFailed;
        self.put_off.push(PutOff { of, tries: 0, until: out.at.plus_ms(pause_ms), reason });
    }

    /// Notes that the commit of the evolution under way has had its evolution.
    pub(super) fn settle_commit(&mut self) {
        let Some(Evolution { tree: Some(tree), candidate, .. }) = &self.evolution else { return };
        let (tree, candidate) = (tree.clone(), candidate.clone());
        if !self.is_decided(&tree) {
            self.add_settled(Settled { tree, candidate, same_as: None });
        }
    }

    /// Ends the evolution, in phase Steady.
    pub(super) fn end_evolution(&mut self, out: &mut Out) {
        if let Some(of) = self.cause() {
            self.put_off.retain(|known| known.of != of);
        }
        if let Some(Evolution { id, rev: Some(rev), tree: Some(tree), .. }) = self.evolution.take() {
            self.last = Some(Ended { evolution: id, rev, tree });
        }
        self.enter(out, Phase::Steady);
        if let Some(policy) = self.next_policy.take() {
            self.policy = Some(policy);
        }
    }

    /// Forgets the generations that are older than those that are kept.
    pub(super) fn prune(&mut self, out: &mut Out) {
        let keep = self.rules().keep_generations;
        let in_use: Vec<u64> = self.active.iter().chain(&self.previous).map(|deployed| deployed.generation).collect();
        let oldest_kept = self.known_good.keys().rev().take(usize::try_from(keep).unwrap_or(usize::MAX)).min().copied();
        self.known_good.retain(|generation, _| {
            in_use.contains(generation) || oldest_kept.is_some_and(|oldest| *generation >= oldest)
        });
        let in_use = self.known_good.keys().copied().chain(in_use).collect();
        out.push(Effect::Prune { keep, in_use });
    }
}
