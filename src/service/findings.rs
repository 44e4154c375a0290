//! Translates between health and the lifecycle: the runtime that a monitor reports about, and a finding as the
//! lifecycle takes it.

use crate::health;
use crate::interface::types::{Role, RuntimeRef};
use crate::lifecycle::{self, Lifecycle, Phase, Slot};

/// The runtime whose health the monitor of a slot reports.
pub fn runtime_ref(core: &Lifecycle, name: &str, slot: Slot, instance: &str) -> RuntimeRef {
    let version = core.slot(slot).version.as_ref();
    let role = role(core, slot);
    RuntimeRef {
        name: name.to_owned(),
        store_path: version.map(|version| version.store_path.clone()),
        commit: version.map(|version| version.rev.clone()),
        role: Some(role),
        generation: core.active().filter(|_| role == Role::Active).map(|active| active.generation),
        instance: Some(instance.to_owned()),
    }
}

/// The role of the version in a slot.
fn role(core: &Lifecycle, slot: Slot) -> Role {
    let version = core.slot(slot).version.as_ref();
    let is_previous = core.previous().is_some_and(|previous| Some(&previous.version) == version);
    match core.phase() {
        _ if core.active_slot() == Some(slot) => Role::Active,
        Phase::Observing { .. } | Phase::RollingBack { .. } => Role::Previous,
        Phase::Steady | Phase::Diagnosing | Phase::Building | Phase::Validating if is_previous => Role::Previous,
        _ => Role::Candidate,
    }
}

impl From<health::Finding> for lifecycle::Finding {
    fn from(finding: health::Finding) -> Self {
        Self {
            class: finding.class,
            cause: finding.cause.word().to_owned(),
            severity: finding.severity,
            fingerprint: finding.fingerprint,
            summary: finding.summary,
            evolve: finding.evolve,
        }
    }
}
