//! The questions that agents were asked before, and the results: the same agent does not get the same question twice.

use super::event::Question;
use super::reason::Reason;
use super::state::{Evolution, Lifecycle, Tried};
use crate::interface::types::EvolutionId;

/// Maximum number of evolutions whose questions are remembered. The oldest is dropped first; then its questions could
/// be asked once more.
pub const TRIED_MAX: usize = 128;

/// Maximum number of remembered questions of one evolution: more than a blueprint asks before it has failed too often.
const ASKED_MAX: usize = 32;

/// Maximum number of remembered facts of a context: the facts of an incident, and the errors in a log.
const FACTS_MAX: usize = 128;

/// Maximum length of the kept reason for which a repair was refused, in bytes: names of checks and their last output.
const REASON_BYTES_MAX: usize = 2048;

impl Lifecycle {
    /// The evolutions whose questions must not be asked again in the one under way. There are none if an operator asked
    /// for it: an operator may repeat a question.
    pub fn asked_before(&self) -> impl Iterator<Item = &Tried> {
        let by_itself = self.evolution.as_ref().is_some_and(|current| current.asked_by.is_none());
        self.tried.iter().filter(move |_| by_itself)
    }

    /// Why earlier repairs of the incident of the evolution under way were refused, oldest first.
    pub fn refused_before(&self) -> Vec<(EvolutionId, Reason)> {
        let cause = self.cause();
        let same = self.tried.iter().filter(|it| cause.as_ref() == Some(&it.of));
        same.filter_map(|it| Some((it.evolution.clone(), it.refused.clone()?))).collect()
    }

    /// Notes a question that an agent has answered, for the evolution under way.
    pub(super) fn note_asked(&mut self, evolution: &EvolutionId, asked: Option<Question>) {
        let Some(current) = self.evolution.as_mut().filter(|current| current.id == *evolution) else { return };
        let Some(Question { task, mut facts }) = asked else { return };
        if current.tasks.len() < ASKED_MAX {
            current.tasks.push(task);
        }
        facts.truncate(FACTS_MAX);
        current.facts = facts;
    }

    /// True if the evolution under way made a version that could be judged.
    pub(super) fn made_something(&self) -> bool {
        let is_its = |current: &Evolution| self.quarantine.iter().any(|it| it.candidate == current.candidate);
        self.evolution.as_ref().is_some_and(|current| current.version.is_some() || is_its(current))
    }

    /// The evolution under way ends with a verdict; `refused` says why its result was refused. Questions of an
    /// evolution that ends without a verdict are not remembered.
    pub(super) fn remember_asked(&mut self, refused: Option<&Reason>) {
        let Some(of) = self.cause() else { return };
        let Some(current) = self.evolution.as_ref().filter(|it| it.incident.is_some() && !it.tasks.is_empty()) else {
            return;
        };
        let tried = Tried {
            of,
            evolution: current.id.clone(),
            candidate: current.candidate.clone(),
            tasks: current.tasks.clone(),
            facts: current.facts.clone(),
            refused: refused.map(|why| why.shortened(REASON_BYTES_MAX)),
        };
        if self.tried.len() >= TRIED_MAX {
            self.tried.pop_front();
        }
        self.tried.push_back(tried);
    }
}
