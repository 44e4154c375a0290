//! The statistics of judging, each with its source. All are exact or have a stated approximation; none allocates more
//! than its inputs allow.

use crate::live::ln_factorial;

/// Values of each side that the Hodges–Lehmann estimate looks at: 16,384 pairs are sorted in well under a millisecond.
const PAIRED_MAX: usize = 128;

/// The one-sided p-value of the Mann–Whitney U test that `a` tends to be larger than `b`.
///
/// Normal approximation with tie and continuity correction (Mann and Whitney 1947; Lehmann, *Nonparametrics*, ch. 1),
/// good from about eight values a side. 1 when a side is empty or all values are tied.
pub(super) fn mann_whitney_greater(a: &[u32], b: &[u32]) -> f64 {
    let (n, m) = (a.len() as f64, b.len() as f64);
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(u32, bool)> = a.iter().map(|&x| (x, true)).chain(b.iter().map(|&x| (x, false))).collect();
    all.sort_unstable();
    let (mut rank_sum, mut ties, mut i) = (0.0, 0.0, 0);
    while i < all.len() {
        let run = all[i..].iter().take_while(|(x, _)| *x == all[i].0).count();
        let rank = i as f64 + (run as f64 + 1.0) / 2.0;
        rank_sum += rank * all[i..i + run].iter().filter(|(_, of_a)| *of_a).count() as f64;
        let t = run as f64;
        ties += t * t * t - t;
        i += run;
    }
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    normal_tail((u - n * m / 2.0 - 0.5) / variance.sqrt())
}

/// The Hodges–Lehmann estimate of how much larger `a` is than `b`: the median of all differences (Hodges and Lehmann
/// 1963). 0 when a side is empty.
pub(super) fn hodges_lehmann(a: &[u32], b: &[u32]) -> f64 {
    let (a, b) = (thin(a), thin(b));
    let mut differences: Vec<i64> =
        a.iter().flat_map(|&x| b.iter().map(move |&y| i64::from(x) - i64::from(y))).collect();
    if differences.is_empty() {
        return 0.0;
    }
    let middle = differences.len() / 2;
    let (_, median, _) = differences.select_nth_unstable(middle);
    *median as f64
}

/// At most [`PAIRED_MAX`] values, evenly taken.
fn thin(values: &[u32]) -> Vec<u32> {
    let step = values.len().div_ceil(PAIRED_MAX).max(1);
    values.iter().step_by(step).copied().collect()
}

/// P(X ≥ k) for X binomial with `n` trials of chance `p`, exactly.
///
/// With `p` = 0.01 and `k` the values over a bound it is the quantile test of "the 99th percentile is within the bound"
/// (Conover, *Practical Nonparametric Statistics*, section 3.2). With `n` the failures of two sides and `p` one
/// side's part of all trials it is the conditional test of two rates (Przyborowski and Wilenski 1940).
pub(super) fn binomial_tail(n: u64, k: u64, p: f64) -> f64 {
    if k == 0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    // The smaller tail is summed, term by term from its largest, so that the loop ends as soon as terms vanish.
    let mean = n as f64 * p;
    if (k as f64) > mean { tail_up(n, k, p) } else { 1.0 - tail_up(n, n - k + 1, 1.0 - p) }.clamp(0.0, 1.0)
}

/// The sum of the terms from `k` upwards, where `k` is above the mean, so that they fall.
fn tail_up(n: u64, k: u64, p: f64) -> f64 {
    if k > n {
        return 0.0;
    }
    let (nf, kf) = (n as f64, k as f64);
    let log_choose = ln_factorial(nf) - ln_factorial(kf) - ln_factorial(nf - kf);
    let mut term = (log_choose + kf * p.ln() + (nf - kf) * (1.0 - p).ln()).exp();
    let (mut sum, mut i) = (term, kf);
    while i < nf && term > sum * 1e-12 {
        term *= (nf - i) / (i + 1.0) * p / (1.0 - p);
        sum += term;
        i += 1.0;
    }
    sum
}

/// P(Z ≥ z) of the standard normal, by Abramowitz and Stegun 26.2.17 (error below 7.5e-8).
fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let poly =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    ((-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * poly).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() < tolerance, "{value} is not {expected}");
    }

    #[test]
    fn known_values() {
        near(normal_tail(0.0), 0.5, 1e-6);
        near(normal_tail(1.644_853_6), 0.05, 1e-6);
        near(binomial_tail(10, 8, 0.5), 56.0 / 1024.0, 1e-7);
        near(binomial_tail(10, 2, 0.5), 1.0 - 11.0 / 1024.0, 1e-7);
        near(binomial_tail(30, 1, 0.01), 1.0 - 0.99_f64.powi(30), 1e-7);
        near(binomial_tail(1_000_000, 10_000, 0.01), 0.5, 0.01);
        assert_eq!((binomial_tail(5, 0, 0.1), binomial_tail(5, 6, 0.1), binomial_tail(0, 0, 0.1)), (1.0, 0.0, 1.0));
    }

    #[test]
    fn ranks_see_a_shift_and_only_upwards() {
        let (low, high): (Vec<u32>, Vec<u32>) = ((100..120).collect(), (150..170).collect());
        assert!(mann_whitney_greater(&high, &low) < 1e-6);
        assert!(mann_whitney_greater(&low, &high) > 0.999);
        near(mann_whitney_greater(&low, &low), 0.5, 0.02);
        assert_eq!(mann_whitney_greater(&[5; 20], &[5; 20]), 1.0);
        assert_eq!(mann_whitney_greater(&[], &low), 1.0);
        // Worked by hand: every one of 3 above every one of 4 is U = 12, variance 8, z = 5.5 / 2.828.
        near(mann_whitney_greater(&[5, 6, 7], &[1, 2, 3, 4]), normal_tail(5.5 / 8.0_f64.sqrt()), 1e-9);
        assert_eq!(hodges_lehmann(&high, &low), 50.0);
        assert_eq!(hodges_lehmann(&high, &[]), 0.0);
    }

    #[test]
    fn thinning_keeps_the_estimate() {
        let low: Vec<u32> = (0..2_000).map(|i| 1_000 + i % 50).collect();
        let high: Vec<u32> = low.iter().map(|x| x + 500).collect();
        near(hodges_lehmann(&high, &low), 500.0, 5.0);
    }
}
