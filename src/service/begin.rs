//! Begins what an event demands: its record first, and beside that the preparation of the instance that it starts.

use std::panic::resume_unwind;

use tokio::runtime::Handle;

use super::instances::instance::Wanted;
use super::instances::slots::Occupants;
use super::shell::Shell;
use crate::history::entry::Entry;
use crate::interface::types::{Role, Version};
use crate::journal;
use crate::lifecycle::{Effect, Event, Instance, Slot};
use crate::runtime::spawn::Gate;
use crate::time::Timestamp;

/// An instance, or why there is none.
type Begun = Result<Instance, String>;

impl Shell {
    /// Brings a record to disk. Where the first thing to do is to start an instance, another thread makes it ready meanwhile,
    /// and it waits at its gate: no instruction of its program runs before the record is on disk, and none if it cannot be.
    /// Gives the record's number, and that instance.
    pub(super) fn record(&mut self, at: Timestamp, entry: &Entry) -> Result<(u64, Option<Begun>), journal::Error> {
        // While the journal cannot be written, every try of it would make a process in vain.
        let Some((slot, version)) = starts_first(&entry.effects).filter(|_| self.stalled.is_none()) else {
            return Ok((self.journal.append(at, entry)?.seq, None));
        };
        let (gate, occupants, runtime) = (Gate::default(), &mut self.occupants, Handle::current());
        let id = self.tools.paths.instance_id(self.journal.last_seq() + 1, slot);
        let wanted = Wanted {
            slot,
            store_path: &version.store_path,
            tools: &self.tools,
            traffic: &self.traffic,
            store: &self.store,
            inputs: &self.inputs,
        };
        std::thread::scope(|scope| {
            // The disk has this thread: it is asked at once, and the processor is free while it works. Where no other
            // thread can be had, the instance is started afterwards.
            let beside = std::thread::Builder::new().spawn_scoped(scope, || {
                let _events = runtime.enter();
                occupants.start(&wanted, id, Some(&gate))
            });
            let appended = self.journal.append(at, entry).map(|record| record.seq);
            gate.decide(appended.is_ok());
            let begun = beside.ok().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            Ok((appended?, begun))
        })
    }

    /// Carries out what follows from a record; `begun` is the instance that was made beside it.
    pub(super) fn carry_out_all(&mut self, effects: Vec<Effect>, mut begun: Option<Begun>) {
        for effect in effects {
            match (effect, begun.take()) {
                (Effect::Start { slot, version, role }, Some(begun)) => self.on_begun(slot, &version, role, begun),
                (effect, waiting) => {
                    begun = waiting;
                    self.carry_out(effect);
                }
            }
        }
    }

    /// Starts an instance, the record being on disk.
    pub(super) fn start(&mut self, slot: Slot, version: &Version, role: Role) {
        let id = self.tools.paths.instance_id(self.journal.last_seq(), slot);
        let begun = self.with(slot, &version.store_path, |occupants, wanted| occupants.start(wanted, id, None));
        self.on_begun(slot, version, role, begun);
    }

    /// Does something with the instances, in terms of a version and its slot.
    pub(super) fn with<T>(
        &mut self,
        slot: Slot,
        store_path: &str,
        act: impl FnOnce(&mut Occupants, &Wanted<'_>) -> T,
    ) -> T {
        let wanted = Wanted {
            slot,
            store_path,
            tools: &self.tools,
            traffic: &self.traffic,
            store: &self.store,
            inputs: &self.inputs,
        };
        act(&mut self.occupants, &wanted)
    }

    fn on_begun(&mut self, slot: Slot, version: &Version, role: Role, begun: Begun) {
        self.not_yet[slot.index()] = None;
        let instance = match begun {
            Ok(instance) => instance,
            Err(reason) => {
                self.pending.push_back(Event::StartFailed { slot, reason });
                return;
            }
        };
        let runtime = self.runtime_ref(slot, role, &instance.id);
        self.pending.push_back(Event::Started { slot, instance });
        let now = self.clock.now();
        self.watch.begin(slot, &version.store_path, runtime, now, self.core.incidents());
    }
}

/// The instance that effects start before they do anything else.
fn starts_first(effects: &[Effect]) -> Option<(Slot, &Version)> {
    // The loop looks at the lifecycle's own timers; a maintenance record is in the journal.
    let is_done =
        |effect: &&Effect| matches!(effect, Effect::SetTimer { .. } | Effect::ClearTimer { .. } | Effect::Record(_));
    match effects.iter().find(|effect| !is_done(effect))? {
        Effect::Start { slot, version, .. } => Some((*slot, version)),
        _ => None,
    }
}
