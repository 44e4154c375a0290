//! `io.openexec.Supervisor`: the operator's authority, as a trait and as a service on `control.sock`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::access::Access;
use super::answer::{Interface, ReplyTo};
use super::queue::{CallQueue, Queued, Reply};
use super::server;
use super::socket::Socket;
use super::table::{queue, service};
use super::types::EvolutionId;
use super::wire::WireError;

pub use super::views::{
    BudgetStatus, ErrorStatus, EvolutionStatus, GoldenQualified, GoldenRecording, HistoryEntry, InstanceState,
    InstanceStatus, ListenStatus, MonitorEvent, Phase, QuarantineEntry, RouteStatus, ShowKind, ShowReply, StateStatus,
    Status, SupervisorStatus, TrafficStatus, Trust, VersionStatus,
};

/// The name of the interface.
pub const NAME: &str = "io.openexec.Supervisor";

/// The interface definition file.
pub const DEFINITION: &str = include_str!("../../interface/io.openexec.Supervisor.varlink");

/// Entries of `History` when the caller names no limit.
pub const HISTORY_LIMIT: u64 = 20;
/// The most entries of `History`: they have to fit one message.
pub const HISTORY_LIMIT_MAX: u64 = 500;

/// Events that a reader of `Monitor` may be behind before it is dropped: a burst of build progress, a few hundred bytes
/// each. The owner makes `broadcast::channel(EVENTS_BEHIND_MAX)`; events wait nowhere else.
pub const EVENTS_BEHIND_MAX: usize = 256;

/// The errors of the interface.
#[derive(Clone, Debug, PartialEq, Eq, zlink::ReplyError, zlink::introspect::ReplyError)]
#[zlink(interface = "io.openexec.Supervisor")]
pub enum OperationsError {
    /// The caller may not call: another user, or a process of an instance.
    NotAllowed {
        /// Why, for a person.
        reason: String,
    },
    /// There is nothing with this id.
    NotFound {
        /// As it was asked for.
        id: String,
    },
    /// Not in this phase.
    WrongPhase {
        /// The phase.
        phase: Phase,
        /// What would help, for a person.
        hint: String,
    },
    /// An input is impossible.
    Invalid {
        /// Which one.
        field: String,
        /// Why, for a person.
        reason: String,
    },
    /// The supervisor cannot answer now.
    Busy {
        /// Why, for a person.
        reason: String,
    },
    /// The reader of a stream was too slow and is dropped.
    Lagged {
        /// How many events it missed.
        missed: u64,
    },
    /// The reply would be larger than a message may be.
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
}

// Not `thiserror`: the derive of the wire format copies every attribute of a variant, and does not know `#[error]`.
impl std::fmt::Display for OperationsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAllowed { reason } => write!(f, "not allowed: {reason}"),
            Self::NotFound { id } => write!(f, "there is no {id}"),
            Self::WrongPhase { phase, .. } => write!(f, "not in phase {phase}"),
            Self::Invalid { field, reason } => write!(f, "{field} is invalid: {reason}"),
            Self::Busy { reason } => write!(f, "the supervisor is busy: {reason}"),
            Self::Lagged { missed } => write!(f, "{missed} events were missed"),
            Self::TooLarge { limit_bytes } => write!(f, "the reply is larger than {limit_bytes} bytes"),
        }
    }
}

impl std::error::Error for OperationsError {}

impl OperationsError {
    /// The next step of an operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAllowed { .. } => {
                Some("call as the user who runs the supervisor, one of the group `state.operators`, or root".into())
            }
            Self::NotFound { .. } => Some("`rei history` lists the ids".into()),
            Self::WrongPhase { hint, .. } => Some(hint.clone()),
            Self::TooLarge { .. } => Some("ask for less: `rei history --limit 20`".into()),
            Self::Busy { .. } => Some("`rei status` says when it is over".into()),
            Self::Invalid { .. } | Self::Lagged { .. } => None,
        }
    }
}

/// The bound of an answer from memory, or after one write to the journal. The supervisor's loop never works longer than
/// milliseconds at a time.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The bound of an answer that is read from the journal. A hundred thousand records take seconds, and readers queue.
pub(super) const RECALL: Duration = Duration::from_secs(120);

/// The bound of a replay of a golden run on Active: four passes of two starts each, which `validation.timeout` bounds.
pub(super) const QUALIFY: Duration = Duration::from_secs(3_600);

