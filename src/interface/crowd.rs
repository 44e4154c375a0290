//! Limits the connections of one socket: which callers have a place, and which connection is closed to free one.
//!
//! A command must find a place, whatever other callers do. So there are at most [`STREAMS_MAX`] streams, and a caller
//! that is not the owner has only a few places. If all places are taken, a connection that waits for a call is closed:
//! nothing is lost by that. A call that is being answered is never interrupted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections at a time; more wait in the listener's queue. An operator has a handful.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Streams among them: half, so that the other half is for commands.
pub(super) const STREAMS_MAX: usize = 16;
/// Maximum number of connections of one user that neither owns the socket nor is root, and of all callers that may belong
/// to an instance. That is enough for a terminal that watches, a command and a script.
pub(super) const GUEST_CONNECTIONS_MAX: usize = 8;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Root's or the owner's.
    Owner,
    /// Another user's.
    Guest(u32),
    /// A caller's, if it is not known yet whether it may call.
    Unproven,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Waits for a call.
    Waits,
    /// Is being answered.
    Calls,
    /// Gets one reply after the other.
    Streams,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    whose: Whose,
    does: Does,
    leave: Arc<Notify>,
}

/// All connections of one socket, in the order in which they began what they do now.
#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_age: BTreeMap<u64, Connection>,
}

impl Entries {
    fn count(&self, of: impl Fn(&Connection) -> bool) -> usize {
        self.by_age.values().filter(|entry| of(entry)).count()
    }

    fn add(&mut self, entry: Connection) -> u64 {
        self.next += 1;
        self.by_age.insert(self.next, entry);
        self.next
    }

    /// Among `of`: the oldest connection of the caller that has the most of them.
    fn oldest(&self, of: impl Fn(&Connection) -> bool) -> Option<u64> {
        let candidates = || self.by_age.iter().filter(|(_, entry)| of(entry));
        let (age, _) = candidates().min_by_key(|(age, entry)| {
            let others = candidates().filter(|(_, other)| other.whose == entry.whose).count();
            (std::cmp::Reverse(others), **age)
        })?;
        Some(*age)
    }

    /// Closes one connection of `of`: one that waits, else a stream.
    fn free_place(&mut self, of: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self.oldest(|entry| entry.does == Does::Waits && of(entry));
        let goes = waiting.or_else(|| self.oldest(|entry| entry.does == Does::Streams && of(entry)));
        let entry = goes.and_then(|age| self.by_age.remove(&age));
        if let Some(entry) = &entry {
            entry.leave.notify_one();
        }
        entry.is_some()
    }

    fn is_full(&self) -> bool {
        self.by_age.len() >= CONNECTIONS_MAX && self.by_age.values().all(|entry| entry.does == Does::Calls)
    }
}

/// The connections of one socket.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    entries: Arc<Mutex<Entries>>,
    changed: Arc<Notify>,
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a new connection can have a place. Cancel safe.
    pub(super) async fn wait_for_place(&self) {
        while self.lock().is_full() {
            self.changed.notified().await;
        }
    }

    /// A place. It may close another connection to free one. `None` if a call is under way on each connection of this user.
    pub(super) fn enter(&self, whose: Whose) -> Option<Place> {
        let mut entries = self.lock();
        let own = |entry: &Connection| entry.whose == whose;
        if whose != Whose::Owner && entries.count(own) >= GUEST_CONNECTIONS_MAX && !entries.free_place(own) {
            return None;
        }
        if entries.by_age.len() >= CONNECTIONS_MAX && !entries.free_place(|_| true) {
            return None;
        }
        let leave = Arc::new(Notify::new());
        let age = entries.add(Connection { whose, does: Does::Waits, leave: Arc::clone(&leave) });
        drop(entries);
        Some(Place { crowd: self.clone(), age, leave })
    }
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    age: u64,
    leave: Arc<Notify>,
}

impl Place {
    /// Returns when the connection has to be closed to free its place. Cancel safe.
    pub(super) fn left(&self) -> impl Future<Output = ()> + use<> {
        let leave = Arc::clone(&self.leave);
        async move {
            leave.notified().await;
            // It gives the same answer if it is called again.
            leave.notify_one();
        }
    }

    /// It waits for a call.
    pub(super) fn waits(&mut self) {
        self.does(Does::Waits);
    }

    /// Its call is being answered: once, or repeatedly if it is a stream.
    pub(super) fn calls(&mut self, streams: bool) {
        if streams {
            let mut entries = self.crowd.lock();
            if entries.count(|entry| entry.does == Does::Streams) >= STREAMS_MAX {
                entries.free_place(|entry| entry.does == Does::Streams);
            }
        }
        self.does(if streams { Does::Streams } else { Does::Calls });
    }

