//! The packets between the supervisor and the tap.

use serde::{Deserialize, Serialize};

use crate::golden::Captured;
use crate::live::Sample;
use crate::runtime::traffic::Slot;

/// Accept connections at the listener in the packet. The text has the slot, the listener's name, the address of the
/// instances and the mark that leads a connection to the slot, a line each.
pub(super) const LISTEN: u8 = b'L';
/// Hold the socket of a slot in the packet, and do nothing with it. As long as the tap holds it, the socket stays a member
/// of its group when supervisor, store and instance have ended, and no other member moves. The text is its name.
pub(super) const HOLD: u8 = b'H';
/// Copy exchanges: the text has the [`Orders`] as JSON. They hold for some seconds.
pub(super) const CAPTURE: u8 = b'C';
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
    /// A whole exchange that an order asked for, with its content codings.
    #[serde(skip)]
    Captured {
        /// The slot.
        slot: Slot,
        /// The exchange.
        captured: Captured,
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
    /// Exchanges that were copied.
    pub copies: CaptureCounts,
}

/// What the tap copies of each slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Of slot A.
    pub a: Option<Capture>,
    /// Of slot B.
    pub b: Option<Capture>,
}

/// Which exchanges of a slot are copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The most exchanges each second.
    pub per_second: u32,
    /// Only those with these methods, if it is set.
    pub methods: Option<Vec<String>>,
    /// The largest body, in bytes. An exchange with a larger one is not copied.
    pub body_bytes_max: usize,
    /// Of a stream of server-sent events, only this number of events is copied. With 0 no stream is copied.
    pub events_max: usize,
}

/// What became of the exchanges that an order asked for, since the tap was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureCounts {
    /// The supervisor got them.
    pub sent: u64,
    /// They had a body beyond the bound.
    pub too_large: u64,
    /// There was no memory for them.
    pub full: u64,
    /// They did not end as HTTP says.
    pub unfinished: u64,
    /// They became another protocol, or a stream that no order asked for.
    pub streams: u64,
    /// They could not be sent.
    pub not_taken: u64,
}
