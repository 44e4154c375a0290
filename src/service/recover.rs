//! Takes over what an earlier supervisor left running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::{Input, News};
use super::instances::ids::{Named, slot_of};
use super::instances::instance::Gone;
use super::keep::Kept;
use super::shell::Shell;
use crate::diagnosis;
use crate::interface::types::{Role, RuntimeRef};
use crate::lifecycle::{Event, Phase, Reality, RunState, Running, Slot};
use crate::runtime::logs::Log;
use crate::runtime::table::Entry;

/// How long the last words of an instance that ended while nobody watched may take through its pipe, and the pause
/// between looks: nothing writes there any more.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const LAST_WORDS_PAUSE: Duration = Duration::from_millis(5);

impl Shell {
    /// Goes on in the same phase, with the same instances; or, where reality is ahead of the journal, with what runs.
    pub(super) fn take_over(&mut self, mut kept: Kept, reality: Option<Reality>) {
        if let Some(reality) = reality {
            self.hold(kept, reality);
            return;
        }
        let fresh = self.core.policy().is_none();
        self.pending.push_back(Event::Configured { policy: super::policy::policy(&self.tools.config) });
        if fresh {
            return;
        }
        let recorded = self.occupants.recorded();
        let owners = Slot::ALL.map(|slot| self.owner(slot, &recorded));
        for entry in &recorded {
            if !owners.iter().flatten().any(|(owner, _)| owner.id == entry.id) {
                self.end_stray(entry, &mut kept);
            }
        }
        let mut running = [None, None];
        for (slot, owner) in Slot::ALL.into_iter().zip(owners) {
            running[slot.index()] =
                owner.and_then(|(entry, store_path)| self.adopt(slot, entry, store_path, &mut kept));
        }
        self.occupants.forget(kept);
        let rebooted = self.occupants.nothing_to_find();
        self.pending.push_back(Event::Recovered { running, rebooted });
    }

    /// Takes over what runs, whatever the journal says of it.
    fn hold(&mut self, mut kept: Kept, mut reality: Reality) {
        let recorded = self.occupants.recorded();
        let found = |id: &str| reality.running.iter().flatten().any(|found| found.instance.id == id);
        // Others have a successor in their slot, or only empty a queue: they were asked to end before.
        for entry in recorded.iter().filter(|entry| !found(&entry.id)) {
            self.end_stray(entry, &mut kept);
        }
        for slot in Slot::ALL {
            let Some(found) = &reality.running[slot.index()] else { continue };
            let Some(entry) = recorded.iter().find(|entry| entry.id == found.instance.id) else { continue };
            let (store_path, ready) = (found.version.store_path.clone(), found.ready);
            match self.with(slot, &store_path, |occupants, wanted| occupants.adopt(wanted, entry, &mut kept, ready)) {
                Ok(()) => {
                    let serves = reality.serves.as_ref().filter(|(serving, _)| *serving == slot);
                    let runtime = RuntimeRef {
                        name: self.tools.config.runtime.name.clone(),
                        store_path: Some(store_path.clone()),
                        commit: Some(found.version.rev.clone()).filter(|rev| !rev.is_empty()),
                        role: Some(if serves.is_some() { Role::Active } else { Role::Previous }),
                        generation: serves.map(|(_, deployed)| deployed.generation),
                        instance: Some(entry.id.clone()),
                    };
                    let now = self.clock.now();
                    self.watch.begin(slot, &store_path, runtime, now, self.core.incidents());
                }
                Err(Gone { why, .. }) => {
                    tracing::warn!(%slot, why, "an instance ended while it was taken over");
                    reality.running[slot.index()] = None;
                }
            }
        }
        self.occupants.forget(kept);
        // Before all else: until this is on disk, the sealed head must show what is lost.
        self.pending.push_back(Event::Held(Box::new(reality)));
        self.pending.push_back(Event::Configured { policy: super::policy::policy(&self.tools.config) });
    }

    fn end_stray(&mut self, entry: &Entry, kept: &mut Kept) {
        self.with(slot_of(&entry.id), "", |occupants, wanted| occupants.end_stray(wanted, entry, kept));
    }

    /// The instance that the journal, or the table, has for a slot, and its version.
    fn owner<'a>(&self, slot: Slot, recorded: &'a [Entry]) -> Option<(&'a Entry, String)> {
        let state = self.core.slot(slot);
        let store_path = state.version.as_ref()?.store_path.clone();
        let entry = match &state.instance {
            Some(instance) => recorded.iter().find(|entry| entry.id == instance.id),
            // It was made, and the record of it was not written any more. Others of the slot are older.
            None if state.run == RunState::Starting => {
                let made = recorded.iter().filter(|entry| seq(&entry.id, slot).is_some());
                made.max_by_key(|entry| seq(&entry.id, slot))
            }
            None => None,
        };
        Some((entry?, store_path))
    }

    fn adopt(&mut self, slot: Slot, entry: &Entry, store_path: String, kept: &mut Kept) -> Option<Running> {
        let run = self.core.slot(slot).run;
        let ready = run == RunState::Ready || run == RunState::Stopping;
        match self.with(slot, &store_path, |occupants, wanted| occupants.adopt(wanted, entry, kept, ready)) {
            Ok(()) => {
                let runtime = self.runtime_ref(slot, self.role_in(slot), &entry.id);
                let now = self.clock.now();
                self.watch.begin(slot, &store_path, runtime, now, self.core.incidents());
                Some(Running { store_path, ready })
            }
            Err(Gone { why, log }) => {
                tracing::warn!(%slot, why, "an instance did not outlive the supervisor");
                if let Some(log) = log.filter(|_| matches!(run, RunState::Ready | RunState::Starting)) {
                    self.tell_last_words(slot, entry, store_path, log);
                }
                None
            }
        }
    }

    fn role_in(&self, slot: Slot) -> Role {
        match self.core.phase() {
            _ if self.core.active_slot() == Some(slot) => Role::Active,
            Phase::Observing { .. } | Phase::RollingBack { .. } => Role::Previous,
            _ => Role::Candidate,
        }
    }

    /// An instance ended and nobody saw how; what it said at last is a signal all the same.
    fn tell_last_words(&self, slot: Slot, entry: &Entry, store_path: String, log: Arc<Log>) {
        let (inputs, id, logger) = (self.inputs.clone(), entry.id.clone(), self.occupants.logger.clone());
        let ran_ms = entry.start_ticks.map_or(0, |start| crate::process::age(start).as_millis());
        let ran_ms = u64::try_from(ran_ms).unwrap_or(u64::MAX);
        let secrets = self.tools.secrets.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            while !log.is_finished() && asked.elapsed() < LAST_WORDS_MAX {
                tokio::time::sleep(LAST_WORDS_PAUSE).await;
            }
            let words = log.recent();
            logger.forget(&id);
            let read = tokio::task::spawn_blocking(move || diagnosis::exit(None, None, ran_ms, &words, &secrets));
            if let Ok(exit) = read.await {
                let news = News::Crashed { store_path, exit };
                // The loop is gone only when everything ends.
                let _ = inputs.send(Input::Instance { slot, id, news }).await;
            }
        });
    }
}

/// The record that started the instance of this id in `slot`; `None` when it is of another slot, or only drained one.
fn seq(id: &str, slot: Slot) -> Option<u64> {
    Named::parse(id).filter(|named| named.slot == slot && !named.drains).map(|named| named.seq)
}
