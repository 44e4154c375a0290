//! The facts of the state that a job needs: a copy, so that jobs never see the lifecycle itself.
//!
//! The facts are no part of the effects, because a full quarantine or all remembered questions are larger than a record
//! may be. The state right after a decision follows from the records up to that decision, so the copy is exact.

use std::collections::BTreeMap;

use crate::interface::types::{EvolutionId, IncidentId, Version};
use crate::lifecycle::{Lifecycle, OpenIncident, Quarantined, Slot, Tried};
use crate::narrate;
use crate::time::Timestamp;

/// The facts of one decision.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Active.
    pub active: Option<Version>,
    /// The slot that Active serves from.
    pub active_slot: Option<Slot>,
    /// The id of the evolution under way.
    pub evolution: Option<EvolutionId>,
    /// The incident that the evolution repairs.
    pub incident: Option<OpenIncident>,
    /// The id of that incident. The incident itself may already be closed.
    pub incident_id: Option<IncidentId>,
    /// When the evolution began.
    pub since: Timestamp,
    /// Digest of the evolution's context.
    pub context: Option<String>,
    /// Earlier evolutions. Their questions are not asked again.
    pub asked_before: Vec<Tried>,
    /// Why earlier repairs of the incident were refused.
    pub refused_before: Vec<(EvolutionId, String)>,
    /// Why content is in quarantine, by its git tree.
    pub quarantine: BTreeMap<String, String>,
}

impl Facts {
    /// The facts of the state after a decision.
    pub fn of(core: &Lifecycle) -> Self {
        let current = core.evolution();
        let incident_id = current.and_then(|current| current.incident.clone());
        let refused = core.refused_before().into_iter();
        Self {
            active: core.active().map(|active| active.version.clone()),
            active_slot: core.active_slot(),
            evolution: current.map(|current| current.id.clone()),
            incident: incident_id.as_ref().and_then(|id| open(core, id)),
            incident_id,
            since: current.map_or(Timestamp::default(), |current| current.since),
            context: current.and_then(|current| current.context.clone()),
            asked_before: core.asked_before().cloned().collect(),
            refused_before: refused.map(|(id, why)| (id, narrate::reason(&why))).collect(),
            quarantine: core.quarantine().iter().map(|it| (it.tree.clone(), quarantined(it))).collect(),
        }
    }
}

/// The open incident with this id.
pub fn open(core: &Lifecycle, id: &IncidentId) -> Option<OpenIncident> {
    core.incidents().values().find(|open| open.id == *id).cloned()
}

/// Why content must not be built again. A blueprint that produces the same content again gets this text.
fn quarantined(entry: &Quarantined) -> String {
    format!("these files are in quarantine as {}: {}", entry.candidate, narrate::reason(&entry.reason))
}
