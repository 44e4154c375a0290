//! `io.openexec.Supervisor`: the operator's authority, as a trait and as a service on `control.sock`.

use std::future::Future;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::access::{Access, Caller};
use super::answer::{Answer, Interface, ReplyTo};
use super::server;
use super::socket::Socket;
use super::types::EvolutionId;
use super::wire::WireError;

pub use super::views::{
    BudgetStatus, EvolutionStatus, HistoryEntry, InstanceState, InstanceStatus, ListenStatus, MonitorEvent, Phase,
    QuarantineEntry, ShowKind, ShowReply, StateStatus, Status, SupervisorStatus, Trust, VersionStatus,
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
/// each. The owner makes `broadcast::channel(EVENTS_BEHIND_MAX)`, which is the only place where events wait.
pub const EVENTS_BEHIND_MAX: usize = 256;

/// What an operator can see and do. Every act is journalled with the caller's name before it is done.
///
/// A dropped future means that the caller went away; what it asked for is done all the same once it was begun.
pub trait Operations: Send + Sync + 'static {
    /// The whole state in one view.
    ///
    /// # Errors
    /// [`OperationsError::Busy`] while the supervisor starts or ends; so with every other method.
    fn status(&self) -> impl Future<Output = Result<Status, OperationsError>> + Send;

    /// Everything that happens from now on.
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn monitor(&self) -> impl Future<Output = Result<broadcast::Receiver<MonitorEvent>, OperationsError>> + Send;

    /// Asks for an evolution: to `rev`, or to where the followed ref is; by `blueprint`, or by the configured one. Gives
    /// the one that goes there already, if there is one.
    ///
    /// # Errors
    /// [`OperationsError::WrongPhase`], [`OperationsError::Invalid`].
    fn evolve(
        &self,
        caller: &Caller,
        rev: Option<String>,
        blueprint: Option<String>,
    ) -> impl Future<Output = Result<EvolutionId, OperationsError>> + Send;

    /// Says yes to what waits for an operator: an evolution or its candidate.
    ///
    /// # Errors
    /// [`OperationsError::NotFound`], [`OperationsError::WrongPhase`].
    fn approve(&self, caller: &Caller, id: String)
    -> impl Future<Output = Result<EvolutionId, OperationsError>> + Send;

    /// Says no: ends the evolution and quarantines its candidate, or closes an incident, for which the id is empty.
    ///
    /// # Errors
    /// [`OperationsError::NotFound`], [`OperationsError::WrongPhase`].
    fn reject(
        &self,
        caller: &Caller,
        id: String,
        reason: String,
    ) -> impl Future<Output = Result<EvolutionId, OperationsError>> + Send;

    /// Restores the recorded Previous, or the version of one generation, at once; returns the generation now current.
    ///
    /// # Errors
    /// [`OperationsError::NotFound`], [`OperationsError::WrongPhase`].
    fn rollback(
        &self,
        caller: &Caller,
        to_generation: Option<u64>,
    ) -> impl Future<Output = Result<u64, OperationsError>> + Send;

    /// The last `limit` entries, newest first; `limit` is at most [`HISTORY_LIMIT_MAX`].
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn history(&self, limit: u64) -> impl Future<Output = Result<Vec<HistoryEntry>, OperationsError>> + Send;

    /// One object by its id.
    ///
    /// # Errors
    /// [`OperationsError::NotFound`].
    fn show(&self, id: String) -> impl Future<Output = Result<ShowReply, OperationsError>> + Send;

    /// Starts no evolution until [`Operations::resume`]; the runtime is kept alive all the same.
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn pause(&self, caller: &Caller) -> impl Future<Output = Result<(), OperationsError>> + Send;

    /// Ends a pause.
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn resume(&self, caller: &Caller) -> impl Future<Output = Result<(), OperationsError>> + Send;

    /// What is quarantined, newest first.
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn quarantine(&self) -> impl Future<Output = Result<Vec<QuarantineEntry>, OperationsError>> + Send;

    /// Lifts the quarantine of a candidate, tree or store path.
    ///
    /// # Errors
    /// [`OperationsError::NotFound`].
    fn lift_quarantine(&self, caller: &Caller, id: String) -> impl Future<Output = Result<(), OperationsError>> + Send;

    /// Says what is Active, where the journal is behind reality; returns the generation of what serves then, 0 where nothing
    /// does.
    ///
    /// # Errors
    /// [`OperationsError::WrongPhase`].
    fn settle(
        &self,
        caller: &Caller,
        trust: Trust,
        reason: Option<String>,
    ) -> impl Future<Output = Result<u64, OperationsError>> + Send;

    /// Replaces the supervisor's own program in place; children and sockets stay.
    ///
    /// # Errors
    /// [`OperationsError::WrongPhase`].
    fn reexec(&self, caller: &Caller) -> impl Future<Output = Result<(), OperationsError>> + Send;

    /// Ends the runtime and the supervisor.
    ///
    /// # Errors
    /// As [`Operations::status`].
    fn stop(&self, caller: &Caller) -> impl Future<Output = Result<(), OperationsError>> + Send;
}

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
    /// The next step of an operator, where there is one.
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

