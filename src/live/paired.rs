//! Two sides that are asked the same, one after the other: which of them has an event more often?

use super::sequential::{Evidence, Odds, Table};

/// If both sides are alike, an event that only one of them has is on either side with the same chance.
const ODDS: Odds = Odds { tolerated: 1.0, suspected: &[2.0, 8.0, 50.0], cap: 2.0, burst: 1.0, doubt: 2.0 };

/// Evidence that a candidate has an event more often than the reference, from pairs of answers to the same request.
///
/// It may be looked at after each pair: if both sides are alike, it reaches `1 / alpha` at any time with a chance of at most
/// `alpha` (see `sequential`).
#[derive(Clone, Debug)]
pub struct Paired(Evidence);

impl Default for Paired {
    fn default() -> Self {
        Self(Evidence::new(ODDS))
    }
}

impl Paired {
    /// Takes a pair: whether the candidate had the event, and whether the reference had it.
    pub fn add(&mut self, candidate: bool, reference: bool) {
        self.0.add(&[Table { totals: [1, 1], events: [u64::from(candidate), u64::from(reference)] }]);
    }

    /// Whether the candidate has the event more often, with this chance of an error.
    pub fn is_shown(&self, alpha: f64) -> bool {
        self.0.value() >= 1.0 / alpha
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::draws::Draws;

    #[test]
    fn equal_sides_are_called_different_in_less_than_the_allowed_part() {
        let mut draws = Draws::new(7);
        let mut event = || draws.marked(100, 10, 1) > 0;
        let wrong = (0..2_000).filter(|_| {
            let mut paired = Paired::default();
            (0..300).any(|_| {
                paired.add(event(), event());
                paired.is_shown(0.01)
            })
        });
        let wrong = wrong.count();
        assert!(wrong <= 20, "{wrong} of 2000");
    }

    #[test]
    fn a_side_that_fails_now_and_then_is_found() {
        let mut paired = Paired::default();
        let pairs = (1..1_000).find(|pair| {
            paired.add(pair % 10 == 0, false);
            paired.is_shown(0.005)
        });
        assert!(pairs.is_some_and(|pairs| pairs <= 150), "{pairs:?}");
    }
}
