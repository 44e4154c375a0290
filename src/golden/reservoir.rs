//! A standing sample of live exchanges. Pure.
//!
//! The sample is stratified: each route with each status class has a sample of its own, so that a rare route or a rare
//! error is in it although most requests are others. In a stratum each exchange has the same chance (algorithm R,
//! Vitter 1985, "Random sampling with a reservoir"). If all strata together are at a limit, the largest one loses a
//! random exchange; a sample that loses a random member is still a random sample. So the strata share the limit: small
//! ones are complete, and large ones are of the same size.

use std::collections::BTreeMap;
use std::time::Duration;

use super::capture::Captured;
use crate::live::{Class, ROUTES_MAX, Route};
use crate::time::{Timestamp, millis};

/// What a sample may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLimits {
    /// Exchanges.
    pub exchanges: usize,
    /// Bytes of memory, as [`Captured::bytes`] counts them.
    pub bytes: usize,
    /// The age of the oldest exchange.
    pub age: Duration,
}

/// One route with one status class; `None` is a status of no class.
type Stratum = (Route, Option<Class>);

/// The sample of one stratum.
#[derive(Clone, Debug, Default)]
struct Stratified {
    /// Exchanges that came and are not older than the limit, as far as this is known: the sample cannot know the ages of
    /// those that it did not keep.
    seen: u64,
    kept: Vec<Captured>,
}

/// The sample.
#[derive(Clone, Debug)]
pub struct Reservoir {
    limits: SampleLimits,
    strata: BTreeMap<Stratum, Stratified>,
    exchanges: usize,
    bytes: usize,
    seen: u64,
    random: u64,
}

impl Reservoir {
    /// An empty sample. The same seed and the same exchanges give the same sample.
    pub fn new(limits: SampleLimits, seed: u64) -> Self {
        Self { limits, strata: BTreeMap::new(), exchanges: 0, bytes: 0, seen: 0, random: seed }
    }

    /// The number of exchanges that it holds.
    pub fn len(&self) -> usize {
        self.exchanges
    }

    /// Whether it holds no exchange.
    pub fn is_empty(&self) -> bool {
        self.exchanges == 0
    }

    /// The memory of its exchanges, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of exchanges that were offered.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Offers an exchange.
    pub fn offer(&mut self, exchange: Captured) {
        self.seen += 1;
        self.expire(exchange.at);
        let bytes = exchange.bytes();
        // A quarter: one large answer must not push all others out.
        if bytes > self.limits.bytes / 4 || self.limits.exchanges == 0 {
            return;
        }
        let stratum = self.stratum(&exchange);
        let is_full = self.exchanges >= self.limits.exchanges || self.bytes + bytes > self.limits.bytes;
        let largest = self.largest();
        let random = self.next();
        let one = self.strata.entry(stratum.clone()).or_default();
        one.seen += 1;
        // A stratum that is smaller than the largest grows at the cost of that one. Else it is of its final size.
        let grows = !is_full || one.kept.len() + 1 < largest;
        if grows {
            one.kept.push(exchange);
        } else {
            let place = usize::try_from(random % one.seen).unwrap_or(usize::MAX);
            let Some(held) = one.kept.get_mut(place) else { return };
            self.bytes -= held.bytes();
            self.exchanges -= 1;
            *held = exchange;
        }
        self.bytes += bytes;
        self.exchanges += 1;
        while self.exchanges > self.limits.exchanges || self.bytes > self.limits.bytes {
            if !self.shrink(&stratum) {
                return;
            }
        }
    }

    /// Removes what is older than the limit.
    pub fn expire(&mut self, now: Timestamp) {
        let oldest = now.as_unix_ms().saturating_sub(millis(self.limits.age));
        if self.exchanges == 0 {
            return;
        }
        let (mut exchanges, mut bytes) = (0, 0);
        for one in self.strata.values_mut() {
            let before = one.kept.len() as u64;
            one.kept.retain(|held| held.at.as_unix_ms() >= oldest);
            let after = one.kept.len() as u64;
            if after < before {
                // The kept ones are a random sample, so the same share of all that came is too old.
                one.seen = (one.seen / before).saturating_mul(after).max(after);
            }
            exchanges += one.kept.len();
            bytes += one.kept.iter().map(Captured::bytes).sum::<usize>();
        }
        self.strata.retain(|_, one| !one.kept.is_empty());
        (self.exchanges, self.bytes) = (exchanges, bytes);
    }

