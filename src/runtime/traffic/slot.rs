//! The words of routing: slots, members, and which slot new connections go to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of listening sockets for one instance. Which version is in which slot is the supervisor's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both slots.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its place in an array of both.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The slot that this one is not.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// Who inherits the sockets of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    /// The version that had them last: what it did to them, it would do again.
    Same,
    /// Another version, or nobody knows which had them.
    Other,
}

/// Where new connections go. Connections that were made stay with the instance that accepted them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// All to one slot.
    All(Slot),
    /// A part to one slot, the rest to the other.
    Share {
        /// The slot that gets the part.
        to: Slot,
        /// The part of the new connections, 0 to 1.
        share: f64,
    },
}

impl Routing {
    /// The same routing in its plainest form: a share that is no share, or that 32 bits of chance cannot tell from all, is `All`.
    /// A share that is not a number gives `to` nothing.
    pub fn plain(self) -> Self {
        match self {
            Self::Share { to, share } if share >= 1.0 || Self::threshold(share) == u32::MAX => Self::All(to),
            Self::Share { to, share } if share.is_nan() || Self::threshold(share) == 0 => Self::All(to.other()),
            routing => routing,
        }
    }

    /// The slot that gets at least half of the new connections.
    pub fn main(self) -> Slot {
        match self {
            Self::All(slot) => slot,
            Self::Share { to, share } if share > 0.5 => to,
            Self::Share { to, .. } => to.other(),
        }
    }

    /// The draws of 32 random bits below this one belong to the share.
    pub(super) fn threshold(share: f64) -> u32 {
        // `as` saturates: a share below 0 or NaN is 0, one above 1 is the maximum.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturation is what is wanted")]
        let threshold = (share * 4_294_967_296.0) as u32;
        threshold
    }
}

/// A member of a listener's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// Handed out to the instance of a slot.
    Slot(Slot),
    /// The guard, K: never handed out, never chosen, the last of its group.
    Guard,
}

impl Role {
    /// All members in the order that a fresh group of slot A has.
    pub const ALL: [Self; 3] = [Self::Slot(Slot::A), Self::Slot(Slot::B), Self::Guard];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => slot.fmt(f),
            Self::Guard => f.write_str("k"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_are_none_or_all_are_said_plainly() {
        let share = |share| Routing::Share { to: Slot::B, share }.plain();
        for all in [1.0, 2.0, f64::INFINITY, 0.999_999_999_99] {
            assert_eq!(share(all), Routing::All(Slot::B), "{all}");
        }
        for none in [0.0, -0.5, f64::NAN, f64::NEG_INFINITY, 1e-12] {
            assert_eq!(share(none), Routing::All(Slot::A), "{none}");
        }
        assert_eq!(share(0.25), Routing::Share { to: Slot::B, share: 0.25 });
        assert_eq!(Routing::threshold(0.5), 1 << 31);
    }

    #[test]
    fn the_main_slot_has_the_larger_part() {
        assert_eq!(Routing::All(Slot::B).main(), Slot::B);
        assert_eq!(Routing::Share { to: Slot::B, share: 0.05 }.main(), Slot::A);
        assert_eq!(Routing::Share { to: Slot::B, share: 0.95 }.main(), Slot::B);
    }
}
