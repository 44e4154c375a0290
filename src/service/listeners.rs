//! The listening sockets of the service: they route new connections, and an alarm reports each process that changes
//! them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fdstore::SharedStore;
use super::sync::lock;
use crate::lifecycle::{Routing, Slot};
use crate::report::chain;
use crate::runtime::traffic::{Alarm, Tampering, Traffic};

/// The pause after an alarm, during which the next one is not read.
const ALARM_PAUSE: Duration = Duration::from_millis(20);

/// The listening sockets, and the alarm that watches them.
pub struct Listeners {
    /// The sockets; instances and their probes use them as well.
    pub traffic: Arc<Mutex<Traffic>>,
    alarm: Alarm,
    /// The end of the pause in which no alarm is read.
    quiet_until: Option<Instant>,
}

impl Listeners {
    /// Watches open sockets.
    ///
    /// # Errors
    /// When the kernel refuses to watch them.
    pub fn new(traffic: Arc<Mutex<Traffic>>) -> std::io::Result<Self> {
        let alarm = lock(&traffic).alarm()?;
        Ok(Self { traffic, alarm, quiet_until: None })
    }

    /// Changes the routing of new connections.
    ///
    /// # Errors
    /// When the kernel refuses. The reason has one line.
    pub fn route(&self, routing: Routing) -> Result<(), String> {
        let routed = lock(&self.traffic).route(routing.into()).map_err(|error| chain(&error))?;
        for name in routed.unshared {
            tracing::info!(
                name,
                "a unix socket cannot split its connections: Active gets all of them until the switch"
            );
        }
        Ok(())
    }

    /// Whether connections wait in the queue of a slot.
    pub fn are_waiting(&self, slot: Slot) -> bool {
        lock(&self.traffic).backlog(slot.into()).unwrap_or_default() > 0
    }

    /// Waits until a process changes a socket. May be cancelled.
    pub async fn tampering(&mut self) -> std::io::Result<Tampering> {
        if let Some(until) = self.quiet_until {
            tokio::time::sleep_until(until.into()).await;
            self.quiet_until = None;
        }
        self.alarm.next().await
    }

    /// Repairs the sockets after a process changed one, and returns a description of the change.
    pub fn repair(&mut self, tampering: std::io::Result<Tampering>, store: &SharedStore) -> String {
        let detail = match tampering {
            Ok(tampering) => format!("{tampering:?}"),
            Err(error) => format!("the alarm failed: {error}"),
        };
        // A process that changes sockets all the time, or a socket that cannot be repaired, must not keep the loop
        // busy.
        self.quiet_until = Some(Instant::now() + ALARM_PAUSE);
        tracing::error!("a process tampered with a listener, which is repaired now: {detail}");
        let repaired = lock(&self.traffic).repair(&mut **lock(store));
        if let Err(error) = repaired {
            tracing::error!(error = chain(&error), "a listener could not be repaired");
        }
        self.watch();
        detail
    }

    /// Watches the present sockets. The close of a replaced socket would raise an alarm.
    pub fn watch(&mut self) {
        let traffic = lock(&self.traffic);
        if traffic.alarm_is_stale(&self.alarm) {
            match traffic.alarm() {
                Ok(alarm) => self.alarm = alarm,
                Err(error) => tracing::error!(%error, "the present listeners cannot be watched"),
            }
        }
    }

    /// Gives all sockets to a new store.
    pub fn store_all(&self, store: &SharedStore) {
        if let Err(error) = lock(&self.traffic).store_all(&mut **lock(store)) {
            tracing::error!(error = chain(&error), "the keeper does not have all listeners");
        }
    }
}