    /// The sample: connections in the order in which they began, and the exchanges of all connections in the order of
    /// time. Exchanges of one connection keep their order even if the clock was set back.
    pub fn finish(self) -> Vec<Captured> {
        let mut all: Vec<Captured> = self.strata.into_values().flat_map(|one| one.kept).collect();
        in_order(&mut all);
        all
    }

    fn stratum(&self, exchange: &Captured) -> Stratum {
        let stratum = exchange.stratum();
        let is_known = self.strata.keys().any(|(route, _)| *route == stratum.0);
        let routes = self.strata.keys().map(|(route, _)| route).fold((0, None), |(count, last), route| {
            if last == Some(route) { (count, last) } else { (count + 1, Some(route)) }
        });
        if is_known || routes.0 < ROUTES_MAX { stratum } else { (Route::rest(), stratum.1) }
    }

    /// The size of the largest stratum.
    fn largest(&self) -> usize {
        self.strata.values().map(|one| one.kept.len()).max().unwrap_or(0)
    }

    /// Removes a random exchange of the largest stratum; `newest` is the last one that a stratum of this name got, which is
    /// preferred to stay if its stratum has no other.
    fn shrink(&mut self, newest: &Stratum) -> bool {
        let random = self.next();
        let candidates = self.strata.iter().map(|(stratum, one)| (one.kept.len(), stratum != newest, stratum));
        let Some(name) = candidates.max().map(|(_, _, stratum)| stratum.clone()) else { return false };
        let Some(one) = self.strata.get_mut(&name).filter(|one| !one.kept.is_empty()) else { return false };
        let place = usize::try_from(random % one.kept.len() as u64).unwrap_or(0);
        let removed = one.kept.swap_remove(place);
        self.exchanges -= 1;
        self.bytes -= removed.bytes();
        true
    }

