//! The terms of routing: slots, members, and the slot that gets new connections.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of listening sockets for one instance. The supervisor decides which version uses which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The first slot.
    A,
    /// The second slot.
    B,
}

impl Slot {
    /// Both slots.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The index in an array of both slots.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The opposite slot.
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

/// The version that inherits the sockets of a slot next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextVersion {
    /// The same version as before: it would make the same changes to the sockets again.
    Same,
    /// Another version, or it is not known which version had the sockets.
    Other,
}

/// Where new connections go. Established connections stay with the instance that accepted them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// All connections go to one slot.
    All(Slot),
    /// A share of the connections goes to one slot, the rest to the other.
    Share {
        /// The slot that gets the share.
        to: Slot,
        /// The share of new connections, 0.0 to 1.0.
        share: f64,
    },
}

impl Routing {
    /// Simplifies the routing: a share of nothing or of everything, to a precision of 32 bits, becomes `All`. If the
    /// share is not a number, `to` gets nothing.
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

    /// A random 32-bit number below this threshold belongs to the share.
    pub(super) fn threshold(share: f64) -> u32 {
        // `as` saturates: a share below 0 or NaN is 0, one above 1 is the maximum.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "values out of range must saturate"
        )]
        let threshold = (share * 4_294_967_296.0) as u32;
        threshold
    }
}

/// A member of a listener's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// The socket that the instance of this slot inherits.
    Slot(Slot),
    /// The socket of the tap in front of this slot. Only TCP groups have it. No instance inherits it.
    Tap(Slot),
    /// The guard, K: no instance inherits it, the program never chooses it, and it is the last member of its group.
    Guard,
}

impl Role {
    /// All members of a TCP group, in the order of a new group that begins with slot A.
    pub const STREAM: [Self; 5] =
        [Self::Slot(Slot::A), Self::Slot(Slot::B), Self::Tap(Slot::A), Self::Tap(Slot::B), Self::Guard];
    /// All members of a UDP group, in the order of a new group that begins with slot A.
    pub const DATAGRAM: [Self; 3] = [Self::Slot(Slot::A), Self::Slot(Slot::B), Self::Guard];

    /// All members of a TCP or a UDP group.
    pub const fn all(is_stream: bool) -> &'static [Self] {
        if is_stream { &Self::STREAM } else { &Self::DATAGRAM }
    }
}

/// The shares of a slot's new connections that go through the tap, 0.0 to 1.0. Zero while no tap accepts connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taps {
    /// The share of slot A.
    pub a: f64,
    /// The share of slot B.
    pub b: f64,
}

impl Taps {
    /// No connection goes through the tap.
    pub const NONE: Self = Self { a: 0.0, b: 0.0 };

    /// The share of a slot.
    pub const fn of(self, slot: Slot) -> f64 {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => slot.fmt(f),
            Self::Tap(slot) => write!(f, "t{slot}"),
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
