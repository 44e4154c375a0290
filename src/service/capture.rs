//! Which exchanges of users the tap copies, and for whom.
//!
//! Each consumer says what it wants of each slot. The tap gets one order for each slot, which is what all consumers want
//! together. So a consumer can get more than it wants, and [`Captures::is_for`] says which exchanges are for it.

use std::collections::BTreeMap;

use crate::golden::Captured;
use crate::runtime::traffic::Slot;
use crate::tap::{Capture, CaptureCounts, Orders};

/// A part of the service that wants copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    /// The recording that an operator asked for.
    Recording,
    /// The standing sample of `golden.record`.
    Sample,
    /// The comparison of the candidate's answers with Active's.
    Shadow,
}

/// What all consumers want, and what became of it.
#[derive(Debug, Default)]
pub struct Captures {
    wants: BTreeMap<Consumer, Orders>,
    /// What the tap counted. A tap that is replaced begins again.
    tap: CaptureCounts,
    before: CaptureCounts,
    /// Exchanges with a body that cannot be decoded.
    undecoded: u64,
}

impl Captures {
    /// Says what a consumer wants from now on.
    pub fn want(&mut self, consumer: Consumer, orders: Orders) {
        if orders == Orders::default() {
            self.wants.remove(&consumer)
        } else {
            self.wants.insert(consumer, orders)
        };
    }

    /// Whether any consumer wants something.
    pub fn are_wanted(&self) -> bool {
        !self.wants.is_empty()
    }

    /// What the tap is to copy: what all consumers want together.
    pub fn orders(&self) -> Orders {
        let union = |of: fn(&Orders) -> Option<&Capture>| self.wants.values().filter_map(of).cloned().reduce(both);
        Orders { a: union(|orders| orders.a.as_ref()), b: union(|orders| orders.b.as_ref()) }
    }

    /// Whether an exchange of a slot is one that the consumer wants.
    pub fn is_for(&self, consumer: Consumer, slot: Slot, exchange: &Captured) -> bool {
        let Some(orders) = self.wants.get(&consumer) else { return false };
        let wanted = if slot == Slot::A { &orders.a } else { &orders.b };
        let Some(Capture { methods, body_bytes_max, events_max, .. }) = wanted else { return false };
        let bodies = exchange.request.body.len().max(exchange.response.body.len());
        methods.as_ref().is_none_or(|methods| methods.contains(&exchange.request.method))
            && bodies <= *body_bytes_max
            && exchange.events.is_none_or(|events| events <= *events_max)
    }

    /// The tap said what it has counted since it was started.
    pub fn on_counts(&mut self, counts: CaptureCounts) {
        if counts.sent < self.tap.sent {
            self.before = self.counts();
        }
        self.tap = counts;
    }

    /// An exchange has a body that cannot be decoded.
    pub fn on_undecoded(&mut self) {
        self.undecoded += 1;
    }

    /// What the taps of this supervisor copied and gave up.
    pub fn counts(&self) -> CaptureCounts {
        let (a, b) = (&self.before, &self.tap);
        CaptureCounts {
            sent: a.sent + b.sent,
            too_large: a.too_large + b.too_large,
            full: a.full + b.full,
            unfinished: a.unfinished + b.unfinished,
            streams: a.streams + b.streams,
            not_taken: a.not_taken + b.not_taken,
        }
    }

    /// Exchanges that were dropped because a body could not be decoded.
    pub const fn undecoded(&self) -> u64 {
        self.undecoded
    }
}

/// What two consumers want together.
fn both(one: Capture, other: Capture) -> Capture {
    let methods = one.methods.zip(other.methods).map(|(mut methods, more)| {
        methods.extend(more);
        methods.sort_unstable();
        methods.dedup();
        methods
    });
    Capture {
        per_second: one.per_second.saturating_add(other.per_second),
        methods,
        body_bytes_max: one.body_bytes_max.max(other.body_bytes_max),
        events_max: one.events_max.max(other.events_max),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{Request, Response};
    use crate::time::Timestamp;

    fn capture(per_second: u32, methods: Option<&[&str]>, body_bytes_max: usize, events_max: usize) -> Capture {
        let methods = methods.map(|methods| methods.iter().map(|&method| method.to_owned()).collect());
        Capture { per_second, methods, body_bytes_max, events_max }
    }

    fn exchange(method: &str, bytes: usize, events: Option<usize>) -> Captured {
        Captured {
            at: Timestamp::default(),
            connection: 1,
            index: 0,
            listener: "http".to_owned(),
            request: Request { method: method.to_owned(), ..Request::get("/") },
            response: Response { status: 200, headers: Vec::new(), body: vec![0; bytes] },
            events,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn the_tap_copies_what_all_want_together_and_each_gets_what_it_wants() {
        let mut captures = Captures::default();
        assert_eq!(captures.orders(), Orders::default());
        let recording = Orders { a: Some(capture(50, None, 1_000, 3)), b: None };
        let shadow = Orders { a: Some(capture(5, Some(&["GET", "HEAD"]), 4_000, 0)), b: None };
        captures.want(Consumer::Recording, recording.clone());
        captures.want(Consumer::Shadow, shadow.clone());
        assert_eq!(captures.orders(), Orders { a: Some(capture(55, None, 4_000, 3)), b: None });
        for (one, for_recording, for_shadow) in [
            (exchange("GET", 10, None), true, true),
            (exchange("POST", 10, None), true, false),
            (exchange("GET", 3_000, None), false, true),
            (exchange("GET", 10, Some(2)), true, false),
        ] {
            assert_eq!(captures.is_for(Consumer::Recording, Slot::A, &one), for_recording, "{one:?}");
            assert_eq!(captures.is_for(Consumer::Shadow, Slot::A, &one), for_shadow, "{one:?}");
            assert!(!captures.is_for(Consumer::Sample, Slot::A, &one));
            assert!(!captures.is_for(Consumer::Recording, Slot::B, &one));
        }
        captures.want(Consumer::Recording, Orders::default());
        assert_eq!(captures.orders(), shadow);
    }

    #[test]
    fn the_counts_of_a_tap_that_was_replaced_are_kept() {
        let mut captures = Captures::default();
        captures.on_counts(CaptureCounts { sent: 5, too_large: 1, ..CaptureCounts::default() });
        captures.on_counts(CaptureCounts { sent: 9, too_large: 2, ..CaptureCounts::default() });
        captures.on_counts(CaptureCounts { sent: 1, ..CaptureCounts::default() });
        let counts = captures.counts();
        assert_eq!((counts.sent, counts.too_large), (10, 2));
    }
}