    /// The next number of the generator SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Sorts exchanges by time; those of one connection keep the order of the connection.
pub(super) fn in_order(all: &mut [Captured]) {
    let mut begun: BTreeMap<u64, (u64, Timestamp)> = BTreeMap::new();
    all.sort_by_key(|one| (one.connection, one.index));
    let mut keys: BTreeMap<(u64, u64), Timestamp> = BTreeMap::new();
    for one in all.iter() {
        // Never before the exchange that precedes it on its connection.
        let last = begun.entry(one.connection).or_insert((one.index, one.at));
        last.1 = last.1.max(one.at);
        keys.insert((one.connection, one.index), last.1);
    }
    all.sort_by_key(|one| (keys.get(&(one.connection, one.index)).copied(), one.connection, one.index));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::{Request, Response};

    const LIMITS: SampleLimits = SampleLimits { exchanges: 50, bytes: 1 << 20, age: Duration::from_secs(3_600) };

    fn exchange(n: u64, path: &str, status: u16) -> Captured {
        Captured {
            at: Timestamp::from_unix_ms(1_000_000 + n),
            connection: n / 3,
            index: n % 3,
            listener: "http".to_owned(),
            request: Request::get(path),
            response: Response { status, headers: Vec::new(), body: vec![b'x'; 100] },
            events: None,
            duration: Duration::from_millis(1),
        }
    }

    fn count(all: &[Captured], path: &str, status: u16) -> usize {
        all.iter().filter(|one| one.request.path == path && one.response.status == status).count()
    }

    #[test]
    fn a_rare_route_and_a_rare_error_are_in_the_sample() {
        let mut sample = Reservoir::new(LIMITS, 1);
        for n in 0..10_000 {
            let (path, status) = match n {
                4_000 => ("/rare", 200),
                5_000..5_003 => ("/often", 500),
                _ if n % 2 == 0 => ("/often", 200),
                _ => ("/also", 200),
            };
            sample.offer(exchange(n, path, status));
        }
        assert_eq!((sample.len(), sample.seen()), (50, 10_000));
        let all = sample.finish();
        assert_eq!((count(&all, "/rare", 200), count(&all, "/often", 500)), (1, 3));
        let (often, also) = (count(&all, "/often", 200), count(&all, "/also", 200));
        assert!(often.abs_diff(also) <= 1, "the two large strata share what is left: {often} and {also}");
    }

    #[test]
    fn each_exchange_has_the_same_chance() {
        // The mean position of a uniform sample of 0..1000 is 499.5; its standard deviation over 200 samples of 50 is 2.9.
        let mut positions = Vec::new();
        for seed in 0..200 {
            let mut sample = Reservoir::new(LIMITS, seed);
            (0..1_000).for_each(|n| sample.offer(exchange(n, "/a", 200)));
            positions.extend(sample.finish().iter().map(|one| one.at.as_unix_ms() - 1_000_000));
        }
        let mean = positions.iter().sum::<u64>() as f64 / positions.len() as f64;
        assert!((mean - 499.5).abs() < 15.0, "the mean position is {mean}");
        let late = positions.iter().filter(|&&at| at >= 900).count();
        assert!((800..1_200).contains(&late), "{late} of 10000 are of the last tenth");
    }

    #[test]
    fn old_exchanges_leave_and_the_order_of_a_connection_stays() {
        let mut sample = Reservoir::new(LIMITS, 7);
        (0..30).for_each(|n| sample.offer(exchange(n, "/a", 200)));
        let later = Captured { at: Timestamp::from_unix_ms(1_000_010 + 3_600_000), ..exchange(99, "/a", 200) };
        sample.offer(later);
        let all = sample.finish();
        assert_eq!(all.len(), 21);
        // The clock was set back between two exchanges of one connection.
        let mut all = vec![
            Captured { at: Timestamp::from_unix_ms(500), connection: 1, index: 1, ..exchange(0, "/b", 200) },
            Captured { at: Timestamp::from_unix_ms(900), connection: 1, index: 0, ..exchange(0, "/a", 200) },
            Captured { at: Timestamp::from_unix_ms(700), connection: 2, index: 0, ..exchange(0, "/c", 200) },
        ];
        in_order(&mut all);
        assert_eq!(all.iter().map(|one| one.request.path.as_str()).collect::<Vec<_>>(), ["/c", "/a", "/b"]);
    }

    proptest! {
        /// Whatever comes, the sample stays within its limits, and its counters are right.
        #[test]
        fn the_limits_hold(
            offers in proptest::collection::vec((0..90_u64, 0..7_u16, 0..6_000_usize, 0..5_000_u64), 0..300),
            exchanges in 0..20_usize, bytes in 0..20_000_usize, seed: u64,
        ) {
            let limits = SampleLimits { exchanges, bytes, age: Duration::from_millis(20_000) };
            let mut sample = Reservoir::new(limits, seed);
            let mut now = 0;
            for (n, (route, class, size, pause)) in offers.into_iter().enumerate() {
                now += pause;
                let mut one = exchange(n as u64, &format!("/{}", char::from(b'a' + (route % 26) as u8).to_string().repeat(1 + route as usize / 26)), class * 100);
                (one.at, one.response.body) = (Timestamp::from_unix_ms(now), vec![0; size]);
                sample.offer(one);
                prop_assert!(sample.len() <= exchanges && sample.bytes() <= bytes);
            }
            let (len, held) = (sample.len(), sample.bytes());
            let all = sample.finish();
            prop_assert_eq!((all.len(), all.iter().map(Captured::bytes).sum::<usize>()), (len, held));
            prop_assert!(all.iter().all(|one| one.at.as_unix_ms() + 20_000 >= now));
        }
    }
}
