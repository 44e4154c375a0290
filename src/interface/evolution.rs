//! `io.openexec.RuntimeEvolution`: the four calls, as a trait and as a service.
//!
//! A runtime serves health and context on the socket that it inherits; rei serves all four on `rei.sock`.
//! None of the four changes what is Active.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::access::Access;
use super::answer::{Interface, ReplyTo};
use super::queue::{CallQueue, Queued, Reply};
use super::server;
use super::socket::Socket;
use super::table::{queue, service};
use super::types::{CandidateRuntime, EvolutionContext, IncidentId, RuntimeHealthReport, ValidationReport};
use super::wire::WireError;

/// The name of the interface.
pub const NAME: &str = "io.openexec.RuntimeEvolution";

/// The interface definition file.
pub const DEFINITION: &str = include_str!("../../interface/io.openexec.RuntimeEvolution.varlink");

/// The pause between health reports of a stream, if its caller names none.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest pause that is granted: a caller must not keep a runtime busy with reports.
pub const REPORT_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The longest pause that is granted: a stream without a report for longer is of no use.
pub const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// The errors of the interface.
#[derive(Clone, Debug, PartialEq, Eq, zlink::ReplyError, zlink::introspect::ReplyError)]
#[zlink(interface = "io.openexec.RuntimeEvolution")]
pub enum EvolutionError {
    /// This service cannot do this, or not now: a runtime does not build, a supervisor without Active has no health.
    NotAvailable {
        /// Why, for a person.
        reason: String,
    },
    /// There is no such incident.
    UnknownIncident {
        /// As it was asked for.
        incident_id: String,
    },
    /// There is no such candidate, or not with this store path.
    UnknownCandidate {
        /// As it was asked for.
        candidate_id: String,
    },
    /// No candidate came out.
    BuildFailed {
        /// The stage of the blueprint, or `evaluate` or `build`.
        stage: String,
        /// Why, for a person.
        reason: String,
        /// The end of the log; empty if there is none.
        log: String,
    },
    /// Another evolution is under way.
    Busy {
        /// The evolution that is under way.
        evolution_id: String,
    },
    /// The caller may not call.
    NotAllowed {
        /// Why, for a person.
        reason: String,
    },
    /// The reply would be larger than a message may be.
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
}

// Not `thiserror`: the derive of the wire format copies every attribute of a variant, and does not know `#[error]`.
impl std::fmt::Display for EvolutionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAvailable { reason } => write!(f, "not available: {reason}"),
            Self::UnknownIncident { incident_id } => write!(f, "unknown incident {incident_id}"),
            Self::UnknownCandidate { candidate_id } => write!(f, "unknown candidate {candidate_id}"),
            Self::BuildFailed { stage, reason, .. } => write!(f, "no candidate was built, {stage} failed: {reason}"),
            Self::Busy { evolution_id } => write!(f, "busy with {evolution_id}"),
            Self::NotAllowed { reason } => write!(f, "not allowed: {reason}"),
            Self::TooLarge { limit_bytes } => write!(f, "the reply is larger than {limit_bytes} bytes"),
        }
    }
}

impl std::error::Error for EvolutionError {}

impl EvolutionError {
    /// The next step of an operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownIncident { .. } => Some("`rei history` lists the incidents".into()),
            Self::UnknownCandidate { .. } => Some("`rei history` lists the candidates".into()),
            Self::Busy { evolution_id } => Some(format!("`rei show {evolution_id}` says how far it is")),
            Self::NotAvailable { .. } | Self::BuildFailed { .. } | Self::NotAllowed { .. } | Self::TooLarge { .. } => {
                None
            }
        }
    }
}

/// An answer has no bound here, because each build, validation and collection has its own.
pub(super) const ITS_OWN: Duration = Duration::MAX;

