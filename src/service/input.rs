//! What the supervisor's loop can be told.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::health::Signal;
use crate::interface::evolution::EvolutionError;
use crate::interface::operations::{HistoryEntry, OperationsError, QuarantineEntry, ShowReply, Status};
use crate::interface::types::{CandidateRuntime, EvolutionContext, IncidentId, RuntimeHealthReport, ValidationReport};
use crate::lifecycle::{Caller, Event, Request, Slot};
use crate::runtime::exit::Exit;
use crate::runtime::keeper::{Keeper, StoreError};
use crate::runtime::logs::{LogError, Logger};

/// Inputs that may wait: a probe result each 50 ms for a minute, with room. A full queue makes senders wait.
pub const INPUTS_MAX: usize = 1024;

/// One input.
#[derive(Debug)]
pub enum Input {
    /// A slow effect has its answer.
    Event(Event),
    /// Something about the instance of a slot; stale when the slot has another instance by now.
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
        /// Builds or checks that are done, and all of them, where known.
        done: Option<(u64, u64)>,
    },
    /// Somebody on a socket wants something.
    Call(Call),
    /// A keeper in place of one that had ended, or why there is none.
    Keeper(Result<Keeper, StoreError>),
    /// A logger in place of one that had ended, or why there is none.
    Logger(Result<Logger, LogError>),
    /// A process of an instance called the control socket.
    Intruder(String),
}

/// What can be told of an instance.
#[derive(Debug)]
pub enum InstanceEvent {
    /// Health.
    Signal(Signal),
    /// It does not serve yet: what the probe said.
    NotYet(String),
    /// It serves.
    Ready,
    /// It asks for so much more time to become ready or to end, from now on.
    Extends(Duration),
    /// Its main process ended without being asked, after so many milliseconds.
    Exited(Exit, u64),
    /// It ended as it was asked, with all its processes.
    Stopped,
    /// How it had ended, once its last words were read. The slot may have another instance by now.
    Crashed {
        /// The version that crashed.
        store_path: String,
        /// How.
        exit: crate::health::Exit,
    },
}

/// What the sockets ask. The answer goes back by the channel; a caller who is gone is no matter.
#[derive(Debug)]
pub enum Call {
    /// The whole state.
    Status(oneshot::Sender<Status>),
    /// The operator's authority.
    Operator {
        /// Who.
        who: Caller,
        /// What.
        request: Request,
        /// The evolution that it began or was about, and the profile generation that is current.
        reply: oneshot::Sender<Result<(String, u64), OperationsError>>,
    },
    /// The last entries.
    History(u64, oneshot::Sender<Result<Vec<HistoryEntry>, OperationsError>>),
    /// One object.
    Show(String, oneshot::Sender<Result<ShowReply, OperationsError>>),
    /// What is in quarantine.
    Quarantine(oneshot::Sender<Vec<QuarantineEntry>>),
    /// End the runtime, then the supervisor.
    Stop,
    /// Replace the program.
    Reexec(oneshot::Sender<Result<(), OperationsError>>),
    /// `ReportRuntimeHealth`.
    Health(oneshot::Sender<Result<RuntimeHealthReport, EvolutionError>>),
    /// `CollectEvolutionContext`.
    Context(IncidentId, oneshot::Sender<Result<EvolutionContext, EvolutionError>>),
    /// `BuildCandidateRuntime`.
    Build(Box<EvolutionContext>, oneshot::Sender<Result<CandidateRuntime, EvolutionError>>),
    /// `ValidateCandidate`.
    Validate(Box<CandidateRuntime>, oneshot::Sender<Result<ValidationReport, EvolutionError>>),
}

/// Where inputs are sent.
pub type Inputs = mpsc::Sender<Input>;
