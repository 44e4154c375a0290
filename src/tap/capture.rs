//! What the tap copies for the supervisor: the orders of both slots, the bounds of all copies together, and the copies that wait
//! to be sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::copying::{Admit, Copied, Dropped, Extent, Reserved};
use super::wire::{Capture, CaptureCounts, Orders};
use crate::golden::Captured;
use crate::runtime::traffic::Slot;
use crate::time::{Timestamp, millis};

/// The memory of all copies together, those that are being made and those that wait, in bytes: a few of the largest ones.
const MEMORY_BYTES_MAX: usize = 16 << 20;
/// The largest body that is copied, in bytes, whatever an order says: a replay takes no larger answer.
pub(super) const BODY_BYTES_MAX: usize = 4 << 20;
/// An order holds for this time. The supervisor repeats it each second, so nothing is copied for one that is gone.
const ORDER_TIME: Duration = Duration::from_secs(5);
/// Bits of a connection's number below the second in which its tap was started: each tap has numbers of its own.
const CONNECTION_BITS: u32 = 24;

/// What all connections of a tap share about copies.
#[derive(Debug)]
pub(super) struct Captures {
    slots: [Rc<SlotCaptures>; 2],
    shared: Rc<Shared>,
}

/// A copy that waits to be sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub slot: Slot,
    pub captured: Captured,
    _memory: Reserved,
}

#[derive(Debug)]
struct Shared {
    used: Cell<usize>,
    counts: Cell<CaptureCounts>,
    waiting: RefCell<VecDeque<Waiting>>,
    connections: Cell<u64>,
}

/// The order of one slot.
#[derive(Debug)]
pub(super) struct SlotCaptures {
    slot: Slot,
    shared: Rc<Shared>,
    order: RefCell<Option<Capture>>,
    until: Cell<Instant>,
    /// Exchanges that may be copied now. It grows with time, to those of one second.
    tokens: Cell<f64>,
    filled: Cell<Instant>,
}

impl Captures {
    /// Nothing is copied.
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let shared = Rc::new(Shared {
            used: Cell::new(0),
            counts: Cell::default(),
            waiting: RefCell::default(),
            connections: Cell::new(since << CONNECTION_BITS),
        });
        let now = Instant::now();
        let slots = Slot::ALL.map(|slot| {
            let (order, tokens) = (RefCell::new(None), Cell::new(0.0));
            let (until, filled) = (Cell::new(now), Cell::new(now));
            Rc::new(SlotCaptures { slot, shared: Rc::clone(&shared), order, until, tokens, filled })
        });
        Self { slots, shared }
    }

    /// Takes the orders of the supervisor.
    pub fn order(&self, orders: Orders) {
        for (slot, order) in self.slots.iter().zip([orders.a, orders.b]) {
            if order.is_none() {
                self.shared.waiting.borrow_mut().retain(|waiting| waiting.slot != slot.slot);
            }
            slot.until.set(Instant::now() + ORDER_TIME);
            *slot.order.borrow_mut() = order;
        }
    }

    /// The copies of a slot.
    pub fn of(&self, slot: Slot) -> Rc<SlotCaptures> {
        Rc::clone(&self.slots[usize::from(slot == Slot::B)])
    }

    /// What was copied, and what was given up.
    pub fn counts(&self) -> CaptureCounts {
        self.shared.counts.get()
    }

    /// Sends what waits, oldest first, until `send` cannot take more.
    pub fn send(&self, mut send: impl FnMut(&Waiting) -> Sent) {
        loop {
            // Taken out first: `send` may free memory, which must not find the queue borrowed.
            let Some(next) = self.shared.waiting.borrow_mut().pop_front() else { return };
            match send(&next) {
                Sent::Taken => self.shared.count(|counts| counts.sent += 1),
                Sent::Never => self.shared.count(|counts| counts.not_taken += 1),
                Sent::Later => {
                    self.shared.waiting.borrow_mut().push_front(next);
                    return;
                }
            }
        }
    }
}

/// What became of a copy that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The supervisor has it.
    Taken,
    /// The supervisor takes no more now.
    Later,
    /// It cannot be sent.
    Never,
}

impl Shared {
    fn count(&self, add: impl FnOnce(&mut CaptureCounts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }
}

impl SlotCaptures {
    /// A number for a new connection.
    pub fn connection(&self) -> u64 {
        let next = self.shared.connections.get() + 1;
        self.shared.connections.set(next);
        next
    }

    /// A copy is complete. It waits until it is sent; if there is no order for it any more, it is dropped.
    pub fn push(&self, connection: u64, listener: &str, begun: SystemTime, copied: Copied) {
        if self.order().is_none() {
            return;
        }
        let Copied { index, begun_us, us, request, response, events, reserved } = copied;
        let at = (begun + Duration::from_micros(begun_us)).duration_since(UNIX_EPOCH).unwrap_or_default();
        let (at, duration) = (Timestamp::from_unix_ms(millis(at)), Duration::from_micros(us));
        let listener = listener.to_owned();
        let captured = Captured { at, connection, index, listener, request, response, events, duration };
        self.shared.waiting.borrow_mut().push_back(Waiting { slot: self.slot, captured, _memory: reserved });
    }

    fn order(&self) -> Option<Capture> {
        if self.until.get() < Instant::now() {
            *self.order.borrow_mut() = None;
        }
        self.order.borrow().clone()
    }
}

impl Admit for SlotCaptures {
    fn admit(&self, method: &str) -> Option<Extent> {
        // Most of the time there is no order, and then this is all that a request costs.
        self.order.borrow().as_ref()?;
        let order = self.order()?;
        if order.methods.as_ref().is_some_and(|methods| !methods.iter().any(|one| one == method)) {
            return None;
        }
        let (now, most) = (Instant::now(), f64::from(order.per_second.max(1)));
        let since = now.duration_since(self.filled.replace(now)).as_secs_f64();
        let tokens = (self.tokens.get() + since * f64::from(order.per_second)).min(most);
        if tokens < 1.0 {
            self.tokens.set(tokens);
            return None;
        }
        self.tokens.set(tokens - 1.0);
        let body_bytes_max = order.body_bytes_max.min(BODY_BYTES_MAX);
        Some(Extent { body_bytes_max, events_max: order.events_max })
    }

    fn reserve(&self, bytes: usize) -> bool {
        let used = self.shared.used.get() + bytes;
        let has_place = used <= MEMORY_BYTES_MAX;
        if has_place {
            self.shared.used.set(used);
        }
        has_place
    }

    fn release(&self, bytes: usize) {
        self.shared.used.set(self.shared.used.get().saturating_sub(bytes));
    }

    fn dropped(&self, why: Dropped) {
        self.shared.count(|counts| match why {
            Dropped::TooLarge => counts.too_large += 1,
            Dropped::Full => counts.full += 1,
            Dropped::Unfinished => counts.unfinished += 1,
            Dropped::Streams => counts.streams += 1,
        });
    }
}
