//! What the parts of the supervisor say to each other about an instance: what is to run where, how it is to end, what it
//! has said; and the slot of the lifecycle as the runtime has it, for neither of those rooms knows the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lifecycle::{self, Slot};
use crate::runtime::logs::Log;
use crate::runtime::traffic::Traffic;
use crate::service::fdstore::SharedStore;
use crate::service::input::Inputs;
use crate::service::tools::Tools;

/// Bound of a drain: what waits in a queue is accepted in milliseconds by a live instance; handshakes of distant
/// clients take a second or two.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Asks the task of an instance to end it: the stop signal, then SIGKILL after the grace.
#[derive(Clone, Copy, Debug)]
pub struct StopCommand {
    /// Whether to wait first until the queue of its slot is empty.
    pub drain: bool,
}

/// What is to run where.
pub struct SpawnContext<'a> {
    /// The slot.
    pub slot: Slot,
    /// The store path.
    pub store_path: &'a str,
    /// What the supervisor's parts are.
    pub tools: &'a Arc<Tools>,
    /// The listening sockets.
    pub traffic: &'a Arc<Mutex<Traffic>>,
    /// Where descriptors outlive the supervisor.
    pub store: &'a SharedStore,
    /// Where news go.
    pub inputs: &'a Inputs,
}

/// What is known of the readiness of an instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    /// The lifecycle knows that it is ready.
    pub ready: bool,
    /// It has said so itself.
    pub notified: bool,
}

/// Why an instance cannot be taken over.
pub struct AdoptError {
    /// For a person.
    pub why: String,
    /// What is read of its last words.
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
