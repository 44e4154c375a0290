//! Takes over the instances that an earlier supervisor left running.

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
use crate::lifecycle::{Event, Instance, Lifecycle, Reality, RunState, Running, Slot};
use crate::runtime::logs::Log;
use crate::runtime::table::Entry;
use crate::time::Timestamp;

/// An instance may have ended while no supervisor watched. This is the longest wait until the logger has read its last
/// output from the pipe, and the pause between looks. No process writes to that pipe any more.
const LAST_OUTPUT_MAX: Duration = Duration::from_secs(1);
const LAST_OUTPUT_PAUSE: Duration = Duration::from_millis(5);

/// Takes over in the same phase, with the same instances; or, if reality is ahead of the journal, with the instances
/// that run. Returns the events for the lifecycle.
pub fn take_over(
    core: &Lifecycle,
    executor: &mut Executor,
    stored: StoredFds,
    reality: Option<Reality>,
    at: Timestamp,
) -> Vec<Event> {
    let mut takeover = Takeover { core, executor, at };
    match reality {
        Some(reality) => takeover.hold(stored, reality),
        None => takeover.resume(stored),
    }
}

/// A takeover in progress.
struct Takeover<'a> {
    core: &'a Lifecycle,
    executor: &'a mut Executor,
    at: Timestamp,
}

impl Takeover<'_> {
    fn resume(&mut self, mut stored: StoredFds) -> Vec<Event> {
        let configured = Event::Configured { policy: policy(&self.executor.tools.config) };
        if self.core.policy().is_none() {
            return vec![configured];
        }
        let recorded = self.executor.instances.recorded();
        let owners = Slot::ALL.map(|slot| self.owner(slot, &recorded));
        for entry in &recorded {
            if !owners.iter().flatten().any(|(owner, _)| owner.id == entry.id) {
                self.end_stray(entry, &mut stored);
            }
        }
        let (mut running, mut started) = ([None, None], Vec::new());
        for (slot, owner) in Slot::ALL.into_iter().zip(owners) {
            let adopted = owner.and_then(|(entry, store_path)| self.adopt(slot, entry, store_path, &mut stored));
            let Some((of_slot, instance)) = adopted else { continue };
            running[slot.index()] = Some(of_slot);
            if self.core.slot(slot).instance.is_none() {
                // The earlier supervisor could not record this start. Without the record, the next supervisor would not
                // know that the slot has this instance, and would start another one beside it.
                started.push(Event::Started { slot, instance });
            }
        }
        self.executor.instances.forget(stored);
        let rebooted = self.executor.instances.nothing_to_find();
        let mut events = vec![configured, Event::Recovered { running, rebooted }];
        events.append(&mut started);
        events
    }

    /// Takes over the running instances, even if the journal contradicts them.
    fn hold(&mut self, mut stored: StoredFds, mut reality: Reality) -> Vec<Event> {
        let recorded = self.executor.instances.recorded();
        let found = |id: &str| reality.running.iter().flatten().any(|found| found.instance.id == id);
        // Each other instance has a successor in its slot, or only drains a queue. It was asked to end before.
        for entry in recorded.iter().filter(|entry| !found(&entry.id)) {
            self.end_stray(entry, &mut stored);
        }
        for slot in Slot::ALL {
            let Some(found) = &reality.running[slot.index()] else { continue };
            let Some(entry) = recorded.iter().find(|entry| entry.id == found.instance.id) else { continue };
            let (store_path, ready) = (found.version.store_path.clone(), found.ready);
            match self
                .executor
                .with(slot, &store_path, |instances, context| instances.adopt(context, entry, &mut stored, ready))
            {
                Ok(_) => {
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
                    tracing::warn!(%slot, why, "an instance ended during the takeover");
                    reality.running[slot.index()] = None;
                }
            }
        }
        self.executor.instances.forget(stored);
        // This event must come first: until it is on disk, the sealed head must show which records are lost.
        let configured = Event::Configured { policy: policy(&self.executor.tools.config) };
        vec![Event::Held(Box::new(reality)), configured]
    }

    fn end_stray(&mut self, entry: &Entry, stored: &mut StoredFds) {
        self.executor.with(slot_of(&entry.id), "", |instances, context| instances.end_stray(context, entry, stored));
    }

    /// The instance that the journal or the table names for a slot, and its version.
    fn owner<'a>(&self, slot: Slot, recorded: &'a [Entry]) -> Option<(&'a Entry, String)> {
        let state = self.core.slot(slot);
        let store_path = state.version.as_ref()?.store_path.clone();
        let entry = match &state.instance {
            Some(instance) => recorded.iter().find(|entry| entry.id == instance.id),
            // The instance was started, but its record could not be written before the crash. Other instances of the
            // slot are older. It is ready without a record of its start in the journals of earlier versions of rei.
            None if matches!(state.run, RunState::Starting | RunState::Ready) => {
                let started = recorded.iter().filter(|entry| seq(&entry.id, slot).is_some());
                started.max_by_key(|entry| seq(&entry.id, slot))
            }
            None => None,
        };
        Some((entry?, store_path))
    }

    fn adopt(
        &mut self,
        slot: Slot,
        entry: &Entry,
        store_path: String,
        stored: &mut StoredFds,
    ) -> Option<(Running, Instance)> {
        let run = self.core.slot(slot).run;
        let ready = run == RunState::Ready || run == RunState::Stopping;
        match self.executor.with(slot, &store_path, |instances, context| instances.adopt(context, entry, stored, ready))
        {
            Ok(instance) => {
                let name = &self.executor.tools.config.runtime.name;
                let runtime = runtime_ref(self.core, name, slot, &entry.id);
                self.executor.monitors.begin(slot, &store_path, runtime, self.at, self.core.incidents());
                Some((Running { store_path, ready }, instance))
            }
            Err(AdoptError { why, log }) => {
                tracing::warn!(%slot, why, "an instance did not outlive the supervisor");
                if let Some(log) = log.filter(|_| matches!(run, RunState::Ready | RunState::Starting)) {
                    self.report_last_output(slot, entry, store_path, log);
                }
                None
            }
        }
    }

    /// An instance ended while no supervisor ran, so its exit status is lost. Its last output is a signal all the same.
    fn report_last_output(&self, slot: Slot, entry: &Entry, store_path: String, log: Arc<Log>) {
        let (inputs, id, logger) =
            (self.executor.inputs.clone(), entry.id.clone(), self.executor.instances.logger.clone());
        let ran_ms = entry.start_ticks.map_or(0, |start| crate::process::age(start).as_millis());
        let ran_ms = u64::try_from(ran_ms).unwrap_or(u64::MAX);
        let secrets = self.executor.tools.secrets.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            while !log.is_finished() && asked.elapsed() < LAST_OUTPUT_MAX {
                tokio::time::sleep(LAST_OUTPUT_PAUSE).await;
            }
            let output = log.recent();
            logger.forget(&id);
            let read = tokio::task::spawn_blocking(move || diagnosis::exit(None, None, ran_ms, &output, &secrets));
            if let Ok(exit) = read.await {
                let event = InstanceEvent::Crashed { store_path, exit };
                // The send fails only when the supervisor stops.
                let _ = inputs.send(Input::Instance { slot, id, event }).await;
            }
        });
    }
}

/// The number of the record that started the instance with this id in `slot`. `None` if the instance belongs to another
/// slot, or only drained a queue.
fn seq(id: &str, slot: Slot) -> Option<u64> {
    Named::parse(id).filter(|named| named.slot == slot && !named.drains).map(|named| named.seq)
}
