//! The two interfaces of the supervisor. Each call becomes a message to the supervisor's loop.

use std::time::Duration;

use tokio::sync::{broadcast, oneshot};

use super::input::{Call, Input, Inputs};
use crate::interface::access::{Caller, Standing};
use crate::interface::evolution::{EvolutionError, RuntimeEvolution};
use crate::interface::operations::{
    HistoryEntry, MonitorEvent, Operations, OperationsError, QuarantineEntry, ShowReply, Status, Trust,
};
use crate::interface::types::{
    CandidateRuntime, EvolutionContext, EvolutionId, IncidentId, RuntimeHealthReport, ValidationReport,
};
use crate::lifecycle::{self, Request};

/// The timeout of a question about the state. The loop never works longer than milliseconds at a time.
const ANSWER: Duration = Duration::from_secs(10);

/// The timeout of an answer that is read from the journal. A hundred thousand records take seconds, and readers queue.
const RECALL: Duration = Duration::from_secs(120);

/// The service behind `control.sock`.
pub struct OperationsService {
    /// The loop.
    pub inputs: Inputs,
    /// The subscribers of `Monitor`.
    pub subscribers: broadcast::Sender<MonitorEvent>,
}

fn busy() -> OperationsError {
    OperationsError::Busy { reason: "the supervisor is starting or stopping".to_owned() }
}

/// Checks the caller of a request that the lifecycle does not decide about. The server already refuses all other
/// callers; this is a second check.
fn operators_only(caller: &Caller) -> Result<(), OperationsError> {
    match caller.standing {
        Standing::Operator => Ok(()),
        Standing::Unproven => Err(OperationsError::NotAllowed {
            reason: format!("process {} does not belong to an operator", caller.pid),
        }),
    }
}

impl OperationsService {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, OperationsError> {
        self.ask_within(ANSWER, ask).await
    }

    async fn ask_within<T>(
        &self,
        bound: Duration,
        ask: impl FnOnce(oneshot::Sender<T>) -> Call,
    ) -> Result<T, OperationsError> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Call(ask(reply))).await.map_err(|_| busy())?;
        tokio::time::timeout(bound, answer).await.map_err(|_| busy())?.map_err(|_| busy())
    }

    async fn request(&self, caller: &Caller, request: Request) -> Result<(EvolutionId, u64), OperationsError> {
        let who = match caller.standing {
            Standing::Operator => lifecycle::Caller::Operator(caller.name()),
            Standing::Unproven => lifecycle::Caller::Supervised { pid: caller.pid },
        };
        let (id, generation) = self.ask(|reply| Call::Operator { who, request, reply }).await??;
        Ok((EvolutionId(id), generation))
    }
}

impl Operations for OperationsService {
    async fn status(&self) -> Result<Status, OperationsError> {
        self.ask(Call::Status).await
    }

    async fn monitor(&self) -> Result<broadcast::Receiver<MonitorEvent>, OperationsError> {
        Ok(self.subscribers.subscribe())
    }

    async fn evolve(
        &self,
        caller: &Caller,
        rev: Option<String>,
        blueprint: Option<String>,
    ) -> Result<EvolutionId, OperationsError> {
        Ok(self.request(caller, Request::Evolve { rev, blueprint }).await?.0)
    }

    async fn approve(&self, caller: &Caller, id: String) -> Result<EvolutionId, OperationsError> {
        Ok(self.request(caller, Request::Approve { id }).await?.0)
    }

    async fn reject(&self, caller: &Caller, id: String, reason: String) -> Result<EvolutionId, OperationsError> {
        Ok(self.request(caller, Request::Reject { id, reason }).await?.0)
    }

    async fn rollback(&self, caller: &Caller, to_generation: Option<u64>) -> Result<u64, OperationsError> {
        Ok(self.request(caller, Request::Rollback { to: to_generation }).await?.1)
    }

    async fn history(&self, limit: u64) -> Result<Vec<HistoryEntry>, OperationsError> {
        self.ask_within(RECALL, |reply| Call::History(limit, reply)).await?
    }

    async fn show(&self, id: String) -> Result<ShowReply, OperationsError> {
        self.ask_within(RECALL, |reply| Call::Show(id, reply)).await?
    }

    async fn pause(&self, caller: &Caller) -> Result<(), OperationsError> {
        self.request(caller, Request::Pause).await.map(|_| ())
    }

    async fn resume(&self, caller: &Caller) -> Result<(), OperationsError> {
        self.request(caller, Request::Resume).await.map(|_| ())
    }

    async fn quarantine(&self) -> Result<Vec<QuarantineEntry>, OperationsError> {
        self.ask(Call::Quarantine).await
    }

    async fn lift_quarantine(&self, caller: &Caller, id: String) -> Result<(), OperationsError> {
        self.request(caller, Request::Lift { content: id }).await.map(|_| ())
    }

    async fn settle(&self, caller: &Caller, trust: Trust, reason: Option<String>) -> Result<u64, OperationsError> {
        let trust = match trust {
            Trust::Reality => lifecycle::Trust::Reality,
            Trust::Journal => lifecycle::Trust::Journal,
        };
        let reason = reason.unwrap_or_else(|| "an operator decided it".to_owned());
        Ok(self.request(caller, Request::Settle { trust, reason }).await?.1)
    }

    async fn reexec(&self, caller: &Caller) -> Result<(), OperationsError> {
        operators_only(caller)?;
        self.ask(Call::Reexec).await?
    }

    async fn stop(&self, caller: &Caller) -> Result<(), OperationsError> {
        operators_only(caller)?;
        self.inputs.send(Input::Call(Call::Stop)).await.map_err(|_| busy())
    }
}

/// The service behind `rei.sock`.
pub struct EvolutionService {
    /// The loop.
    pub inputs: Inputs,
}

impl EvolutionService {
    /// Has no timeout of its own: builds and validations have theirs.
    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, EvolutionError>>) -> Call,
    ) -> Result<T, EvolutionError> {
        let gone = || EvolutionError::NotAvailable { reason: "the supervisor is starting or stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Call(ask(reply))).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl RuntimeEvolution for EvolutionService {
    async fn report_runtime_health(&self) -> Result<RuntimeHealthReport, EvolutionError> {
        self.ask(Call::Health).await
    }

    async fn collect_evolution_context(&self, incident_id: IncidentId) -> Result<EvolutionContext, EvolutionError> {
        self.ask(|reply| Call::Context(incident_id, reply)).await
    }

    async fn build_candidate_runtime(&self, context: EvolutionContext) -> Result<CandidateRuntime, EvolutionError> {
        self.ask(|reply| Call::Build(Box::new(context), reply)).await
    }

    async fn validate_candidate(&self, candidate: CandidateRuntime) -> Result<ValidationReport, EvolutionError> {
        self.ask(|reply| Call::Validate(Box::new(candidate), reply)).await
    }
}
