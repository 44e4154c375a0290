//! The end: of the supervisor alone, or of the runtime as well.

use std::time::{Duration, Instant};

use super::input::{Input, News};
use super::shell::Shell;
use super::sync::lock;
use crate::lifecycle::{self, Slot};
use crate::report::chain;

/// The bound of the end of everything, beyond the instances' own.
const END_GRACE: Duration = Duration::from_secs(10);

impl Shell {
    /// Ends without the runtime: it serves on, and the next supervisor takes it over as after a crash.
    pub(super) async fn leave(&mut self) {
        self.signals.notify("STOPPING=1\nSTATUS=the runtime serves on");
        self.end_work().await;
    }

    /// Ends the runtime: instances are asked to finish, the files of unix sockets are removed, and the store lets go of the
    /// listeners (the keeper ends, systemd is told to close them). The last copies are this process's own and end with it.
    pub(super) async fn end_all(&mut self) {
        self.signals.notify("STOPPING=1");
        for (_, handle) in self.working.drain(..) {
            handle.abort();
        }
        let mut until = Instant::now() + self.tools.config.runtime.stop_timeout + END_GRACE;
        let last = until + Duration::from_millis(lifecycle::EXTENDED_MS_MAX);
        for slot in Slot::ALL {
            self.occupants.stop(slot, false);
        }
        let mut in_time = true;
        while !self.occupants.is_empty() && in_time {
            let Ok(input) = tokio::time::timeout_at(until.into(), self.received.recv()).await else {
                in_time = false;
                continue;
            };
            let Some(Input::Instance { slot, id, news }) = input else { continue };
            match news {
                News::Extends(by) => {
                    until = until.max(Instant::now() + by + END_GRACE).min(last);
                    // The service manager has a bound as well.
                    self.signals.notify(&format!("EXTEND_TIMEOUT_USEC={}", (by + END_GRACE).as_micros()));
                }
                News::Stopped | News::Exited(..)
                    if !self.occupants.dismiss(&id) && self.occupants.id(slot) == Some(&*id) =>
                {
                    self.occupants.remove(slot);
                }
                _ => {}
            }
        }
        match in_time && tokio::time::timeout_at(until.into(), self.occupants.leftovers_gone()).await.is_ok() {
            true => self.occupants.all_ended(),
            false => tracing::error!("instances did not end in time"),
        }
        self.snapshot();
        lock(&self.traffic).unlink();
        if let Err(error) = lock(&self.store).finish() {
            tracing::warn!(error = chain(&error), "the keeper did not end");
        }
    }
}
