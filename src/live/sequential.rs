//! Evidence that two sides differ, which may be looked at after every second: an e-process.
//!
//! # The bet
//!
//! A *block* is what came in one second. It has a [`Table`] for each route: so many requests of the candidate with so many
//! events (failures, or slow ones), so many of the reference with so many events. If both sides have the same chance of
//! an event, then the candidate's part of the events is hypergeometric, *whatever that chance is*. So all that
//! both sides share cancels: load, time of day, a database that is down. This is the stratified test of Cochran, Mantel
//! and Haenszel, one block after the other.
//!
//! If the odds of an event are `psi` times as high on the candidate, its part is Fisher's noncentral hypergeometric:
//! `P(x) ~ C(n1, x) C(n2, k-x) psi^x`. For a suspected `psi` and a tolerated `psi0 < psi`, the likelihood ratio is
//! `(psi/psi0)^x S(psi0)/S(psi)`, with `S` the sum of these terms. It rises with `x`, and the distributions are ordered
//! by `psi` (monotone likelihood ratio; Lehmann and Romano, *Testing Statistical Hypotheses*, 3.4). So its mean is at
//! most 1 for each true odds ratio up to `psi0`: it is an e-variable (Grünwald, de Heide, Koolen, *Safe testing*, 2024;
//! Turner, Ly, Grünwald, *Generic e-variables for exact sequential k-sample tests*, 2024). The product over blocks and a
//! weighted mean over several `psi` are e-processes. By Ville's inequality such a process reaches `1/alpha` *at any time* with
//! a chance of at most `alpha` (Johari, Koomen, Pekelis, Walsh, *Always valid inference*, 2022; Howard, Ramdas,
//! McAuliffe, Sekhon 2021).
//!
//! # What makes it hold in practice
//!
//! - *Bursts.* Requests of one second are not independent: a pause of one process, or a client that repeats a bad request, makes
//!   many events at once. So the factor of a block is limited. If all events of a block belong together, they are the
//!   candidate's with the chance `s`, its part of the requests; then the mean is at most 1 with the limit that *one* event
//!   has, `psi / (1-s+s*psi)`. A pause strikes each of two processes equally often, whatever their parts are: a second with a
//!   pause is a fair coin, and a limit of 2 keeps its mean at 1 (a limit of 3 makes it 1.5). For failures the limit is
//!   larger, so that they are found sooner; `examples/detection.rs` shows what bursts then do. A factor that is made
//!   smaller stays an e-variable, so the bound above is still true. Only trouble that lasts for several blocks counts.
//! - *Trouble that begins late.* Blocks without trouble make the product so small that it would never recover. So the stake is
//!   divided: a part enters at each of several epochs, with weights that sum to 1. That is a mean of
//!   e-processes that begin at different times, and again an e-process (compare Shin, Ramdas, Rinaldo, *E-detectors*,
//!   2024).

use super::draws::Draws;
use super::factorial::ln_factorial;

/// Requests of one side and one route in a block. More are thinned to so many by a draw without replacement, which
/// keeps the distribution; it bounds the cost of a block to some thousand terms.
const SIDE_MAX: u64 = 4_000;
/// Blocks in an epoch. A new part of the stake enters at the begin of each.
const EPOCH: u64 = 8;
/// The largest logarithm that is kept: its exponential is still a number.
const LN_MAX: f64 = 600.0;
/// Terms of a sum that are smaller than this part of it do not change it.
const NEGLIGIBLE: f64 = 1e-16;

/// What came in a block on one route: the candidate's side first, then the reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Requests.
    pub totals: [u64; 2],
    /// Those with the event.
    pub events: [u64; 2],
}

impl Table {
    /// Whether the block can say anything: both sides had requests, and some had the event, but not all.
    pub fn says_something(&self) -> bool {
        let [total, other] = self.totals;
        total > 0 && other > 0 && self.events != [0, 0] && self.events != self.totals
    }

    /// Adds the counts of another block.
    fn merge(&mut self, other: &Self) {
        for side in 0..2 {
            self.totals[side] = self.totals[side].saturating_add(other.totals[side]);
            self.events[side] = self.events[side].saturating_add(other.events[side]);
        }
    }

    /// The table with a bounded number of requests. A source that counts more events than requests is wrong.
    pub fn thinned(mut self, draws: &mut Draws) -> Self {
        for side in 0..2 {
            self.events[side] = self.events[side].min(self.totals[side]);
            if self.totals[side] > SIDE_MAX {
                self.events[side] = draws.marked(self.totals[side], self.events[side], SIDE_MAX);
                self.totals[side] = SIDE_MAX;
            }
        }
        self
    }

