//! Ends a service: asks its instances to end, and closes its listeners.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::executor::Executor;
use super::input::{Input, InstanceEvent};
use super::sync::lock;
use crate::lifecycle::{self, Slot};
use crate::report::chain;

/// Added to the stop timeout of the instances, to bound the whole shutdown.
const END_GRACE: Duration = Duration::from_secs(10);

/// Asks all instances to end, and waits until they have ended. If an instance asks for more time, `extended` is called
/// with that time.
pub async fn end_all(executor: &mut Executor, received: &mut mpsc::Receiver<Input>, extended: impl Fn(Duration)) {
    let mut until = Instant::now() + executor.tools.config.runtime.stop_timeout + END_GRACE;
    let last = until + Duration::from_millis(lifecycle::EXTENDED_MS_MAX);
    let instances = &mut executor.instances;
    for slot in Slot::ALL {
        instances.stop(slot, false);
    }
    let mut in_time = true;
    while !instances.is_empty() && in_time {
        let Ok(input) = tokio::time::timeout_at(until.into(), received.recv()).await else {
            in_time = false;
            continue;
        };
        let Some(Input::Instance { slot, id, event }) = input else { continue };
        match event {
            InstanceEvent::Extends(by) => {
                until = until.max(Instant::now() + by + END_GRACE).min(last);
                extended(by + END_GRACE);
            }
            InstanceEvent::Stopped | InstanceEvent::Exited(..)
                if !instances.dismiss(&id) && instances.id(slot) == Some(&*id) =>
            {
                instances.remove(slot);
            }
            _ => {}
        }
    }
    match in_time && tokio::time::timeout_at(until.into(), instances.leftovers_gone()).await.is_ok() {
        true => instances.all_ended(),
        false => tracing::error!("instances did not end in time"),
    }
}

/// Removes the files of unix sockets, ends the tap, and makes the store release the listeners: the keeper ends, or systemd is asked
/// to close them. The last copies belong to this process and are closed when it ends.
pub fn close(executor: &Executor) {
    lock(&executor.listeners.traffic).unlink();
    executor.tap.end();
    if let Err(error) = lock(&executor.store.shared).finish() {
        tracing::warn!(error = chain(&error), "the keeper did not end");
    }
}
