//! The inputs of the supervisor's loop.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::golden::Captured;
use crate::health::Signal;
use crate::interface::evolution::EvolutionHandler;
use crate::interface::operations::OperationsHandler;
use crate::interface::queue::Queued;
use crate::lifecycle::{Event, Slot};
use crate::live::Source;
use crate::runtime::exit::Exit;
use crate::runtime::keeper::{Keeper, StoreError};
use crate::runtime::logs::{LogError, Logger};
use crate::runtime::traffic;
use crate::tap::{Report, TapLink};

/// The bound of inputs in the queue. Probe results at one each 50 ms fill it in 51 s. If the queue is full, senders
/// wait.
pub const INPUTS_MAX: usize = 1024;

/// One input.
#[derive(Debug)]
pub enum Input {
    /// A slow effect has its answer.
    Event(Event),
    /// An event of the instance in a slot. It is stale if the slot has another instance in the meantime.
    Instance {
        /// The slot.
        slot: Slot,
        /// The instance.
        id: String,
        /// What happened.
        event: InstanceEvent,
    },
    /// Progress of a build or check, for people.
    Progress {
        /// One line.
        text: String,
        /// The number of builds or checks that are done, and of all of them, if known.
        done: Option<(u64, u64)>,
    },
    /// A call on `control.sock`.
    Operation(Queued<dyn OperationsHandler>),
    /// A call on `rei.sock`.
    Evolution(Queued<dyn EvolutionHandler>),
    /// A keeper in place of one that has ended, or why none was started.
    Keeper(Result<Keeper, StoreError>),
    /// A logger in place of one that has ended, or why none was started.
    Logger(Result<Logger, LogError>),
    /// The tap was started, has ended, or has a report.
    Tap(TapNews),
    /// A recording was written.
    Recorded(Written),
    /// A process of an instance called the control socket.
    Intruder(String),
}

/// What happened to a tap. A tap that was replaced in the meantime has another number.
#[derive(Debug)]
pub enum TapNews {
    /// A tap was started, or could not be started.
    Started(std::io::Result<TapLink>),
    /// It sent a report.
    Report(u64, Box<Report>),
    /// It copied an exchange of the instance in a slot, which is plain now; `None` if a body of it cannot be decoded.
    Captured {
        /// The number of the tap.
        tap: u64,
        /// The slot.
        slot: traffic::Slot,
        /// The exchange.
        exchange: Option<Box<Captured>>,
        /// Its place among those that wait.
        place: OwnedSemaphorePermit,
    },
    /// It has ended.
    Ended(u64),
}

/// The result of a write.
#[derive(Debug)]
pub struct Written {
    /// The name of the run.
    pub name: String,
    /// The end of the recording.
    pub is_last: bool,
    /// Its exchanges, those that could not be redacted, and when; or why there is no file.
    pub result: Result<(u64, u64), String>,
}

/// An event of an instance.
#[derive(Debug)]
pub enum InstanceEvent {
    /// A signal about its health.
    Signal(Signal),
    /// What a source of users' requests found of them, and what not: one line for a person.
    Found(Source, String),
    /// It does not serve yet: the text of the probe.
    NotYet(String),
    /// It serves.
    Ready,
    /// It asks for this much time, from now on, to become ready or to end.
    Extends(Duration),
    /// Its main process ended although rei did not ask for it, after this many milliseconds.
    Exited(Exit, u64),
    /// It ended because rei asked it to, with all its processes.
    Stopped,
    /// How it had ended, after its last output was read. The slot may have another instance in the meantime.
    Crashed {
        /// The version that crashed.
        store_path: String,
        /// How it ended.
        exit: crate::health::Exit,
    },
}

impl From<Queued<dyn OperationsHandler>> for Input {
    fn from(call: Queued<dyn OperationsHandler>) -> Self {
        Self::Operation(call)
    }
}

impl From<Queued<dyn EvolutionHandler>> for Input {
    fn from(call: Queued<dyn EvolutionHandler>) -> Self {
        Self::Evolution(call)
    }
}

/// Where inputs are sent.
pub type Inputs = mpsc::Sender<Input>;