    /// The logarithm of the sum of `C(n1, i) C(n2, k-i) psi^i` over all possible `i`.
    fn ln_sum(&self, psi: f64) -> f64 {
        let [n1, n2] = self.totals.map(|n| n as f64);
        let k = (self.events[0] + self.events[1]) as f64;
        let (low, high) = ((k - n2).max(0.0), k.min(n1));
        // The largest term is where the ratio of neighbours passes 1: the smaller root of a quadratic.
        let (a, b, c) = (psi - 1.0, (n1 + k + 2.0) * psi + n2 - k, (n1 + 1.0) * (k + 1.0) * psi);
        let mode = (2.0 * c / (b + (b * b - 4.0 * a * c).max(0.0).sqrt())).floor().clamp(low, high);
        let (mut sum, mut term, mut i) = (1.0, 1.0, mode);
        while i < high && term > sum * NEGLIGIBLE {
            term *= (n1 - i) * (k - i) * psi / ((i + 1.0) * (n2 - k + i + 1.0));
            sum += term;
            i += 1.0;
        }
        (term, i) = (1.0, mode);
        while i > low && term > sum * NEGLIGIBLE {
            term *= i * (n2 - k + i) / ((n1 - i + 1.0) * (k - i + 1.0) * psi);
            sum += term;
            i -= 1.0;
        }
        ln_choose(n1, mode) + ln_choose(n2, k - mode) + mode * psi.ln() + f64::ln(sum)
    }
}

/// What is tolerated and what is suspected, as odds ratios of candidate to reference. All suspected ratios are
/// on the same side of the tolerated one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    /// The odds ratio that is no fault.
    pub tolerated: f64,
    /// Odds ratios that are faults.
    pub suspected: &'static [f64],
    /// The most that one block can multiply the evidence by, whatever one event can say.
    pub cap: f64,
    /// What a block can multiply it by at least, although one event says less.
    pub burst: f64,
    /// The same for doubt, which delays a verdict and never decides one: so one block may say more.
    pub doubt: f64,
}

impl Odds {
    /// The logarithms of the likelihood ratios of a block, for each suspected ratio.
    fn ln_ratios(&self, tables: &[Table]) -> Vec<f64> {
        let mut ratios = vec![0.0; self.suspected.len()];
        for table in tables.iter().filter(|table| table.says_something()) {
            let tolerated = table.ln_sum(self.tolerated);
            for (ratio, psi) in ratios.iter_mut().zip(self.suspected) {
                *ratio += table.events[0] as f64 * (psi / self.tolerated).ln() + tolerated - table.ln_sum(*psi);
            }
        }
        ratios
    }

    /// The most that a block may count for a suspected ratio, as a logarithm: what one event can say if the candidate has this
    /// part of the requests.
    fn ln_cap(&self, psi: f64, part: f64) -> f64 {
        let none = (1.0 - part + part * self.tolerated) / (1.0 - part + part * psi);
        none.max(none * psi / self.tolerated).max(self.burst).min(self.cap).ln()
    }
}

/// Evidence for one suspicion on one stratum.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    odds: Odds,
    blocks: u64,
    /// For each suspected ratio, the logarithm of the stake: with the limit of a block, and with a wide one.
    stakes: Vec<[f64; 2]>,
    /// The weighted means of the stakes.
    means: [f64; 2],
    /// All blocks together.
    seen: Table,
}

impl Evidence {
    /// No evidence yet.
    pub fn new(odds: Odds) -> Self {
        Self {
            odds,
            blocks: 0,
            stakes: vec![[f64::NEG_INFINITY; 2]; odds.suspected.len()],
            means: [0.0; 2],
            seen: Table::default(),
        }
    }

    /// Takes a block: a table for each route. A block that can say nothing changes no evidence.
    pub fn add(&mut self, tables: &[Table]) {
        tables.iter().for_each(|table| self.seen.merge(table));
        let sum = |side: usize| tables.iter().map(|table| table.totals[side]).fold(0, u64::saturating_add) as f64;
        if tables.iter().any(Table::says_something) {
            let part = sum(0) / (sum(0) + sum(1));
            let ratios = self.odds.ln_ratios(tables);
            let caps = self.odds.suspected.iter().map(|psi| self.odds.ln_cap(*psi, part)).collect::<Vec<_>>();
            self.multiply(&ratios, &caps);
        }
    }

