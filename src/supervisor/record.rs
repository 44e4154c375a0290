//! What the journal holds: one event of the lifecycle with the effects that follow from it.

use serde::{Deserialize, Serialize};

use crate::lifecycle::{Effect, Event, Lifecycle};
use crate::time::Timestamp;

/// The body of a journal record. The effects are written too, so that a reader needs no replay to know what was done,
/// and a replay can be held against them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// What was to be done about it.
    pub effects: Vec<Effect>,
}

/// A record whose effects are not those that the lifecycle gives today.
#[derive(Debug, thiserror::Error)]
#[error("record {seq} of the journal does not follow from those before it")]
pub struct Divergence {
    /// The record.
    pub seq: u64,
}

impl Divergence {
    /// The operator's next step.
    pub fn hint(&self) -> String {
        "the journal was written by a version of rei that decides otherwise: end the evolution with that version, or \
         begin a new state directory"
            .to_owned()
    }
}

/// Rebuilds the state from records that follow `state`.
///
/// # Errors
/// When a record's effects are not those that the core gives.
pub fn replay<'a>(
    mut state: Lifecycle,
    records: impl IntoIterator<Item = (u64, Timestamp, &'a Entry)>,
) -> Result<Lifecycle, Divergence> {
    for (seq, at, entry) in records {
        if state.step(at, entry.event.clone()) != entry.effects {
            return Err(Divergence { seq });
        }
    }
    Ok(state)
}
