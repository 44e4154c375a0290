//! The order of a replay: which requests wait for which, and which overlap. Pure.
//!
//! Requests that overlapped in the recording overlap again, so that a version with a race, or one that answers only one
//! request at a time, is found. A request starts after all those that had ended before it began. It starts beside those that
//! had not, but never before the end of the one before it on its connection. An exchange without times is alone: it waits for
//! all before it, and all after it wait for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::format::Exchange;

/// Requests that are under way at once. A service under test has the bounds of its configuration, so this is the concurrency of
/// a few users and not that of a load test.
pub const OVERLAP_MAX: usize = 16;

/// The longest pause between the starts of two overlapping requests, in milliseconds: long enough that a service reads the
/// first one first, and short enough that a run of 10,000 exchanges needs no minutes more.
const PAUSE_MS_MAX: u64 = 20;

/// The start of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The number of the exchange in its run, from 0.
    pub exchange: usize,
    /// The time after the start before it, if that exchange is still under way.
    pub pause: Duration,
    /// How many of [`Order::ends`], from the first one, must be over before it.
    after: usize,
    /// The exchange before it on its connection, which must be over too.
    previous: Option<usize>,
}

/// The plan of a replay: the same exchanges give the same plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// All exchanges, in the order in which they start.
    starts: Vec<Start>,
    /// All exchanges, in the order in which they ended when they were recorded.
    ends: Vec<usize>,
}

impl Order {
    /// Plans the replay of a run.
    pub fn of(exchanges: &[Exchange]) -> Self {
        let mut order = Self { starts: Vec::with_capacity(exchanges.len()), ends: Vec::with_capacity(exchanges.len()) };
        let (mut from, mut connections) = (0, BTreeMap::new());
        while from < exchanges.len() {
            let timed = exchanges[from..].iter().take_while(|exchange| exchange.recorded.is_some()).count();
            order.add(exchanges, from..from + timed.max(1), &mut connections);
            from += timed.max(1);
        }
        order
    }

    /// Adds exchanges that all have times, or one without. They start after everything that was added before.
    fn add(&mut self, all: &[Exchange], range: std::ops::Range<usize>, connections: &mut BTreeMap<u64, usize>) {
        let before = self.starts.len();
        // A connection has its order in the run, also if the clock was set back during the recording.
        let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
        let mut times: Vec<(usize, u64, u64)> = range
            .map(|index| {
                let Some(recorded) = all[index].recorded else { return (index, 0, 0) };
                let began = latest.entry(recorded.connection).or_default();
                *began = (*began).max(recorded.began_ms);
                (index, *began, began.saturating_add(recorded.took_ms))
            })
            .collect();
        times.sort_by_key(|&(index, began, _)| (began, index));
        let mut ends: Vec<(u64, usize)> =
            times.iter().enumerate().map(|(position, &(_, _, end))| (end, position)).collect();
        ends.sort_unstable();
        let mut last_began = None;
        for (position, &(exchange, began, _)) in times.iter().enumerate() {
            // What ended in the millisecond in which it began counts as ended, if it started before: nothing waits in a circle.
            let after = before + ends.partition_point(|&end| end < (began, position));
            let previous = all[exchange].recorded.and_then(|it| connections.insert(it.connection, exchange));
            let distance = last_began.map_or(0, |last: u64| began.saturating_sub(last)).min(PAUSE_MS_MAX);
            last_began = Some(began);
            self.starts.push(Start { exchange, pause: Duration::from_millis(distance), after, previous });
        }
        self.ends.extend(ends.into_iter().map(|(_, position)| times[position].0));
    }
}

impl Order {
    /// Whether requests of the run overlap, so that answers may depend on which one is served first.
    pub fn overlaps(&self) -> bool {
        self.starts.iter().enumerate().any(|(position, start)| start.after < position)
    }
}

/// How far a replay is.
#[derive(Clone, Debug)]
pub struct Progress {
    order: Order,
    /// How many of the starts were given out.
    started: usize,
    /// How many of the ends, from the first one, are over.
    ended: usize,
    over: Vec<bool>,
    under_way: usize,
}

impl Progress {
    /// Nothing has started yet.
    pub fn new(order: Order) -> Self {
        let over = vec![false; order.starts.len()];
        Self { order, started: 0, ended: 0, over, under_way: 0 }
    }

    /// The next exchange, if it may start now. It has started when [`Self::start`] says so.
    pub fn next(&self) -> Option<Start> {
        let next = *self.order.starts.get(self.started)?;
        let is_free = self.under_way < OVERLAP_MAX
            && self.ended >= next.after
            && next.previous.is_none_or(|previous| self.over[previous]);
        is_free.then_some(next)
    }

    /// The next exchange starts.
    pub fn start(&mut self) {
        self.started += 1;
        self.under_way += 1;
    }

    /// An exchange that has started is over.
    pub fn end(&mut self, exchange: usize) {
        self.under_way = self.under_way.saturating_sub(1);
        self.over[exchange] = true;
        while self.order.ends.get(self.ended).is_some_and(|&next| self.over[next]) {
            self.ended += 1;
        }
    }

