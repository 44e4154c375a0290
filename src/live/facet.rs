//! What can be different between two versions, what of it is tolerated, and how much of the error bound each has.

use super::class::Class;
use super::counts::Counts;
use super::latencies::Latencies;
use super::sequential::{Odds, Table};

/// The quantiles of the reference's durations at which both sides are compared.
pub(super) const QUANTILES: [f64; 5] = [0.5, 0.75, 0.9, 0.95, 0.99];

/// One way in which a candidate can be different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Facet {
    /// More requests fail.
    Failures,
    /// More requests end in this class.
    More(Class),
    /// Fewer requests end in this class.
    Fewer(Class),
    /// More requests are slower than the reference at this quantile, by more than the tolerance. The last place is for
    /// pauses: a candidate that answers nobody for a moment, again and again, has few slow requests but very slow ones.
    Slow(usize),
}

/// The place of pauses behind the quantiles: requests far beyond the reference's 99th percentile.
pub(super) const PAUSE: usize = QUANTILES.len();

/// All facets that are compared.
pub(super) const FACETS: [Facet; 13] = [
    Facet::Failures,
    Facet::More(Class::Redirect),
    Facet::Fewer(Class::Redirect),
    Facet::More(Class::ClientError),
    Facet::Fewer(Class::ClientError),
    Facet::More(Class::Informational),
    Facet::Fewer(Class::Informational),
    Facet::Slow(0),
    Facet::Slow(1),
    Facet::Slow(2),
    Facet::Slow(3),
    Facet::Slow(4),
    Facet::Slow(PAUSE),
];

/// The shares of the error bound: a half for the total, a half for all routes together.
const WEIGHT_FAILURES: f64 = 0.18;
const WEIGHT_SLOW: f64 = 0.14;
const WEIGHT_PAUSES: f64 = 0.04;
const WEIGHT_CLASSES: f64 = 0.06;

/// Failures: odds up to 1.2 times as high are tolerated. The largest suspected ratio is for a reference without failures.
pub(super) const FAILURES: Odds =
    Odds { tolerated: 1.2, suspected: &[2.5, 8.0, 50.0], cap: 10.0, burst: 4.0, doubt: 12.0 };
const FAILURES_AFTER: Odds = Odds { tolerated: 2.0, suspected: &[4.0, 12.0, 60.0], cap: 10.0, burst: 4.0, doubt: 12.0 };
/// Classes that clients cause as often as the service, in large bursts (a scanner's 404s): more is tolerated, and a block
/// says less.
const MORE: Odds = Odds { tolerated: 1.5, suspected: &[3.0, 10.0, 50.0], cap: 2.0, burst: 2.0, doubt: 12.0 };
const FEWER: Odds =
    Odds { tolerated: 1.0 / 1.5, suspected: &[1.0 / 3.0, 0.1, 0.02], cap: 2.0, burst: 2.0, doubt: 12.0 };
const MORE_AFTER: Odds = Odds { tolerated: 2.5, suspected: &[5.0, 15.0, 60.0], cap: 2.0, burst: 2.0, doubt: 12.0 };
const FEWER_AFTER: Odds = Odds { tolerated: 0.4, suspected: &[0.2, 0.07, 0.02], cap: 2.0, burst: 2.0, doubt: 12.0 };
/// Durations: the tolerance is in the durations themselves, and some more for a tail that differs by chance of the caches. A
/// limit of 2: a second in which one of two processes pauses is a fair coin.
const SLOW: Odds = Odds { tolerated: 1.25, suspected: &[2.0, 4.0, 16.0], cap: 2.0, burst: 2.0, doubt: 12.0 };
const SLOW_AFTER: Odds = Odds { tolerated: 2.0, suspected: &[4.0, 10.0, 30.0], cap: 2.0, burst: 2.0, doubt: 12.0 };
/// Pauses: the reference may have none at all, so that nothing takes a doubt back. One or two are no doubt.
const PAUSES: Odds = Odds { tolerated: 1.25, suspected: &[4.0, 50.0], cap: 2.0, burst: 2.0, doubt: 1.8 };

