//! Takes over what an earlier supervisor left running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::executor::Executor;
use super::fdstore::StoredFds;
use super::findings::runtime_ref;
use super::input::{Input, InstanceEvent};
use super::instances::ids::{Named, slot_of};
use super::instances::types::AdoptError;
use super::policy::policy;
use crate::diagnosis;
use crate::interface::types::{Role, RuntimeRef};
use crate::lifecycle::{Event, Lifecycle, Reality, RunState, Running, Slot};
use crate::runtime::logs::Log;
use crate::runtime::table::Entry;
use crate::time::Timestamp;

/// How long the last words of an instance that ended while nobody watched may take through its pipe, and the pause
/// between looks: nothing writes there any more.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const LAST_WORDS_PAUSE: Duration = Duration::from_millis(5);

/// Takes over in the same phase, with the same instances; or, if reality is ahead of the journal, with what runs. Gives the events
/// that the lifecycle is told of it.
pub fn take_over(
    core: &Lifecycle,
    executor: &mut Executor,
    kept: StoredFds,
    reality: Option<Reality>,
    at: Timestamp,
) -> Vec<Event> {
    let mut takeover = Takeover { core, executor, at };
    match reality {
        Some(reality) => takeover.hold(kept, reality),
        None => takeover.resume(kept),
    }
}

/// A takeover, under way.
struct Takeover<'a> {
    core: &'a Lifecycle,
    executor: &'a mut Executor,
    at: Timestamp,
}

impl Takeover<'_> {
    fn resume(&mut self, mut kept: StoredFds) -> Vec<Event> {
        let configured = Event::Configured { policy: policy(&self.executor.tools.config) };
        if self.core.policy().is_none() {
            return vec![configured];
        }
        let recorded = self.executor.instances.recorded();
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
        self.executor.instances.forget(kept);
        let rebooted = self.executor.instances.nothing_to_find();
        vec![configured, Event::Recovered { running, rebooted }]
    }

    /// Takes over what runs, whatever the journal says of it.
    fn hold(&mut self, mut kept: StoredFds, mut reality: Reality) -> Vec<Event> {
        let recorded = self.executor.instances.recorded();
        let found = |id: &str| reality.running.iter().flatten().any(|found| found.instance.id == id);
        // Others have a successor in their slot, or only empty a queue: they were asked to end before.
        for entry in recorded.iter().filter(|entry| !found(&entry.id)) {
            self.end_stray(entry, &mut kept);
        }
        for slot in Slot::ALL {
            let Some(found) = &reality.running[slot.index()] else { continue };
            let Some(entry) = recorded.iter().find(|entry| entry.id == found.instance.id) else { continue };
            let (store_path, ready) = (found.version.store_path.clone(), found.ready);
            match self
                .executor
                .with(slot, &store_path, |instances, context| instances.adopt(context, entry, &mut kept, ready))
            {
                Ok(()) => {
                    let serves = reality.serves.as_ref().filter(|(serving, _)| *serving == slot);
                    let runtime = RuntimeRef {
                        name: self.executor.tools.config.runtime.name.clone(),
                        store_path: Some(store_path.clone()),
                        commit: Some(found.version.rev.clone()).filter(|rev| !rev.is_empty()),
                        role: Some(if serves.is_some() { Role::Active } else { Role::Previous }),
                        generation: serves.map(|(_, deployed)| deployed.generation),
                        instance: Some(entry.id.clone()),
                    };
                    self.executor.monitors.begin(slot, &store_path, runtime, self.at, self.core.incidents());
                }
                Err(AdoptError { why, .. }) => {
                    tracing::warn!(%slot, why, "an instance ended while it was taken over");
                    reality.running[slot.index()] = None;
                }
            }
        }
        self.executor.instances.forget(kept);
        // Before all else: until this is on disk, the sealed head must show what is lost.
        let configured = Event::Configured { policy: policy(&self.executor.tools.config) };
        vec![Event::Held(Box::new(reality)), configured]
    }

    fn end_stray(&mut self, entry: &Entry, kept: &mut StoredFds) {
        self.executor.with(slot_of(&entry.id), "", |instances, context| instances.end_stray(context, entry, kept));
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

    fn adopt(&mut self, slot: Slot, entry: &Entry, store_path: String, kept: &mut StoredFds) -> Option<Running> {
        let run = self.core.slot(slot).run;
        let ready = run == RunState::Ready || run == RunState::Stopping;
        match self.executor.with(slot, &store_path, |instances, context| instances.adopt(context, entry, kept, ready)) {
            Ok(()) => {
                let name = &self.executor.tools.config.runtime.name;
                let runtime = runtime_ref(self.core, name, slot, &entry.id);
                self.executor.monitors.begin(slot, &store_path, runtime, self.at, self.core.incidents());
                Some(Running { store_path, ready })
            }
            Err(AdoptError { why, log }) => {
                tracing::warn!(%slot, why, "an instance did not outlive the supervisor");
                if let Some(log) = log.filter(|_| matches!(run, RunState::Ready | RunState::Starting)) {
                    self.tell_last_words(slot, entry, store_path, log);
                }
                None
            }
        }
    }

    /// An instance ended and nobody saw how; what it said at last is a signal all the same.
    fn tell_last_words(&self, slot: Slot, entry: &Entry, store_path: String, log: Arc<Log>) {
        let (inputs, id, logger) =
            (self.executor.inputs.clone(), entry.id.clone(), self.executor.instances.logger.clone());
        let ran_ms = entry.start_ticks.map_or(0, |start| crate::process::age(start).as_millis());
        let ran_ms = u64::try_from(ran_ms).unwrap_or(u64::MAX);
        let secrets = self.executor.tools.secrets.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            while !log.is_finished() && asked.elapsed() < LAST_WORDS_MAX {
                tokio::time::sleep(LAST_WORDS_PAUSE).await;
            }
            let words = log.recent();
            logger.forget(&id);
            let read = tokio::task::spawn_blocking(move || diagnosis::exit(None, None, ran_ms, &words, &secrets));
            if let Ok(exit) = read.await {
                let event = InstanceEvent::Crashed { store_path, exit };
                // The loop is gone only when everything ends.
                let _ = inputs.send(Input::Instance { slot, id, event }).await;
            }
        });
    }
}

/// The record that started the instance of this id in `slot`; `None` when it is of another slot, or only drained one.
fn seq(id: &str, slot: Slot) -> Option<u64> {
    Named::parse(id).filter(|named| named.slot == slot && !named.drains).map(|named| named.seq)
}
