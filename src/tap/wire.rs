//! The packets between the supervisor and the tap.

use serde::{Deserialize, Serialize};

use crate::live::Sample;
use crate::runtime::traffic::Slot;

/// Accept connections at the listener in the packet. The text has the slot, the listener's name, the address of the
/// instances and the mark that leads a connection to the slot, a line each.
pub(super) const LISTEN: u8 = b'L';
/// Hold the socket of a slot in the packet, and do nothing with it. As long as the tap holds it, the socket stays a member
/// of its group when supervisor, store and instance have ended, and no other member moves. The text is its name.
pub(super) const HOLD: u8 = b'H';
/// All listeners were named: release the others.
pub(super) const ALL_NAMED: u8 = b'A';
/// Exit at once: the service has ended.
pub(super) const END: u8 = b'E';

/// The largest report, in bytes: 65 routes with all buckets of their histograms. Below the usual maximum of a packet.
pub(super) const REPORT_BYTES_MAX: usize = 200 << 10;

/// What the tap tells the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// What the users of a slot got since the last report.
    Sample {
        /// The slot.
        slot: Slot,
        /// The counts.
        sample: Sample,
    },
    /// The tap works. Sent at least once a second.
    Beat(Gauges),
}

/// How the tap is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gauges {
    /// Connections that it relays now.
    pub open: u64,
    /// Connections that it has accepted since it was started.
    pub accepted: u64,
    /// Of these: the instance could not be reached, so the client got a reset.
    pub unreached: u64,
    /// Whether it has no descriptors or places for more connections.
    pub is_full: bool,
}