/// A pause is a request that takes this many buckets longer than the 99th percentile: 3 times as long, and at least so many
/// microseconds longer.
const PAUSE_SHIFT: u8 = 13;
const PAUSE_US: u64 = 100_000;
/// The tolerated difference of a duration, in buckets of 9 %: 19 % beside, 41 % after, because the load is another one.
const SHIFT: u8 = 2;
const SHIFT_AFTER: u8 = 4;
/// And at least so much in microseconds: less is the scheduling of processes on one host.
const SHIFT_US: u64 = 1_000;
/// The tolerated difference in buckets if durations are known in wide steps only: 2.6 times, one step of the usual histograms
/// (1, 2.5, 5, 10). A version that is 5 % slower can move all requests by one step.
const SHIFT_COARSE: u8 = 11;

impl Facet {
    /// The share of the error bound that this facet has, of the total or of all routes together.
    pub fn weight(self) -> f64 {
        match self {
            Self::Failures => WEIGHT_FAILURES,
            Self::More(_) | Self::Fewer(_) => WEIGHT_CLASSES / 6.0,
            Self::Slow(PAUSE) => WEIGHT_PAUSES,
            Self::Slow(_) => WEIGHT_SLOW / QUANTILES.len() as f64,
        }
    }

    /// What is tolerated and suspected, beside the reference or after it. The time before had another load, so more is
    /// tolerated after it.
    pub fn odds(self, after: bool) -> Odds {
        match (self, after) {
            (Self::Failures, false) => FAILURES,
            (Self::Failures, true) => FAILURES_AFTER,
            (Self::More(_), false) => MORE,
            (Self::More(_), true) => MORE_AFTER,
            (Self::Fewer(_), false) => FEWER,
            (Self::Fewer(_), true) => FEWER_AFTER,
            (Self::Slow(PAUSE), _) => PAUSES,
            (Self::Slow(_), false) => SLOW,
            (Self::Slow(_), true) => SLOW_AFTER,
        }
    }

    /// The table of a block on one route. `slow` has, for each quantile, the bucket of the reference and the candidate's,
    /// above which a request is slow; without it durations are not compared.
    pub fn table(self, candidate: &Counts, reference: &Counts, slow: Option<&Slow>) -> Table {
        let sides = [candidate, reference];
        match self {
            Self::Failures => Table { totals: sides.map(Counts::total), events: sides.map(Counts::failed) },
            Self::More(class) | Self::Fewer(class) => {
                Table { totals: sides.map(Counts::total), events: sides.map(|side| side.of(class)) }
            }
            Self::Slow(quantile) => slow.map_or_else(Table::default, |slow| Table {
                totals: sides.map(|side| side.latencies.total()),
                events: [
                    candidate.latencies.above(slow.candidate[quantile]),
                    reference.latencies.above(slow.reference[quantile]),
                ],
            }),
        }
    }
}

/// The buckets above which a request is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    reference: [u8; PAUSE + 1],
    candidate: [u8; PAUSE + 1],
}

impl Slow {
    /// From the reference's durations before the block; `None` if there are too few. `steps` are the wide steps
    /// that were seen if durations are known in steps only.
    pub fn of(before: &Latencies, steps: Option<&std::collections::BTreeSet<u8>>, after: bool) -> Option<Self> {
        if before.total() < LEARN_MIN {
            return None;
        }
        let mut reference = [0; PAUSE + 1];
        for (bucket, q) in reference.iter_mut().zip(QUANTILES) {
            *bucket = before.quantile_bucket(q).unwrap_or_default();
        }
        let slowest = reference[PAUSE - 1];
        let floor = Latencies::bucket(Latencies::edge_us(slowest).saturating_add(PAUSE_US));
        reference[PAUSE] = slowest.saturating_add(PAUSE_SHIFT).max(floor);
        let candidate = reference.map(|bucket| {
            let shift = if after { SHIFT_AFTER } else { SHIFT };
            let floor = Latencies::bucket(Latencies::edge_us(bucket).saturating_add(SHIFT_US));
            let fine = bucket.saturating_add(shift).max(floor);
            let Some(steps) = steps else { return fine };
            let wide = bucket.saturating_add(SHIFT_COARSE).max(floor);
            let next = steps.range(fine..=wide).next().filter(|_| !after);
            next.copied().unwrap_or(wide)
        });
        Some(Self { reference, candidate })
    }
}

/// Durations of the reference from which its quantiles say something.
const LEARN_MIN: u64 = 20;