    /// Takes a block of one side that is compared with a fixed rate: `events` of `total`, at most the part `rate` is tolerated.
    pub fn add_rate(&mut self, total: u64, events: u64, rate: f64) {
        if total == 0 || !(rate > 0.0 && rate < 1.0) {
            return;
        }
        let (events, rest) = (events as f64, total.saturating_sub(events) as f64);
        let ln_ratio = |psi: &f64| {
            let none = 1.0 / (1.0 - rate + rate * psi);
            events * (none * psi).ln() + rest * none.ln()
        };
        let ratios = self.odds.suspected.iter().map(ln_ratio).collect::<Vec<_>>();
        let caps = vec![self.odds.cap.ln(); ratios.len()];
        self.multiply(&ratios, &caps);
    }

    fn multiply(&mut self, ratios: &[f64], caps: &[f64]) {
        if self.blocks.is_multiple_of(EPOCH) {
            // 1/2 + 1/6 + 1/12 + ... = 1.
            let epoch = (self.blocks / EPOCH) as f64;
            let enters = -((epoch + 1.0) * (epoch + 2.0)).ln();
            self.stakes.iter_mut().flatten().for_each(|stake| *stake = ln_add(*stake, enters));
        }
        self.blocks += 1;
        for ((stakes, ratio), cap) in self.stakes.iter_mut().zip(ratios).zip(caps) {
            let [strict, wide] = stakes;
            *strict = (*strict + ratio.min(*cap)).min(LN_MAX);
            *wide = (*wide + ratio.min(self.odds.doubt.ln())).min(LN_MAX);
        }
        let mean = |which: usize| self.stakes.iter().map(|stakes| stakes[which].exp()).sum::<f64>();
        self.means = [0, 1].map(|which| mean(which) / self.stakes.len().max(1) as f64);
    }

    /// How much larger the candidate's part of events is than the reference's, in all blocks.
    pub fn excess(&self) -> f64 {
        let [own, other] = [0, 1].map(|side| self.seen.events[side] as f64 / self.seen.totals[side].max(1) as f64);
        own - other
    }

    /// Blocks that could say something.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The evidence: its mean is at most 1 for as long as the true ratio is tolerated.
    pub fn value(&self) -> f64 {
        self.means[0]
    }

    /// The same with a wide limit of a block: reason to wait, no reason to condemn.
    pub fn doubt(&self) -> f64 {
        self.means[1]
    }
}

