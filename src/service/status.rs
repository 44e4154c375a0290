//! What an operator sees.

use super::shell::Shell;
use super::sync::lock;
use crate::interface::operations::{
    self as seen, BudgetStatus, EvolutionStatus, InstanceState, InstanceStatus, ListenStatus, QuarantineEntry, Status,
    SupervisorStatus, VersionStatus,
};
use crate::interface::types::{ProcessUsage, Role, SCHEMA, Version};
use crate::lifecycle::{Deployed, Lifecycle, Phase, RunState, Slot, WHOLE_PPM};
use crate::narrate;
use crate::process;
use crate::time::millis;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

impl From<Phase> for seen::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Empty => Self::Empty,
            Phase::Installing => Self::Installing,
            Phase::Steady => Self::Steady,
            Phase::Diagnosing => Self::Diagnosing,
            Phase::Building => Self::Building,
            Phase::Validating => Self::Validating,
            Phase::AwaitingApproval { .. } => Self::AwaitingApproval,
            Phase::Canary { .. } => Self::Canary,
            Phase::Promoting { .. } => Self::Promoting,
            Phase::Observing { .. } => Self::Observing,
            Phase::RollingBack { .. } => Self::RollingBack,
            Phase::Held => Self::Held,
        }
    }
}

impl Shell {
    /// The whole state in one view.
    pub(super) fn status(&mut self) -> Status {
        let health = self.health_report().ok();
        let core = &self.core;
        let (waits_for, deadline) = core.waits_for();
        let active_slot = core.active_slot();
        let candidate = core.evolution().filter(|_| !matches!(core.phase(), Phase::Observing { .. }));
        let candidate = candidate.filter(|_| !matches!(core.phase(), Phase::RollingBack { .. }));
        let candidate = candidate.and_then(|evolution| evolution.version.clone());
        let runtime = &self.tools.config.runtime.name;
        Status {
            schema: SCHEMA.to_owned(),
            runtime: runtime.clone(),
            phase: core.phase().into(),
            phase_since: core.phase_since(),
            waits_for: waits_for.as_ref().map(narrate::reason),
            deadline,
            active: core.active().map(|deployed| self.deployed(deployed, Role::Active, active_slot)),
            candidate: candidate.map(|version| {
                self.version_status(&version, Role::Candidate, None, core.trial_slot().or(active_slot.map(Slot::other)))
            }),
            previous: core
                .previous()
                .map(|deployed| self.deployed(deployed, Role::Previous, active_slot.map(Slot::other))),
            health,
            open_incidents: core.incidents().values().map(|open| open.to_incident(runtime)).collect(),
            evolution: core.evolution().map(|evolution| EvolutionStatus {
                id: evolution.id.clone(),
                incident_id: evolution.incident.clone(),
                blueprint: evolution.blueprint.clone(),
                step: evolution.checkpoint.as_ref().map(|(stage, _)| stage.clone()),
                attempt: u64::from(evolution.validations.max(1)),
                candidate_id: evolution.version.as_ref().map(|_| evolution.candidate.clone()),
                report_id: evolution.report.as_ref().map(|report| report.id.clone()),
                started_at: evolution.since,
            }),
            attention: match &self.stalled {
                Some(stalled) => Some(format!("nothing can be decided: {}", stalled.why)),
                None => core.attention().map(narrate::reason),
            },
            paused: core.paused(),
            budget: self.budget(),
            quarantined: core.quarantine().len() as u64,
            listen: lock(&self.traffic)
                .addresses()
                .into_iter()
                .map(|listen| ListenStatus { name: listen.name, address: listen.address.to_string() })
                .collect(),
            state: self.tools.measured.get(),
            supervisor: SupervisorStatus {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.started_at,
                uptime_ms: self.clock.now().ms_since(self.started_at),
                rss_bytes: process::resident_bytes(),
            },
        }
    }

