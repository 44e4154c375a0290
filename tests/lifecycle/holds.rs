//! The properties that must hold in every state of a world.

use super::*;

impl World {
    /// I1: the profile's current generation and the routing are Active's, outside of transitions.
    pub fn one_active(&self) -> bool {
        let Some(active) = self.core.active() else { return true };
        match self.core.phase() {
            Phase::Promoting { .. } | Phase::RollingBack { .. } | Phase::Installing => true,
            _ => {
                self.current == Some(active.generation)
                    && self.routing.is_some_and(|routing| Some(routing.main) == self.core.active_slot())
            }
        }
    }

    /// I3: the version that a rollback would restore has its generation, and a process unless it is cold, starts, or waits for its start.
    pub fn previous_can_serve(&self) -> bool {
        let target = match self.core.phase() {
            Phase::Canary { .. } => self.core.active(),
            Phase::Observing { .. } => self.core.previous(),
            _ => return true,
        };
        let Some(target) = target else { return false };
        self.generations.contains(&(target.generation, target.version.store_path.clone()))
    }

    /// I6: no request of an instance changes anything or causes an effect, in any state. A request for time only moves a deadline
    /// later.
    pub fn instance_asks_in_vain(&self) -> bool {
        let content = self.core.quarantine().last().map(|entry| entry.tree.clone()).unwrap_or_default();
        let more = [Request::Pause, Request::Resume, Request::Release { content }];
        let mut core = self.core.clone();
        let did_nothing = self.requests().into_iter().chain(more).all(|request| {
            let event = Event::Operator { who: Caller::Supervised { pid: 7 }, request };
            core.step(NOW, event).is_empty()
        });
        did_nothing && core == self.core && self.only_waits(core)
    }

    fn only_waits(&self, mut core: Lifecycle) -> bool {
        let is_later = |effect: &Effect| matches!(effect, Effect::SetTimer { timer: Timer::Phase, .. });
        let mut ask = |slot| core.step(NOW, Event::Extended { slot, by_ms: 60_000 }).iter().all(is_later);
        let waits = ask(Slot::A) && ask(Slot::B);
        let stands = |core: &Lifecycle| (core.phase(), core.active().cloned(), core.routing(), core.active_slot());
        waits && stands(&core) == stands(&self.core) && Slot::ALL.iter().all(|at| core.slot(*at) == self.core.slot(*at))
    }

    /// I4: every phase except the resting phases has a deadline.
    pub fn has_deadline(&self) -> bool {
        let rests =
            matches!(self.core.phase(), Phase::Empty | Phase::Steady | Phase::AwaitingApproval { .. } | Phase::Held);
        rests || self.gave_up || self.core.timers().contains_key(&Timer::Phase)
    }

    /// Active's slot has a process, or a start of one is pending.
    pub fn active_is_cared_for(&self) -> bool {
        let (Some(slot), Phase::Steady | Phase::Held) = (self.core.active_slot(), self.core.phase()) else {
            return true;
        };
        match self.core.slot(slot).run {
            RunState::Starting | RunState::Ready => self.processes[slot.index()].is_some(),
            RunState::Backoff => self.core.timers().contains_key(&Timer::restart(slot)),
            RunState::Stopping | RunState::Draining => self.stopping[slot.index()],
            RunState::Down => false,
        }
    }
}
