//! The phase of the lifecycle after an entry of the formats 1.0 and 1.1, which does not contain it.
//!
//! It is inferred from the event and its effects. No other file infers: an entry of the present format contains the
//! phase, and the reader uses it. The inference covers only what a reader of the history needs. It does not cover the
//! stages `Stopping` of a canary and of a rollback, nor the fact that data are missing.

use super::entry::{Entry, StateSummary, is_canary_step};
use crate::interface::types::{EvolutionId, MaintenanceAction, Verdict};
use crate::lifecycle::{
    Approval, Caller, CanaryStage, Effect, Event, Maintenance, ObservationStage, Phase, Plan, Request, RollbackStage,
    Routing, Timer,
};

/// The state of the inference after the records that were read.
#[derive(Debug, Default)]
pub(super) struct Inferred {
    /// The phase of the lifecycle while no evolution is under way.
    idle: Phase,
    /// The evolution under way.
    current: Option<Current>,
    /// The number of the last evolution.
    evolutions: u64,
}

/// The evolution under way.
#[derive(Debug)]
struct Current {
    id: EvolutionId,
    phase: Phase,
    /// The candidate's share in a canary step.
    share_ppm: u32,
    /// The number of the plan that was executed last.
    plan: Option<u64>,
    /// The candidate's store path.
    built: Option<String>,
}

impl Current {
    const fn new(id: EvolutionId, phase: Phase) -> Self {
        Self { id, phase, share_ppm: 0, plan: None, built: None }
    }
}

impl Inferred {
    /// The phase after the next entry: from the entry if it contains the phase, otherwise inferred.
    pub(super) fn after(&mut self, entry: &Entry) -> StateSummary {
        self.event(entry);
        let before = self.current.as_ref().map(|current| current.phase);
        for effect in &entry.effects {
            self.effect(&entry.event, effect);
        }
        self.ask_an_operator(before, entry);
        // The inference reads all entries, because an earlier rei may write later entries to this journal without the
        // phase.
        if let Some(state) = &entry.state {
            self.adopt(state);
            return state.clone();
        }
        match &self.current {
            None => StateSummary { phase: self.idle, ..StateSummary::default() },
            Some(current) => StateSummary {
                phase: current.phase,
                evolution: Some(current.id.clone()),
                share_ppm: is_canary_step(current.phase).then_some(current.share_ppm),
            },
        }
    }

    fn adopt(&mut self, state: &StateSummary) {
        let Some(id) = &state.evolution else {
            self.current = None;
            self.idle = state.phase;
            return;
        };
        let current = self.begin_or_continue(id);
        current.phase = state.phase;
        current.share_ppm = state.share_ppm.unwrap_or_default();
        if let Phase::Promoting { plan } | Phase::RollingBack { plan, .. } = state.phase {
            current.plan = Some(plan);
        }
    }