    fn deployed(&self, deployed: &Deployed, role: Role, slot: Option<Slot>) -> VersionStatus {
        self.version_status(&deployed.version, role, Some(deployed.generation), slot)
    }

    /// A version and the instance of it in `slot`, if that is what runs there.
    fn version_status(
        &self,
        version: &Version,
        role: Role,
        generation: Option<u64>,
        slot: Option<Slot>,
    ) -> VersionStatus {
        let slot = slot.filter(|slot| self.core.slot(*slot).version.as_ref() == Some(version));
        let slot = slot.filter(|slot| self.core.slot(*slot).run != RunState::Down);
        let share = slot.and_then(|slot| self.core.routing().map(|routing| routing.share_ppm(slot))).unwrap_or(0);
        VersionStatus {
            version: version.clone(),
            role,
            generation,
            slot: slot.map(|slot| slot.to_string().to_lowercase()),
            share: f64::from(share) / f64::from(WHOLE_PPM),
            instances: slot.and_then(|slot| self.instance(slot, share)).into_iter().collect(),
        }
    }

    fn instance(&self, slot: Slot, share: u32) -> Option<InstanceStatus> {
        let state = self.core.slot(slot);
        let occupant = self.occupants.get(slot);
        let uptime_ms = occupant.map(|it| millis(it.since.elapsed()));
        let usage = self.watch.usage(slot).unwrap_or_default();
        Some(InstanceStatus {
            id: occupant.map_or_else(|| state.instance.as_ref().map(|it| it.id.clone()), |it| Some(it.id.clone()))?,
            state: match state.run {
                RunState::Down => return None,
                RunState::Starting => InstanceState::Starting,
                RunState::Ready if share > 0 => InstanceState::Serving,
                RunState::Ready => InstanceState::Standby,
                RunState::Backoff => InstanceState::Backoff,
                RunState::Stopping | RunState::Draining => InstanceState::Stopping,
            },
            started_at: uptime_ms
                .map(|ms| crate::time::Timestamp::from_unix_ms(self.clock.now().as_unix_ms().saturating_sub(ms))),
            usage: ProcessUsage {
                pid: occupant.map(|occupant| occupant.pid),
                uptime_ms,
                restarts: Some(state.restarts),
                ..usage
            },
            log_dropped_bytes: occupant.map(|occupant| occupant.log.stats().dropped_bytes),
        })
    }

    fn budget(&self) -> BudgetStatus {
        let now = self.clock.now();
        let per_hour = self.core.policy().map_or(0, |policy| policy.per_hour);
        let recent = self.core.recent().filter(|&begun| now.ms_since(begun) < HOUR_MS);
        let recent: Vec<_> = recent.collect();
        let left = per_hour.saturating_sub(recent.len() as u64);
        BudgetStatus {
            left,
            per_hour,
            next_at: recent.first().filter(|_| left == 0).map(|first| first.plus_ms(HOUR_MS)),
            spent_fingerprints: self.core.spent_fingerprints(),
        }
    }

    /// What is in quarantine, newest first.
    pub(super) fn quarantine(&self) -> Vec<QuarantineEntry> {
        let entry = |entry: &crate::lifecycle::Quarantined| QuarantineEntry {
            candidate_id: entry.candidate.clone(),
            tree: entry.tree.clone(),
            store_path: Some(entry.store_path.clone()).filter(|path| !path.is_empty()),
            reason: narrate::reason(&entry.reason),
            at: entry.at,
        };
        self.core.quarantine().iter().rev().map(entry).collect()
    }
}

/// One line for the service manager.
pub fn line(core: &Lifecycle) -> String {
    let phase = core.phase().name();
    match (core.attention(), core.waits_for().0) {
        (Some(attention), _) => format!("{phase}: {}", narrate::reason(attention)),
        (None, Some(waits_for)) => format!("{phase}: {}", narrate::reason(&waits_for)),
        (None, None) => phase.to_owned(),
    }
}
