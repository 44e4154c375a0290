//! The answers to an operator's requests.

use crate::interface::evolution::EvolutionError;
use crate::interface::operations::OperationsError;
use crate::interface::types::EvolutionId;
use crate::lifecycle::{Lifecycle, Refusal, Request};

/// What an operator's request led to.
#[derive(Debug)]
pub struct Requested {
    /// The evolution that the request began or was about; empty if there is none.
    pub evolution: EvolutionId,
    /// The profile generation of Active; 0 if nothing is Active.
    pub generation: u64,
}

/// The profile generation of Active; 0 if nothing is Active.
pub fn generation(core: &Lifecycle) -> u64 {
    core.active().map_or(0, |active| active.generation)
}

/// The evolution under way; empty if there is none.
pub fn current(core: &Lifecycle) -> EvolutionId {
    core.evolution().map(|evolution| evolution.id.clone()).unwrap_or_default()
}

/// The evolution that a request is about, if the request can end it at once; `None` if the request begins one.
pub fn about(core: &Lifecycle, request: &Request) -> Option<EvolutionId> {
    match request {
        Request::Reject { id, .. } if core.incidents().values().any(|open| open.id.0 == *id) => {
            Some(EvolutionId::default())
        }
        Request::Approve { .. } | Request::Reject { .. } => Some(current(core)),
        Request::Evolve { .. }
        | Request::Rollback { .. }
        | Request::Pause
        | Request::Resume
        | Request::Release { .. }
        | Request::Settle { .. } => None,
    }
}

/// A refusal as an error of the interface.
pub fn refused(core: &Lifecycle, refusal: &Refusal) -> OperationsError {
    match refusal {
        Refusal::NotAllowed { .. } => OperationsError::NotAllowed { reason: refusal.to_string() },
        Refusal::WrongPhase { what, hint, .. } => {
            OperationsError::WrongPhase { phase: core.phase().into(), hint: format!("cannot {what} now: {hint}") }
        }
        Refusal::NotFound { name, .. } => OperationsError::NotFound { id: name.clone() },
        Refusal::Quarantined { content } => OperationsError::Invalid {
            field: "rev".to_owned(),
            reason: format!("{content} is in quarantine; {}", refusal.hint()),
        },
    }
}

/// Why a caller of the evolution interface may not build or judge now; `None` if it may.
pub fn busy(core: &Lifecycle) -> Option<EvolutionError> {
    if core.active().is_none() {
        return Some(EvolutionError::NotAvailable { reason: "nothing is Active yet".to_owned() });
    }
    if core.is_held() {
        let reason = "the journal is behind reality, and an operator must decide which version is Active".to_owned();
        return Some(EvolutionError::NotAvailable { reason });
    }
    core.evolution().map(|current| EvolutionError::Busy { evolution_id: current.id.0.clone() })
}
