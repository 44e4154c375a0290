//! The handlers of the calls on both sockets: what the service does for each row of the two tables in `interface`.

use std::time::Duration;

use tokio::sync::broadcast;

use super::facts::{self, Facts};
use super::recordings::RecordOrder;
use super::requests;
use super::supervisor::{End, Service};
use crate::interface::access::{Caller, Descent};
use crate::interface::evolution::{EvolutionError, EvolutionHandler};
use crate::interface::operations::{
    GoldenQualified, GoldenRecording, HistoryEntry, MonitorEvent, OperationsError, OperationsHandler, QuarantineEntry,
    ShowReply, Status, TrafficStatus, Trust,
};
use crate::interface::queue::Reply;
use crate::interface::types::{
    CandidateRuntime, EvolutionContext, EvolutionId, IncidentId, RuntimeHealthReport, ValidationReport,
};
use crate::lifecycle::{self, Request};

/// Takes the answer to an operator's call.
type OperationReply<T> = Reply<T, OperationsError>;

/// Takes the answer to a call of the evolution interface.
type EvolutionReply<T> = Reply<T, EvolutionError>;

/// The caller, as the lifecycle records it. The lifecycle refuses a caller that is no operator: this is a third check,
/// after those of the server and of the queue.
fn recorded(caller: &Caller) -> lifecycle::Caller {
    match caller.descent {
        Descent::Operator => lifecycle::Caller::Operator(caller.name()),
        Descent::Unproven => lifecycle::Caller::Supervised { pid: caller.pid },
    }
}

impl OperationsHandler for Service {
    fn status(&mut self, reply: OperationReply<Status>) {
        let health = self.health();
        reply.send(Ok(self.queries().status(&self.view(), health)));
    }

    fn monitor(&mut self, reply: OperationReply<broadcast::Receiver<MonitorEvent>>) {
        reply.send(Ok(self.subscribe()));
    }

    fn evolve(
        &mut self,
        caller: &Caller,
        rev: Option<String>,
        blueprint: Option<String>,
        reply: OperationReply<EvolutionId>,
    ) {
        let request = Request::Evolve { rev, blueprint };
        reply.send(self.request(recorded(caller), request).map(|done| done.evolution));
    }

    fn approve(&mut self, caller: &Caller, id: String, reply: OperationReply<EvolutionId>) {
        reply.send(self.request(recorded(caller), Request::Approve { id }).map(|done| done.evolution));
    }

    fn reject(&mut self, caller: &Caller, id: String, reason: String, reply: OperationReply<EvolutionId>) {
        reply.send(self.request(recorded(caller), Request::Reject { id, reason }).map(|done| done.evolution));
    }

    fn rollback(&mut self, caller: &Caller, to_generation: Option<u64>, reply: OperationReply<u64>) {
        let request = Request::Rollback { to: to_generation };
        reply.send(self.request(recorded(caller), request).map(|done| done.generation));
    }

    fn history(&mut self, limit: u64, reply: OperationReply<Vec<HistoryEntry>>) {
        self.queries().history(&self.view().executor.tools.paths, limit, reply);
    }

    fn show(&mut self, id: String, reply: OperationReply<ShowReply>) {
        self.queries().show(&self.view().executor.tools.paths, id, reply);
    }

    fn routes(&mut self, reply: OperationReply<Vec<TrafficStatus>>) {
        let view = self.view();
        let slot = Facts::of(view.core).active_slot;
        let at = view.clock.now();
        reply.send(Ok(slot.map(|slot| view.executor.monitors.all_routes(slot, at)).unwrap_or_default()));
    }

    fn qualify_golden(&mut self, _: &Caller, name: String, reply: OperationReply<GoldenQualified>) {
        let view = self.view();
        requests::qualify(view.executor, name, Facts::of(view.core).active, view.clock.now(), reply);
    }

    fn record_golden(
        &mut self,
        _: &Caller,
        name: String,
        listener: Option<String>,
        for_ms: u64,
        limit: u64,
        reply: OperationReply<GoldenRecording>,
    ) {
        let order = RecordOrder { name, listener, time: Duration::from_millis(for_ms), limit };
        reply.send(self.record(&order));
    }

    fn end_recording(&mut self, _: &Caller, name: String, reply: OperationReply<GoldenRecording>) {
        self.executor().recordings.end(&name, reply);
        self.look_at_recordings();
    }

    fn pause(&mut self, caller: &Caller, reply: OperationReply<()>) {
        reply.send(self.request(recorded(caller), Request::Pause).map(drop));
    }

    fn resume(&mut self, caller: &Caller, reply: OperationReply<()>) {
        reply.send(self.request(recorded(caller), Request::Resume).map(drop));
    }

    fn quarantine(&mut self, reply: OperationReply<Vec<QuarantineEntry>>) {
        reply.send(Ok(self.view().quarantine()));
    }

    fn lift_quarantine(&mut self, caller: &Caller, id: String, reply: OperationReply<()>) {
        reply.send(self.request(recorded(caller), Request::Release { content: id }).map(drop));
    }

    fn settle(&mut self, caller: &Caller, trust: Trust, reason: Option<String>, reply: OperationReply<u64>) {
        let trust = match trust {
            Trust::Reality => lifecycle::Trust::Reality,
            Trust::Journal => lifecycle::Trust::Journal,
        };
        let reason = reason.unwrap_or_else(|| "an operator decided it".to_owned());
        let request = Request::Settle { trust, reason };
        reply.send(self.request(recorded(caller), request).map(|done| done.generation));
    }

    fn reexec(&mut self, _: &Caller, reply: OperationReply<()>) {
        reply.send(Ok(()));
        self.end(End::Reexec);
    }

    fn stop(&mut self, _: &Caller, reply: OperationReply<()>) {
        reply.send(Ok(()));
        self.end(End::Asked);
    }
}

impl EvolutionHandler for Service {
    fn report_runtime_health(&mut self, reply: EvolutionReply<RuntimeHealthReport>) {
        let none = || EvolutionError::NotAvailable { reason: "nothing is Active yet".to_owned() };
        reply.send(self.health().ok_or_else(none));
    }

    fn collect_evolution_context(&mut self, incident_id: IncidentId, reply: EvolutionReply<EvolutionContext>) {
        let view = self.view();
        let (facts, incident) = (Facts::of(view.core), facts::open(view.core, &incident_id));
        requests::context(view.executor, incident_id, incident, &facts, view.last_seq, view.clock.now(), reply);
    }

    fn build_candidate_runtime(&mut self, context: EvolutionContext, reply: EvolutionReply<CandidateRuntime>) {
        match self.external_number() {
            Err(refusal) => reply.send(Err(refusal)),
            Ok(number) => {
                let view = self.view();
                requests::build(view.executor, number, context, Facts::of(view.core), view.clock.now(), reply);
            }
        }
    }

    fn validate_candidate(&mut self, candidate: CandidateRuntime, reply: EvolutionReply<ValidationReport>) {
        match self.external_number() {
            Err(refusal) => reply.send(Err(refusal)),
            Ok(number) => {
                let view = self.view();
                requests::validate(view.executor, &number, candidate, Facts::of(view.core), reply);
            }
        }
    }
}