/// ln(exp(a) + exp(b)).
fn ln_add(a: f64, b: f64) -> f64 {
    let (low, high) = (a.min(b), a.max(b));
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Odds = Odds { tolerated: 1.2, suspected: &[2.0, 8.0, 50.0], cap: 10.0, burst: 4.0, doubt: 12.0 };
    const DOWN: Odds = Odds { tolerated: 0.7, suspected: &[0.5, 0.1], cap: 2.0, burst: 2.0, doubt: 12.0 };

    fn table(totals: [u64; 2], events: [u64; 2]) -> Table {
        Table { totals, events }
    }

    /// The chance of each split of `k` events, if the odds ratio is `psi`, from the definition.
    fn chances(totals: [u64; 2], k: u64, psi: f64) -> Vec<(u64, f64)> {
        let choose = |n: u64, k: u64| (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
        let possible = k.saturating_sub(totals[1])..=k.min(totals[0]);
        let terms: Vec<(u64, f64)> = possible
            .map(|x| (x, choose(totals[0], x) * choose(totals[1], k - x) * psi.powi(i32::try_from(x).unwrap())))
            .collect();
        let sum: f64 = terms.iter().map(|(_, term)| term).sum();
        terms.into_iter().map(|(x, term)| (x, term / sum)).collect()
    }

    #[test]
    fn a_likelihood_ratio_is_that_of_the_definition() {
        for (totals, k) in [([10, 10], 4), ([3, 40], 5), ([40, 3], 41), ([1, 1], 1), ([20, 7], 9)] {
            for odds in [UP, DOWN] {
                let tolerated = chances(totals, k, odds.tolerated);
                for (index, psi) in odds.suspected.iter().enumerate() {
                    for ((x, p), (_, q)) in chances(totals, k, *psi).into_iter().zip(&tolerated) {
                        let found = odds.ln_ratios(&[table(totals, [x, k - x])])[index];
                        assert!((found - (p / q).ln()).abs() < 1e-9, "{totals:?} {k} {x} {psi}: {found}");
                    }
                }
            }
        }
    }

    /// The law on which all rests: whatever is tolerated, the mean of a block's factor is at most 1. It is checked exactly.
    #[test]
    fn the_mean_of_a_factor_is_at_most_one_for_all_that_is_tolerated() {
        for (odds, truths) in [(UP, [0.2, 1.0, 1.2]), (DOWN, [0.7, 1.0, 4.0])] {
            for (totals, k) in [([10, 10], 4), ([3, 40], 5), ([40, 3], 41), ([30, 70], 20), ([1, 19], 1)] {
                for truth in truths {
                    let mean = |which: usize| -> f64 {
                        let value = |x: u64| {
                            let mut evidence = Evidence::new(odds);
                            evidence.add(&[table(totals, [x, k - x])]);
                            // The first part of the stake is one half.
                            2.0 * evidence.means[which]
                        };
                        chances(totals, k, truth).into_iter().map(|(x, p)| p * value(x)).sum()
                    };
                    assert!(mean(0) <= 1.0 + 1e-9 && mean(1) <= 1.0 + 1e-9, "{totals:?} {k} {truth}: {}", mean(0));
                }
            }
        }
    }

    /// A burst goes to one side as a whole, with the chance of its part.
    #[test]
    fn the_mean_of_a_factor_is_at_most_one_if_all_events_of_a_block_belong_together() {
        let odds = Odds { tolerated: 1.0, suspected: &[1.5, 4.0, 50.0], cap: 1e9, burst: 1.0, doubt: 12.0 };
        for (totals, k) in [([30, 70], 20), ([50, 50], 40), ([5, 95], 5), ([100, 100], 1)] {
            let part = totals[0] as f64 / (totals[0] + totals[1]) as f64;
            let value = |x: u64| {
                let mut evidence = Evidence::new(odds);
                evidence.add(&[table(totals, [x, k - x])]);
                2.0 * evidence.value()
            };
            let mean = part * value(k) + (1.0 - part) * value(0);
            assert!(mean <= 1.0 + 1e-9, "{totals:?} {k}: {mean}");
        }
    }

    #[test]
    fn the_weights_of_the_epochs_sum_to_one() {
        let mut evidence = Evidence::new(UP);
        (0..EPOCH * 10_000).for_each(|_| evidence.multiply(&[0.0; 3], &[1.0; 3]));
        assert!((evidence.value() - 1.0).abs() < 1e-3 && evidence.value() <= 1.0 + 1e-9, "{}", evidence.value());
    }

    #[test]
    fn trouble_that_begins_late_is_found() {
        let mut evidence = Evidence::new(UP);
        (0..600).for_each(|_| evidence.add(&[table([300, 700], [3, 7])]));
        assert!(evidence.value() < 0.1, "{}", evidence.value());
        (0..30).for_each(|_| evidence.add(&[table([300, 700], [90, 7])]));
        assert!(evidence.value() > 1_000.0, "{}", evidence.value());
    }

    #[test]
    fn large_blocks_are_thinned_and_no_count_breaks_a_sum() {
        let mut draws = Draws::new(3);
        let thin = table([1_000_000_000, 50], [10_000_000, 5]).thinned(&mut draws);
        assert_eq!(thin.totals, [SIDE_MAX, 50]);
        assert!((20..=70).contains(&thin.events[0]) && thin.events[1] == 5, "{thin:?}");
        for (totals, events) in [([4_000, 4_000], [4_000, 0]), ([4_000, 4_000], [0, 4_000]), ([1, 4_000], [1, 0])] {
            let mut evidence = Evidence::new(UP);
            (0..100).for_each(|_| evidence.add(&[table(totals, events)]));
            assert!(evidence.value().is_finite() && evidence.doubt().is_finite());
        }
    }

    #[test]
    fn a_rate_over_its_bound_is_found_and_one_under_it_is_not() {
        let odds = Odds { tolerated: 1.0, suspected: &[1.5, 4.0], cap: 10.0, burst: 4.0, doubt: 12.0 };
        let (mut over, mut under) = (Evidence::new(odds), Evidence::new(odds));
        for _ in 0..20 {
            over.add_rate(100, 12, 0.05);
            under.add_rate(100, 4, 0.05);
        }
        assert!(over.value() > 1_000.0 && under.value() < 1.0, "{} {}", over.value(), under.value());
    }
}