/// The methods, each once: the service, its handler, the client and the definition file are made from this table.
macro_rules! operations {
    ($emit:ident) => { $emit! {
        /// What an operator can see and do. Every act is recorded with the caller's name before it is done.
        ///
        /// A dropped future means that the caller has gone; what it asked for is still done if it was begun. Any
        /// function may fail with [`OperationsError::Busy`] while the supervisor starts or ends.
        "io.openexec.Supervisor", Operations, OperationsHandler, OperationsError, within ANSWER;

        /// The whole state in one view.
        Status() -> StatusReply(status: crate::interface::operations::Status)
            = anyone status;

        /// Everything that happens from now on, one event a reply. Needs `more`. A reader that falls behind by more than
        /// 256 events gets Lagged; one that does not read for 5 seconds is dropped. There are 16 streams at most: the next one
        /// ends the oldest, which gets Busy.
        Monitor() -> MonitorReply(event: MonitorEvent)
            = stream monitor;

        /// Asks for an evolution: to the git revision `rev` (default: that of the followed ref), by `blueprint` (default:
        /// the configured one). Returns the evolution that goes there already, if there is one. Errors: WrongPhase, Invalid.
        Evolve(rev: Option<String>, blueprint: Option<String>) -> EvolveReply(evolution_id: EvolutionId)
            = operator evolve;

        /// Approves what waits for an operator; `id` is an evolution or its candidate. Errors: NotFound, WrongPhase.
        Approve(id: String) -> ApproveReply(evolution_id: EvolutionId)
            = operator approve;

        /// Rejects: ends the evolution and quarantines its candidate, or closes the incident `id`; `evolution_id` is empty
        /// then. Errors: NotFound, WrongPhase.
        Reject(id: String, reason: String) -> RejectReply(evolution_id: EvolutionId)
            = operator reject;

        /// Restores Previous, or the version of the profile generation `to_generation`, at once. Returns the generation that
        /// is current then. Errors: NotFound, WrongPhase.
        Rollback(to_generation: Option<u64>) -> RollbackReply(generation: u64)
            = operator rollback;

        /// The last evolutions and maintenance acts, newest first; `limit` is 20 by default and at most 500.
        History(limit: Option<u64> => u64 = crate::interface::operations::history_limit) -> HistoryReply(entries: Vec<HistoryEntry>)
            = anyone history within RECALL;

        /// One object by its id, with its evidence. Errors: NotFound.
        Show(id: String) -> ShowReply(shown: crate::interface::operations::ShowReply)
            = anyone show within RECALL;

        /// The requests of users that Active served in the last minute, with all its routes, one entry for each source.
        Routes() -> RoutesReply(traffic: Vec<TrafficStatus>)
            = anyone routes;

        /// Replays the golden run `name` twice on fresh instances of Active in a sandbox, and writes a run of what Active
        /// repeats beside the journal. Errors: NotFound, Invalid, WrongPhase, Busy.
        QualifyGolden(name: String) -> QualifyGoldenReply(qualified: GoldenQualified)
            = operator qualify_golden within QUALIFY;

        /// Begins to record a golden run from live traffic: a sample of at most `limit` exchanges of a listener, for at most
        /// `for_ms`. Without `listener` it is the first one that has a tap. Errors: Invalid, Busy, WrongPhase.
        RecordGolden(name: String, listener: Option<String>, for_ms: u64, limit: u64)
            -> RecordGoldenReply(recording: GoldenRecording)
            = operator record_golden;

        /// Ends the recording `name` now, and writes its run. Errors: NotFound, Busy.
        EndRecording(name: String) -> EndRecordingReply(recording: GoldenRecording)
            = operator end_recording within RECALL;

        /// Starts no evolution until Resume. The runtime is kept alive all the same.
        Pause() -> PauseReply()
            = operator pause;

        /// Ends a pause.
        Resume() -> ResumeReply()
            = operator resume;

        /// The candidates that are never built, judged or promoted again, newest first.
        Quarantine() -> QuarantineReply(entries: Vec<QuarantineEntry>)
            = anyone quarantine;

        /// Releases a candidate from quarantine; `id` is its id, git tree or store path. Errors: NotFound.
        LiftQuarantine(id: String) -> LiftQuarantineReply()
            = operator lift_quarantine;

        /// Decides what is Active if the journal is behind reality (phase held): what serves, or what the journal has, which
        /// is then restored. Returns the generation of what serves now, 0 if nothing does. Errors: WrongPhase.
        Settle(trust: crate::interface::operations::Trust, reason: Option<String>) -> SettleReply(generation: u64)
            = operator settle;

        /// Replaces the supervisor's own program in place; the runtime and its sockets stay. Errors: WrongPhase.
        Reexec() -> ReexecReply()
            = operator reexec;

        /// Ends the runtime, then the supervisor.
        Stop() -> StopReply()
            = operator stop;
    } };
}
pub(super) use operations;