    fn event(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Operator { who: Caller::Operator(_), request: Request::Settle { .. } } => {
                self.idle = Phase::Steady;
                // If the request needs no switch, its entry has a record or an installation. Otherwise it begins a
                // rollback.
                if !entry.effects.iter().any(|it| matches!(it, Effect::Record(_) | Effect::Install { .. })) {
                    self.begin_rollback();
                }
            }
            Event::Operator { who: Caller::Operator(_), request: Request::Rollback { .. } }
                if self.current.is_none() =>
            {
                self.begin_rollback();
            }
            Event::Held(reality) => {
                self.idle = Phase::Held;
                self.evolutions = self.evolutions.max(reality.numbered);
            }
            Event::PlanDone { plan, .. } => {
                if let Some(current) = self.current.as_mut().filter(|current| current.plan == Some(*plan))
                    && matches!(current.phase, Phase::Promoting { .. })
                {
                    current.phase = Phase::Observing { stage: ObservationStage::Window { judging: false } };
                }
            }
            Event::Built { evolution, version, .. } => {
                if let Some(current) = self.current.as_mut().filter(|current| current.id == *evolution)
                    && matches!(current.phase, Phase::Building | Phase::Installing)
                {
                    current.built = Some(version.store_path.clone());
                }
            }
            _ => {}
        }
    }

    fn begin_rollback(&mut self) {
        let id = EvolutionId::numbered(self.evolutions + 1);
        let plan = 0;
        self.begin_or_continue(&id).phase = Phase::RollingBack { plan, stage: RollbackStage::Starting };
    }

    fn effect(&mut self, event: &Event, effect: &Effect) {
        match effect {
            Effect::Install { evolution } => self.begin_or_continue(evolution).phase = Phase::Installing,
            Effect::Diagnose { evolution, .. } => self.begin_or_continue(evolution).phase = Phase::Diagnosing,
            Effect::Build { evolution, .. } => self.begin_or_continue(evolution).phase = Phase::Building,
            Effect::Validate { evolution, .. } => self.begin_or_continue(evolution).phase = Phase::Validating,
            Effect::PrepareGeneration { .. } => {
                if let Some(current) = self.current.as_mut().filter(|current| current.phase != Phase::Installing) {
                    current.phase = Phase::Canary { stage: CanaryStage::Preparing };
                }
            }
            // Without a generation, the effect begins a canary step. With a generation, it restores the earlier state.
            Effect::Route { routing } | Effect::Restore { routing, generation: None } if routing.other_ppm > 0 => {
                self.begin_step(event, *routing)
            }
            Effect::Shadow { .. } => {
                if let Some(current) = &mut self.current {
                    current.phase = Phase::Canary { stage: CanaryStage::Shadow { judging: false } };
                }
            }
            Effect::Execute(plan) => self.execute(plan),
            Effect::Record(maintenance) => self.record(maintenance),
            _ => {}
        }
    }

    fn begin_step(&mut self, event: &Event, routing: Routing) {
        let Some(current) = &mut self.current else { return };
        let index = match current.phase {
            // A supervisor that takes over collects the data of the same step again.
            Phase::Canary { stage: CanaryStage::Share { index, .. } } if matches!(event, Event::Recovered { .. }) => {
                index
            }
            Phase::Canary { stage: CanaryStage::Share { index, .. } }
            | Phase::AwaitingApproval { of: Approval::Canary { index } } => index + 1,
            _ => 0,
        };
        current.phase = Phase::Canary { stage: CanaryStage::Share { index, judging: false } };
        current.share_ppm = routing.other_ppm;
    }

    fn execute(&mut self, plan: &Plan) {
        let Some(current) = &mut self.current else { return };
        current.plan = Some(plan.number);
        current.phase = match plan.report {
            Some(_) => Phase::Promoting { plan: plan.number },
            None => Phase::RollingBack { plan: plan.number, stage: RollbackStage::Switching },
        };
    }

    /// A record ends the evolution that it names. A restart of Active during an evolution does not end it.
    fn record(&mut self, maintenance: &Maintenance) {
        let ends = maintenance.action != MaintenanceAction::Restarted;
        self.current = self.current.take().filter(|it| !ends || Some(&it.id) != maintenance.evolution.as_ref());
    }

    /// A phase that waits for an operator has no effect of its own. It is inferred from a passing report without
    /// effects, and from a timeout whose only effect is a later look. `before` is the phase before the effects.
    fn ask_an_operator(&mut self, before: Option<Phase>, entry: &Entry) {
        let Some(current) = self.current.as_mut().filter(|current| Some(current.phase) == before) else { return };
        let of = match (&entry.event, current.phase) {
            (Event::Validated { evolution, report }, Phase::Validating)
                if current.id == *evolution
                    && report.verdict == Verdict::Pass
                    && current.built.as_ref() == Some(&report.store_path) =>
            {
                Approval::Promotion
            }
            (Event::BuildPaused { evolution, .. }, Phase::Building) if current.id == *evolution => Approval::Stage,
            (Event::Due(Timer::Phase), phase)
                if entry.effects.iter().any(|it| matches!(it, Effect::SetTimer { timer: Timer::Recheck, .. })) =>
            {
                match phase {
                    Phase::Canary { stage: CanaryStage::Shadow { .. } } => Approval::Shadow,
                    Phase::Canary { stage: CanaryStage::Share { index, .. } } => Approval::Canary { index },
                    Phase::Observing { .. } => Approval::Observation,
                    _ => return,
                }
            }
            _ => return,
        };
        current.phase = Phase::AwaitingApproval { of };
    }

    /// The evolution with this id: the one under way, or a new one.
    fn begin_or_continue(&mut self, id: &EvolutionId) -> &mut Current {
        let current = self.current.take().filter(|current| current.id == *id);
        if current.is_none() {
            let number = id.0.rsplit('_').next().and_then(|digits| digits.parse().ok());
            self.evolutions = number.unwrap_or(self.evolutions + 1);
            self.idle = Phase::Steady;
        }
        self.current.insert(current.unwrap_or_else(|| Current::new(id.clone(), Phase::Steady)))
    }
}
