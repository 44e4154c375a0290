//! Types about an instance that the modules of the service share: what to start in which slot, how to end it, and its
//! readiness. Also the conversions from the lifecycle's slot and routing to the runtime's, because neither of these two
//! modules imports the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lifecycle::{self, Slot};
use crate::runtime::logs::Log;
use crate::runtime::traffic::Traffic;
use crate::service::fdstore::SharedStore;
use crate::service::input::Inputs;
use crate::service::tools::Tools;

/// Timeout of a drain: a running instance accepts the waiting connections in milliseconds; handshakes of distant
/// clients take a second or two.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Asks the task of an instance to end it: the stop signal, then SIGKILL after the grace.
#[derive(Clone, Copy, Debug)]
pub struct StopCommand {
    /// True to wait first until the queue of its slot is empty.
    pub drain: bool,
}

/// Which version to start in which slot, and what is needed for that.
pub struct SpawnContext<'a> {
    /// The slot.
    pub slot: Slot,
    /// The store path.
    pub store_path: &'a str,
    /// The shared tools of the service.
    pub tools: &'a Arc<Tools>,
    /// The listening sockets.
    pub traffic: &'a Arc<Mutex<Traffic>>,
    /// The descriptor store, which outlives the supervisor.
    pub store: &'a SharedStore,
    /// The inputs of the event loop, for the events of the instance.
    pub inputs: &'a Inputs,
}

/// What the supervisor knows about the readiness of an instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    /// True if the lifecycle knows that it is ready.
    pub ready: bool,
    /// True if the instance itself has reported that it is ready.
    pub notified: bool,
}

/// Why an instance cannot be adopted.
pub struct AdoptError {
    /// The reason, in one line for a person.
    pub why: String,
    /// The log with its last output, if it can be read.
    pub log: Option<Arc<Log>>,
}

impl From<Slot> for crate::runtime::traffic::Slot {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::A => Self::A,
            Slot::B => Self::B,
        }
    }
}

impl From<lifecycle::Routing> for crate::runtime::traffic::Routing {
    fn from(routing: lifecycle::Routing) -> Self {
        let main = routing.main.into();
        match routing.other_ppm {
            0 => Self::All(main),
            ppm => {
                Self::Share { to: routing.main.other().into(), share: f64::from(ppm) / f64::from(lifecycle::WHOLE_PPM) }
            }
        }
    }
}