/// The methods, each once: the service, its handler, the client and the definition file are made from this table.
macro_rules! evolution {
    ($emit:ident) => {
        $emit! {
            /// The Runtime Evolution Interface.
            ///
            /// A dropped future means that the caller went away; what it did so far must not harm.
            "io.openexec.RuntimeEvolution", RuntimeEvolution, EvolutionHandler, EvolutionError, within ITS_OWN;

            /// The health of the runtime. With `more`, one report at once and one every `interval_ms` milliseconds (default
            /// 1000, at least 50, at most 3600000) until the caller closes the connection. A runtime's own report can lower
            /// the status that the supervisor's evidence gives, and never raise it.
            ReportRuntimeHealth(interval_ms: Option<u64>) -> ReportRuntimeHealthReply(report: RuntimeHealthReport)
                = repeated report_runtime_health;

            /// What is known about an incident, with secrets taken out. It is not an error that something is missing:
            /// `complete` is false then, and `missing` names it.
            CollectEvolutionContext(incident_id: IncidentId) -> CollectEvolutionContextReply(context: EvolutionContext)
                = anyone collect_evolution_context;

            /// Makes a candidate from a context: runs the blueprint, commits, builds with Nix. Nothing that is Active changes.
            /// Errors: BuildFailed, Busy, NotAvailable.
            BuildCandidateRuntime(context: EvolutionContext) -> BuildCandidateRuntimeReply(candidate: CandidateRuntime)
                = anyone build_candidate_runtime;

            /// Judges a candidate in Nix sandboxes. The report speaks of the candidate's store path and no other; only the
            /// verdict `pass` lets the supervisor promote. Errors: UnknownCandidate, Busy, NotAvailable.
            ValidateCandidate(candidate: CandidateRuntime) -> ValidateCandidateReply(report: ValidationReport)
                = anyone validate_candidate;
        }
    };
}
pub(super) use evolution;

/// Inputs and replies of the methods.
pub mod call {
    use super::super::method::methods;
    use crate::interface::types::{
        CandidateRuntime, EvolutionContext, IncidentId, RuntimeHealthReport, ValidationReport,
    };

    super::evolution!(methods);
}

evolution!(service);
evolution!(queue);

/// The types that the interface's definition names, in its order.
#[cfg(test)]
pub(super) fn definition() -> zlink::idl::Interface<'static> {
    use super::types::*;
    let types = super::idl::types![
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
        StackTrace,
        ReproductionRun,
        EvolutionContext,
        CandidateRuntime,
        Verdict,
        CheckResult,
        ValidationReport,
        MaintenanceAction,
        RuntimeMaintenanceRecord,
    ];
    super::idl::interface(
        NAME,
        &[
            "The Runtime Evolution Interface: how a long-running service is repaired and upgraded without anyone touching the",
            "live process.",
            "",
            "A runtime serves ReportRuntimeHealth and CollectEvolutionContext on the listening socket that it inherits under the",
            "name `rei` (LISTEN_FDS, LISTEN_FDNAMES). The supervisor serves all four calls on its `rei.sock`. None of them changes",
            "what is Active; promotion is the supervisor's own.",
            "",
            "Messages are at most 1 MiB in both directions. Units are in the names: `_ms` milliseconds, `_us` microseconds,",
            "`_bytes` bytes. Times are RFC 3339 in UTC. A field that may be null may be left out.",
        ],
        call::methods(),
        types,
        <EvolutionError as zlink::introspect::ReplyError>::VARIANTS,
    )
}

struct Service<T>(Arc<T>);

impl<T> Interface for Service<T> {
    const NAME: &'static str = NAME;
    const DEFINITION: &'static str = DEFINITION;
    type Error = EvolutionError;

    fn not_allowed(reason: String) -> EvolutionError {
        EvolutionError::NotAllowed { reason }
    }

    fn busy(reason: String) -> EvolutionError {
        EvolutionError::NotAvailable { reason }
    }

    fn too_large(limit_bytes: u64) -> EvolutionError {
        EvolutionError::TooLarge { limit_bytes }
    }
}

impl<T: RuntimeEvolution> Service<T> {
    async fn report_runtime_health(&self, call: call::ReportRuntimeHealth, to: &mut ReplyTo) -> Result<(), WireError> {
        use call::{ReportRuntimeHealth, ReportRuntimeHealthReply};
        let pause = call.interval_ms.map_or(REPORT_INTERVAL, Duration::from_millis);
        let pause = pause.clamp(REPORT_INTERVAL_MIN, REPORT_INTERVAL_MAX);
        let mut ticks = interval_at(Instant::now() + pause, pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = self.0.report_runtime_health().await.map(|report| ReportRuntimeHealthReply { report });
            match result {
                Ok(reply) if to.more() => to.next::<Self, ReportRuntimeHealth>(&reply).await?,
                last => return to.finish::<Self, ReportRuntimeHealth>(last).await,
            }
            ticks.tick().await;
        }
    }
}

/// Serves the four calls until the future is dropped; dropping ends all connections.
pub async fn serve_evolution<T: RuntimeEvolution>(socket: Socket, evolution: Arc<T>, access: Access) {
    server::serve(socket, Arc::new(Service(evolution)), access).await;
}
