//! Factorials of numbers of requests.

/// ln(x!) for whole x: a product below 16, Stirling's series above, with an error below 1e-12.
pub fn ln_factorial(x: f64) -> f64 {
    if x < 16.0 {
        let (mut product, mut factor) = (1.0_f64, 2.0);
        while factor <= x {
            product *= factor;
            factor += 1.0;
        }
        return product.ln();
    }
    let square = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1_260.0 * square)) / square) / x;
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factorials_are_exact_enough() {
        let exact = |n: u32| (2..=n).map(|i| f64::from(i).ln()).sum::<f64>();
        for n in [0, 1, 2, 10, 15, 16, 17, 30, 100, 1_000] {
            assert!((ln_factorial(f64::from(n)) - exact(n)).abs() < 1e-9, "{n}");
        }
    }
}
