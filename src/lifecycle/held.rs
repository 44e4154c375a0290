//! Phase Held: reality is ahead of the journal. The running versions continue to serve, rei decides nothing, and
//! an operator says which version is Active.

use super::deployed::Deployed;
use super::effect::{Effect, Routing, Timer};
use super::event::{Reality, Trust};
use super::operate::Refusal;
use super::reason::Reason;
use super::slot::Slot;
use super::state::{Evolution, Held, Lifecycle, Phase, RunState, SlotState};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{EvolutionId, MaintenanceAction};

impl Lifecycle {
    /// The Active version of the journal, while an operator has to decide whether it is Active again.
    pub fn active_by_journal(&self) -> Option<&Deployed> {
        self.held.as_ref().and_then(|held| held.by_journal.as_ref())
    }

    /// The number of the last candidate.
    pub const fn candidates(&self) -> u64 {
        self.counters.candidate
    }

    /// The journal is behind reality. If it has an evolution under way, its later records are lost.
    pub(super) fn on_held(&mut self, out: &mut Out, reality: Reality) {
        let Reality { facts, running, serves, numbered } = reality;
        let by_journal = match self.held.take() {
            Some(held) => held.by_journal,
            None => self.active.take(),
        };
        let attention = Reason::BehindReality { facts };
        self.cancel(out);
        for (slot, found) in Slot::ALL.into_iter().zip(running) {
            self.clear(out, Timer::restart(slot));
            self.slots[slot.index()] = found.map_or_else(SlotState::default, |found| SlotState {
                run: if found.ready { RunState::Ready } else { RunState::Starting },
                version: Some(found.version),
                instance: Some(found.instance),
                ..SlotState::default()
            });
        }
        (self.active_slot, self.active) = serves.unzip();
        self.routing = self.active_slot.map(Routing::all);
        self.record(out, MaintenanceAction::Deferred, SUPERVISOR, attention.clone());
        self.held = Some(Held { attention, by_journal });
        (self.evolution, self.asked) = (None, None);
        let counters = &mut self.counters;
        for counter in [&mut counters.evolution, &mut counters.candidate, &mut counters.report, &mut counters.incident]
        {
            *counter = numbered.max(*counter);
        }
        self.enter(out, Phase::Held);
        self.serve_on(out);
    }

    /// Sends all traffic to the version that serves, and starts it if it does not run. The profile stays as it was
    /// found.
    pub(super) fn serve_on(&mut self, out: &mut Out) {
        if let Some(routing) = self.routing {
            out.push(Effect::Route { routing });
        }
        self.ensure_active_runs(out);
    }

    pub(super) fn refuse_settle(&self, trust: Trust) -> Option<Refusal> {
        let what = "decide what is Active";
        let Some(held) = &self.held else {
            let hint = "the journal and reality agree; `rei status` shows what serves";
            return Some(Refusal::WrongPhase { what, phase: self.phase.name(), hint });
        };
        let hint = "the journal has no Active: `rei journal accept reality`, or begin with a new state directory";
        let refused = trust == Trust::Journal && held.by_journal.is_none();
        refused.then_some(Refusal::WrongPhase { what, phase: self.phase.name(), hint })
    }

    /// An operator says which version is Active. The commit that the followed ref names is then judged again.
    pub(super) fn settle(&mut self, out: &mut Out, by: String, trust: Trust, reason: String) {
        let Some(Held { by_journal, .. }) = self.held.take() else { return };
        let same = match (&self.active, &by_journal) {
            (Some(active), Some(journals)) => active.version.store_path == journals.version.store_path,
            (None, _) | (_, None) => false,
        };
        match (trust, by_journal) {
            (Trust::Journal, Some(target)) if !same => {
                self.go_back_to(out, by, target, Reason::JournalTrusted { reason })
            }
            (Trust::Journal, journals) => {
                self.active = journals.or(self.active.take());
                self.settled(out, &by, Reason::JournalTrusted { reason });
            }
            (Trust::Reality, journals) => {
                self.previous = journals.filter(|_| !same).or(self.previous.take());
                self.settled(out, &by, Reason::RealityTrusted { reason });
            }
        }
    }

    /// Makes the version that serves Active.
    fn settled(&mut self, out: &mut Out, by: &str, reason: Reason) {
        let Some(Deployed { version, generation }) = self.active.clone() else {
            // No version was ever installed.
            self.record(out, MaintenanceAction::Deferred, by, reason);
            self.enter(out, Phase::Empty);
            if let Some(commit) = self.upgrade.take() {
                self.begin_install(out, commit.rev);
            }
            return;
        };
        self.previous = self.previous.take().filter(|it| it.version.store_path != version.store_path);
        self.upgrade = self.upgrade.take().filter(|it| it.rev != version.rev && it.tree != version.tree);
        self.record(out, MaintenanceAction::Promoted, by, reason);
        self.attention = None;
        if generation == 0 {
            // It ran without a generation, because the profile was gone.
            self.prepare_generation(out, version.store_path);
        } else {
            self.known_good.insert(generation, version);
            self.put_in_place(out);
        }
        if let Some(other) =
            self.active_slot.map(Slot::other).filter(|slot| self.slots[slot.index()].run != RunState::Down)
        {
            self.stop(out, other);
        }
        self.end_evolution(out);
        self.ensure_active_runs(out);
    }

    /// Sets routing and profile to Active.
    fn put_in_place(&self, out: &mut Out) {
        let generation = self.active.as_ref().map(|active| active.generation);
        if let Some(routing) = self.routing {
            out.push(Effect::put_in_place(routing, generation));
        }
    }

    /// A generation was made for Active, which had none when an operator trusted it. `false` if the generation is for
    /// another version.
    pub(super) fn active_has_generation(&mut self, out: &mut Out, store_path: &str, generation: u64) -> bool {
        let settled = self.phase == Phase::Steady;
        let without = |it: &&mut Deployed| settled && it.generation == 0 && it.version.store_path == store_path;
        let Some(active) = self.active.as_mut().filter(without) else { return false };
        active.generation = generation;
        self.known_good.insert(generation, active.version.clone());
        self.put_in_place(out);
        true
    }

    /// The version that the journal has as Active is started beside the one that serves, and replaces it. The replaced
    /// version is not quarantined, because no operator said that it is bad.
    fn go_back_to(&mut self, out: &mut Out, by: String, target: Deployed, reason: Reason) {
        self.attention = None;
        self.counters.evolution += 1;
        let evolution = Evolution {
            id: EvolutionId::numbered(self.counters.evolution),
            asked_by: Some(by.clone()),
            since: out.at,
            target: Some(target),
            rollback: Some((by, reason)),
            ..Evolution::default()
        };
        self.begin_rollback(out, evolution);
    }

    /// The hint: what an operator must do first.
    pub(super) const fn held_hint() -> &'static str {
        "say first what is Active: `rei journal accept`"
    }

    /// True if an operator must first say which version is Active. Until then no evolution may begin.
    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }
}
