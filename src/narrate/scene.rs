//! What the words for an event need besides the event.

use crate::interface::types::{CandidateId, EvolutionId, IncidentId};
use crate::lifecycle::{Event, Lifecycle, Reason};

/// The facts around an event. Whoever does not know one leaves it out: the sentence says less then.
#[derive(Clone, Debug, Default)]
pub struct Scene<'a> {
    /// The phase, by its name.
    pub phase: Option<&'a str>,
    /// The evolution under way.
    pub evolution: Option<&'a EvolutionId>,
    /// The commit that it is to become, in hex.
    pub rev: Option<&'a str>,
    /// Whether there is an Active.
    pub has_active: bool,
    /// The open incident that a finding belongs to, and how often it was found.
    pub incident: Option<(&'a IncidentId, u64)>,
    /// The candidate as which the followed content is in quarantine, and why it came there.
    pub quarantined: Option<(&'a CandidateId, &'a Reason)>,
}

impl<'a> Scene<'a> {
    /// The facts around `event`, after `core` took it.
    pub fn of(event: &Event, core: &'a Lifecycle) -> Self {
        let evolution = core.evolution();
        Self {
            phase: Some(core.phase().name()),
            evolution: evolution.map(|evolution| &evolution.id),
            rev: evolution.and_then(|evolution| evolution.rev.as_deref()),
            has_active: core.active().is_some(),
            incident: match event {
                Event::Found { finding, .. } => core.incidents().get(&finding.fingerprint),
                _ => None,
            }
            .map(|open| (&open.id, open.occurrences)),
            quarantined: match event {
                Event::Followed { tree, .. } => core.quarantine().iter().find(|entry| entry.tree == *tree),
                _ => None,
            }
            .map(|entry| (&entry.candidate, &entry.reason)),
        }
    }

    /// The sentence with the evolution under way before it.
    pub(super) fn of_evolution(&self, sentence: &str) -> String {
        self.evolution.map_or_else(|| sentence.to_owned(), |id| format!("{id}: {sentence}"))
    }
}
