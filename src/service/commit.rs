//! Writes a decision to disk, and at the same time prepares the instance that the decision starts.

use std::panic::resume_unwind;

use tokio::runtime::Handle;

use super::executor::{Executor, Started};
use super::instances::types::SpawnContext;
use super::ledger::Ledger;
use crate::history::entry::Entry;
use crate::interface::types::Version;
use crate::journal;
use crate::lifecycle::{Effect, Slot};
use crate::runtime::spawn::Gate;
use crate::time::Timestamp;

/// Writes a record to disk. If the first effect starts an instance, another thread prepares the instance at the same
/// time. The instance waits at its gate: no instruction of its program runs before the record is on disk. If the record
/// cannot be written, the program never runs. Returns the record's number, and the instance.
///
/// # Errors
/// When the journal cannot be written.
pub fn record(
    ledger: &mut Ledger,
    executor: &mut Executor,
    at: Timestamp,
    entry: &Entry,
) -> Result<(u64, Option<Started>), journal::Error> {
    // While the journal cannot be written, each try would create a process that never runs its program.
    let Some((slot, version)) = starts_first(&entry.effects).filter(|_| ledger.stalled().is_none()) else {
        return Ok((ledger.append(at, entry)?, None));
    };
    let (gate, runtime) = (Gate::default(), Handle::current());
    let id = executor.tools.paths.instance_id(ledger.last_seq() + 1, slot);
    let Executor { instances, tools, listeners, store, inputs, .. } = executor;
    let context = SpawnContext {
        slot,
        store_path: &version.store_path,
        tools,
        traffic: &listeners.traffic,
        store: &store.shared,
        inputs,
    };
    std::thread::scope(|scope| {
        // This thread waits for the disk, so the processor is free. If the kernel gives no other thread, the instance
        // is started after the write.
        let starter = std::thread::Builder::new().spawn_scoped(scope, || {
            let _events = runtime.enter();
            instances.start(&context, id, Some(&gate))
        });
        let appended = ledger.append(at, entry);
        gate.decide(appended.is_ok());
        let started = starter.ok().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok((appended?, started))
    })
}

/// The instance that effects start before they do anything else.
fn starts_first(effects: &[Effect]) -> Option<(Slot, &Version)> {
    // These effects need no work outside the supervisor: a timer is set at once, and a maintenance record is in the
    // journal.
    let is_done =
        |effect: &&Effect| matches!(effect, Effect::SetTimer { .. } | Effect::ClearTimer { .. } | Effect::Record(_));
    match effects.iter().find(|effect| !is_done(effect))? {
        Effect::Start { slot, version, .. } => Some((*slot, version)),
        _ => None,
    }
}