/// Inputs and replies of the methods.
pub mod call {
    use super::super::method::methods;
    use super::{GoldenQualified, GoldenRecording, HistoryEntry, MonitorEvent, QuarantineEntry, TrafficStatus};
    use crate::interface::types::EvolutionId;

    super::operations!(methods);
}

operations!(service);
operations!(queue);

/// The number of entries that `History` returns: the requested number or the default, and never more than fit into a
/// message.
fn history_limit(asked: Option<u64>) -> u64 {
    asked.unwrap_or(HISTORY_LIMIT).min(HISTORY_LIMIT_MAX)
}

/// The types that the interface's definition names, in its order.
#[cfg(test)]
pub(super) fn definition() -> zlink::idl::Interface<'static> {
    use super::types::*;
    let types = super::idl::types![
        Phase,
        Role,
        Version,
        RuntimeRef,
        HealthStatus,
        LatencySummary,
        ErrorCount,
        ProcessUsage,
        HealthCheck,
        PolicyAnomaly,
        RuntimeHealthReport,
        IncidentClass,
        Severity,
        Evidence,
        RuntimeIncident,
        InstanceState,
        InstanceStatus,
        VersionStatus,
        TrafficStatus,
        RouteStatus,
        ErrorStatus,
        GoldenQualified,
        GoldenRecording,
        EvolutionStatus,
        BudgetStatus,
        ListenStatus,
        StateStatus,
        SupervisorStatus,
        Status,
        MaintenanceAction,
        HistoryEntry,
        ShowKind,
        ShowReply,
        MonitorEvent,
        QuarantineEntry,
        Trust,
    ];
    super::idl::interface(
        NAME,
        &[
            "The operator's interface of rei, the OpenExec supervisor, on its `control.sock`.",
            "",
            "Promotion lives here and not in io.openexec.RuntimeEvolution. Callers are checked by their user and by their descent:",
            "a process of an instance gets NotAllowed, whatever its user is.",
            "",
            "Messages are at most 1 MiB in both directions. Units are in the names: `_ms` milliseconds, `_us` microseconds,",
            "`_bytes` bytes. Times are RFC 3339 in UTC. A field that may be null may be left out.",
        ],
        call::methods(),
        types,
        <OperationsError as zlink::introspect::ReplyError>::VARIANTS,
    )
}

struct Service<T>(Arc<T>);

impl<T> Interface for Service<T> {
    const NAME: &'static str = NAME;
    const DEFINITION: &'static str = DEFINITION;
    type Error = OperationsError;

    fn not_allowed(reason: String) -> OperationsError {
        OperationsError::NotAllowed { reason }
    }

    fn busy(reason: String) -> OperationsError {
        OperationsError::Busy { reason }
    }

    fn too_large(limit_bytes: u64) -> OperationsError {
        OperationsError::TooLarge { limit_bytes }
    }
}

impl<T: Operations> Service<T> {
    async fn monitor(&self, _: call::Monitor, to: &mut ReplyTo) -> Result<(), WireError> {
        if !to.more() {
            return to.error(&zlink::varlink_service::Error::ExpectedMore).await;
        }
        let mut events = match self.0.monitor().await {
            Ok(events) => events,
            Err(error) => return to.error(&error).await,
        };
        loop {
            match events.recv().await {
                Ok(event) => to.next::<Self, call::Monitor>(&call::MonitorReply { event }).await?,
                Err(RecvError::Lagged(missed)) => return to.error(&OperationsError::Lagged { missed }).await,
                Err(RecvError::Closed) => {
                    let reason = "the supervisor ends".into();
                    return to.error(&OperationsError::Busy { reason }).await;
                }
            }
        }
    }
}

/// Serves operators until the future is dropped; dropping ends all connections.
pub async fn serve_operations<T: Operations>(socket: Socket, operations: Arc<T>, access: Access) {
    server::serve(socket, Arc::new(Service(operations)), access).await;
}