    /// It is known now whose it is.
    pub(super) fn belongs_to(&mut self, whose: Whose) {
        if let Some(entry) = self.crowd.lock().by_age.get_mut(&self.age) {
            entry.whose = whose;
        }
    }

    fn does(&mut self, does: Does) {
        let mut entries = self.crowd.lock();
        // A connection that was closed has no place any more.
        if let Some(entry) = entries.by_age.remove(&self.age) {
            self.age = entries.add(Connection { does, ..entry });
        }
        drop(entries);
        self.crowd.changed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().by_age.remove(&self.age);
        self.crowd.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn is_there(what: impl Future<Output = ()>) -> bool {
        std::pin::pin!(what).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn has_to_go(place: &Place) -> bool {
        is_there(place.left())
    }

    fn gone(places: &[Place]) -> Vec<usize> {
        places.iter().enumerate().filter(|(_, place)| has_to_go(place)).map(|(nth, _)| nth).collect()
    }

    #[test]
    fn who_waits_longest_makes_room_and_who_calls_never() {
        let crowd = Crowd::default();
        let mut places: Vec<Place> = (0..CONNECTIONS_MAX).map(|_| crowd.enter(Whose::Owner).unwrap()).collect();
        places[0].calls(false);
        places[1].calls(true);
        places[2].calls(false);
        places[2].waits();
        let _new = crowd.enter(Whose::Owner).unwrap();
        assert_eq!(gone(&places), [3], "0 calls, 1 streams, 2 has waited for less long");
        places[4..].iter_mut().for_each(|place| place.calls(false));
        places[2].calls(false);
        let mut new = crowd.enter(Whose::Owner);
        assert!(new.is_some(), "the first newcomer waits still");
        new.as_mut().unwrap().calls(false);
        assert!(crowd.enter(Whose::Owner).is_some() && has_to_go(&places[1]), "then a stream goes");
        assert!(!has_to_go(&places[0]));
    }

    #[test]
    fn where_all_are_being_answered_the_next_waits_for_the_first_to_end() {
        let crowd = Crowd::default();
        let mut places: Vec<Place> = (0..CONNECTIONS_MAX).map(|_| crowd.enter(Whose::Owner).unwrap()).collect();
        places.iter_mut().for_each(|place| place.calls(false));
        assert!(crowd.enter(Whose::Owner).is_none() && !is_there(crowd.wait_for_place()));
        places.pop();
        assert!(is_there(crowd.wait_for_place()) && crowd.enter(Whose::Owner).is_some());
        assert!(gone(&places).is_empty());
    }

    #[test]
    fn streams_leave_half_of_the_places_to_others() {
        let crowd = Crowd::default();
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            places.push(crowd.enter(Whose::Owner).unwrap());
            places.last_mut().unwrap().calls(true);
        }
        assert_eq!(gone(&places), (0..CONNECTIONS_MAX - STREAMS_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn a_guest_makes_room_for_itself_and_the_owner_has_places_left() {
        let crowd = Crowd::default();
        let mut owners = crowd.enter(Whose::Owner).unwrap();
        owners.calls(true);
        for whose in [Whose::Guest(1000), Whose::Unproven] {
            let mut guests: Vec<Place> = (0..GUEST_CONNECTIONS_MAX + 2).map(|_| crowd.enter(whose).unwrap()).collect();
            assert_eq!(gone(&guests), [0, 1], "{whose:?}");
            guests.iter_mut().for_each(|place| place.calls(false));
            assert!(crowd.enter(whose).is_none(), "all of its own are under way");
            // One that has proven itself is counted as what it is.
            guests[2].belongs_to(Whose::Owner);
            assert!(crowd.enter(whose).is_some());
        }
        assert!(!has_to_go(&owners));
    }

    #[test]
    fn of_streams_the_oldest_of_who_has_most_goes() {
        let crowd = Crowd::default();
        let mut first = crowd.enter(Whose::Owner).unwrap();
        first.calls(true);
        let mut guests: Vec<Place> = Vec::new();
        for guest in [1, 2, 2, 1, 2] {
            for _ in 0..3 {
                guests.push(crowd.enter(Whose::Guest(guest)).unwrap());
                guests.last_mut().unwrap().calls(true);
            }
        }
        // 2 would have had nine connections.
        assert_eq!(gone(&guests), [3]);
        for goes in [None, Some(4)] {
            let mut last = crowd.enter(Whose::Owner).unwrap();
            last.calls(true);
            assert!(!has_to_go(&first) && !has_to_go(&last));
            assert_eq!(gone(&guests), [3].into_iter().chain(goes).collect::<Vec<_>>());
            // It stays.
            std::mem::forget(last);
        }
    }
}