    /// Whether every exchange has started.
    pub fn is_all_started(&self) -> bool {
        self.started == self.order.starts.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden::Recorded;
    use crate::http::Request;

    /// Exchanges with connection, begin and duration; `None` for one without times.
    fn exchanges(times: &[Option<(u64, u64, u64)>]) -> Vec<Exchange> {
        let exchange = |times: &Option<(u64, u64, u64)>| Exchange {
            request: Request::get("/"),
            recorded: times.map(|(connection, began_ms, took_ms)| Recorded { connection, began_ms, took_ms }),
            ..Exchange::default()
        };
        times.iter().map(exchange).collect()
    }

    /// Everything that can start starts, then the first of it ends, and so on: the exchanges under way after each step.
    fn waves(times: &[Option<(u64, u64, u64)>]) -> Vec<Vec<usize>> {
        let mut progress = Progress::new(Order::of(&exchanges(times)));
        let (mut under_way, mut all) = (Vec::new(), Vec::new());
        loop {
            while let Some(start) = progress.next() {
                progress.start();
                under_way.push(start.exchange);
            }
            if under_way.is_empty() {
                assert!(progress.is_all_started(), "stuck: {times:?}");
                return all;
            }
            all.push(under_way.clone());
            progress.end(under_way.remove(0));
        }
    }

    #[test]
    fn without_times_one_follows_the_other() {
        assert_eq!(waves(&[None, None, None]), [[0], [1], [2]]);
        let mixed = [Some((1, 0, 50)), Some((2, 10, 50)), None, Some((3, 0, 9)), Some((4, 0, 9))];
        assert_eq!(waves(&mixed), [vec![0, 1], vec![1], vec![2], vec![3, 4], vec![4]]);
    }

    #[test]
    fn what_overlapped_overlaps_and_what_was_over_is_waited_for() {
        // A long one beside two short ones, and one after all of them.
        let times = [Some((1, 0, 100)), Some((2, 10, 20)), Some((2, 40, 20)), Some((3, 100, 5))];
        assert_eq!(waves(&times), [vec![0, 1], vec![1], vec![2], vec![3]]);
        let order = Order::of(&exchanges(&times));
        assert_eq!(order, Order::of(&exchanges(&times)), "the same run gives the same plan");
        let pauses: Vec<u128> = order.starts.iter().map(|start| start.pause.as_millis()).collect();
        assert_eq!(pauses, [0, 10, 20, 20]);
        assert!(order.overlaps() && !Order::of(&exchanges(&[None, Some((1, 0, 5)), Some((2, 5, 5))])).overlaps());
        // Pipelined requests of one connection are answered one after the other.
        assert_eq!(waves(&[Some((1, 0, 50)), Some((1, 1, 50))]), [[0], [1]]);
        // The order in the file does not count, but that of a connection does.
        assert_eq!(waves(&[Some((1, 90, 5)), Some((2, 0, 5)), Some((1, 10, 5))]), [[1], [0], [2]]);
        // In one millisecond, the order in the run counts.
        assert_eq!(waves(&[Some((1, 7, 0)), Some((2, 7, 0)), Some((3, 7, 0))]), [[0], [1], [2]]);
    }

    #[test]
    fn no_more_than_the_maximum_is_under_way() {
        let all: Vec<_> = (0..100).map(|connection| Some((connection, 0, 1_000))).collect();
        let waves = waves(&all);
        assert_eq!((waves.iter().map(Vec::len).max(), waves.len()), (Some(OVERLAP_MAX), 100));
        let huge = [Some((1, u64::MAX, u64::MAX)), Some((2, u64::MAX, u64::MAX))];
        assert_eq!(self::waves(&huge), [vec![0], vec![1]]);
    }

    proptest! {
        /// Whatever the times are, every exchange starts once, and after what had ended before it.
        #[test]
        fn every_exchange_starts_and_none_too_early(
            times in proptest::collection::vec(proptest::option::weighted(0.9, (0_u64..4, 0_u64..30, 0_u64..12)), 0..40),
            pick in proptest::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let all = exchanges(&times);
            let mut progress = Progress::new(Order::of(&all));
            let (mut under_way, mut over) = (Vec::new(), vec![false; all.len()]);
            let mut count = 0;
            for pick in pick.iter().cycle() {
                while let Some(start) = progress.next() {
                    progress.start();
                    count += 1;
                    let index = start.exchange;
                    for (other, exchange) in all.iter().enumerate() {
                        let (Some(it), Some(before)) = (all[index].recorded, exchange.recorded) else {
                            prop_assert!(over[other] || other >= index);
                            continue;
                        };
                        let is_connection = it.connection == before.connection && other < index;
                        if is_connection {
                            prop_assert!(over[other], "{other} before {index}");
                        }
                    }
                    under_way.push(index);
                }
                if under_way.is_empty() {
                    break;
                }
                let ended = under_way.remove(pick.index(under_way.len()));
                over[ended] = true;
                progress.end(ended);
            }
            prop_assert_eq!(count, all.len());
        }
    }
}
