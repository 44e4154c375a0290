//! What the id of an instance says.

use crate::lifecycle::Slot;

/// What the id of an instance ends with that only empties a queue.
pub const DRAINS: &str = "-drain";

/// Whether the instance of this id only empties a queue.
pub fn drains(id: &str) -> bool {
    id.ends_with(DRAINS)
}

/// The slot whose sockets the instance of this id has.
pub fn slot_of(id: &str) -> Slot {
    Named::parse(id).map_or(Slot::A, |named| named.slot)
}

/// What an instance's id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The record that started it.
    pub seq: u64,
    /// Its slot.
    pub slot: Slot,
    /// Whether it only empties a queue.
    pub drains: bool,
}

impl Named {
    /// Reads an id; `None` for one that is none of ours.
    pub fn parse(id: &str) -> Option<Self> {
        let (id, drains) = id.strip_suffix(DRAINS).map_or((id, false), |id| (id, true));
        let (rest, slot) = id.rsplit_once('-')?;
        let slot = Slot::ALL.into_iter().find(|known| known.to_string().to_lowercase() == slot)?;
        Some(Self { seq: rest.rsplit('-').next()?.parse().ok()?, slot, drains })
    }
}