/// Inputs and replies of the methods.
pub mod call {
    use super::{HistoryEntry, MonitorEvent, QuarantineEntry};
    use crate::interface::types::EvolutionId;

    super::super::method::methods! { "io.openexec.Supervisor";
        /// The whole state in one view.
        Status() -> StatusReply(status: super::Status);

        /// Everything that happens from now on, one event a reply. Needs `more`. A reader that falls behind by more than
        /// 256 events gets Lagged; one that does not read for 5 seconds is dropped. There are 16 streams at most: the next one
        /// ends the oldest, which gets Busy.
        Monitor() -> MonitorReply(event: MonitorEvent);

        /// Asks for an evolution: to the git revision `rev` (default: where the followed ref is), by `blueprint` (default:
        /// the configured one). Gives the one that goes there already, if there is one. Errors: WrongPhase, Invalid.
        Evolve(rev: Option<String>, blueprint: Option<String>) -> EvolveReply(evolution_id: EvolutionId);

        /// Says yes to what waits for an operator; `id` is an evolution or its candidate. Errors: NotFound, WrongPhase.
        Approve(id: String) -> ApproveReply(evolution_id: EvolutionId);

        /// Says no: ends the evolution and quarantines its candidate, or closes the incident `id`; `evolution_id` is empty
        /// then. Errors: NotFound, WrongPhase.
        Reject(id: String, reason: String) -> RejectReply(evolution_id: EvolutionId);

        /// Restores Previous, or the version of the profile generation `to_generation`, at once. Returns the generation that
        /// is current then. Errors: NotFound, WrongPhase.
        Rollback(to_generation: Option<u64>) -> RollbackReply(generation: u64);

        /// The last evolutions and maintenance acts, newest first; `limit` is 20 by default and at most 500.
        History(limit: Option<u64>) -> HistoryReply(entries: Vec<HistoryEntry>);

        /// One object by its id, with its evidence. Errors: NotFound.
        Show(id: String) -> ShowReply(shown: super::ShowReply);

        /// Starts no evolution until Resume. The runtime is kept alive all the same.
        Pause() -> PauseReply();

        /// Ends a pause.
        Resume() -> ResumeReply();

        /// The candidates that are never built, judged or promoted again, newest first.
        Quarantine() -> QuarantineReply(entries: Vec<QuarantineEntry>);

        /// Lifts the quarantine of a candidate, given by its id, git tree or store path. Errors: NotFound.
        LiftQuarantine(id: String) -> LiftQuarantineReply();

        /// Says what is Active, where the journal is behind reality (phase held): what serves, or what the journal says, which
        /// is then restored. Returns the generation of what serves now, 0 where nothing does. Errors: WrongPhase.
        Settle(trust: super::Trust, reason: Option<String>) -> SettleReply(generation: u64);

        /// Replaces the supervisor's own program in place; the runtime and its sockets stay. Errors: WrongPhase.
        Reexec() -> ReexecReply();

        /// Ends the runtime, then the supervisor.
        Stop() -> StopReply();
    }
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
            "a process of an instance gets NotAllowed, whoever it runs as.",
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

impl<T: Operations> Answer for Service<T> {
    async fn answer(&self, who: &Caller, method: &str, parameters: Value, to: &mut ReplyTo) -> Result<(), WireError> {
        use call as c;
        let call = match c::Call::read(method, parameters) {
            Ok(call) => call,
            Err(bad) => return to.bad_call(bad).await,
        };
        let it = &*self.0;
        match call {
            c::Call::Status(_) => {
                let result = it.status().await.map(|status| c::StatusReply { status });
                to.finish::<Self, c::Status>(result).await
            }
            c::Call::Monitor(_) => self.monitor(to).await,
            c::Call::Evolve(call) => {
                let result = it.evolve(who, call.rev, call.blueprint).await;
                let result = result.map(|evolution_id| c::EvolveReply { evolution_id });
                to.finish::<Self, c::Evolve>(result).await
            }
            c::Call::Approve(call) => {
                let result = it.approve(who, call.id).await.map(|evolution_id| c::ApproveReply { evolution_id });
                to.finish::<Self, c::Approve>(result).await
            }
            c::Call::Reject(call) => {
                let result = it.reject(who, call.id, call.reason).await;
                let result = result.map(|evolution_id| c::RejectReply { evolution_id });
                to.finish::<Self, c::Reject>(result).await
            }
            c::Call::Rollback(call) => {
                let result = it.rollback(who, call.to_generation).await;
                let result = result.map(|generation| c::RollbackReply { generation });
                to.finish::<Self, c::Rollback>(result).await
            }
            c::Call::History(call) => {
                let limit = call.limit.unwrap_or(HISTORY_LIMIT).min(HISTORY_LIMIT_MAX);
                let result = it.history(limit).await.map(|entries| c::HistoryReply { entries });
                to.finish::<Self, c::History>(result).await
            }
            c::Call::Show(call) => {
                let result = it.show(call.id).await.map(|shown| c::ShowReply { shown });
                to.finish::<Self, c::Show>(result).await
            }
            c::Call::Pause(_) => to.finish::<Self, c::Pause>(it.pause(who).await.map(|()| c::PauseReply {})).await,
            c::Call::Resume(_) => to.finish::<Self, c::Resume>(it.resume(who).await.map(|()| c::ResumeReply {})).await,
            c::Call::Quarantine(_) => {
                let result = it.quarantine().await.map(|entries| c::QuarantineReply { entries });
                to.finish::<Self, c::Quarantine>(result).await
            }
            c::Call::LiftQuarantine(call) => {
                let result = it.lift_quarantine(who, call.id).await.map(|()| c::LiftQuarantineReply {});
                to.finish::<Self, c::LiftQuarantine>(result).await
            }
            c::Call::Settle(call) => {
                let result = it.settle(who, call.trust, call.reason).await;
                let result = result.map(|generation| c::SettleReply { generation });
                to.finish::<Self, c::Settle>(result).await
            }
            c::Call::Reexec(_) => to.finish::<Self, c::Reexec>(it.reexec(who).await.map(|()| c::ReexecReply {})).await,
            c::Call::Stop(_) => to.finish::<Self, c::Stop>(it.stop(who).await.map(|()| c::StopReply {})).await,
        }
    }
}

impl<T: Operations> Service<T> {
    async fn monitor(&self, to: &mut ReplyTo) -> Result<(), WireError> {
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
