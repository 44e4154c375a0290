//! The facts that the words for an event need besides the event.

use crate::interface::types::{CandidateId, EvolutionId, IncidentId};
use crate::lifecycle::{Event, Lifecycle, Reason};

/// The facts around an event. If a fact is not known, it is left out, and the sentence is shorter.
#[derive(Clone, Debug, Default)]
pub struct Scene<'a> {
    /// The phase, by its name.
    pub phase: Option<&'a str>,
    /// The evolution under way.
    pub evolution: Option<&'a EvolutionId>,
    /// The commit that the evolution upgrades to, in hex.
    pub rev: Option<&'a str>,
    /// Whether there is an Active.
    pub has_active: bool,
    /// The open incident that a finding belongs to, and how often the finding was made.
    pub incident: Option<(&'a IncidentId, u64)>,
    /// If the followed content is in quarantine: its candidate, and the reason.
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

    /// The sentence, with the id of the evolution under way as a prefix.
    pub(super) fn of_evolution(&self, sentence: &str) -> String {
        self.evolution.map_or_else(|| sentence.to_owned(), |id| format!("{id}: {sentence}"))
    }
}
