//! Reads the id of an instance.

use crate::lifecycle::Slot;

/// The suffix of the id of an instance that only empties a queue.
pub const DRAINS: &str = "-drain";

/// True if the instance with this id only empties a queue.
pub fn drains(id: &str) -> bool {
    id.ends_with(DRAINS)
}

/// The slot whose sockets the instance with this id has.
pub fn slot_of(id: &str) -> Slot {
    Named::parse(id).map_or(Slot::A, |named| named.slot)
}

/// The parts of an instance's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The number of the journal record that started it.
    pub seq: u64,
    /// Its slot.
    pub slot: Slot,
    /// True if it only empties a queue.
    pub drains: bool,
}

impl Named {
    /// Parses an id; `None` if rei did not make it.
    pub fn parse(id: &str) -> Option<Self> {
        let (id, drains) = id.strip_suffix(DRAINS).map_or((id, false), |id| (id, true));
        let (rest, slot) = id.rsplit_once('-')?;
        let slot = Slot::ALL.into_iter().find(|known| known.to_string().to_lowercase() == slot)?;
        Some(Self { seq: rest.rsplit('-').next()?.parse().ok()?, slot, drains })
    }
}
