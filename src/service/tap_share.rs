//! Which share of a slot's new connections goes through the tap. Pure.
//!
//! The tap must see enough requests to decide, and no more: at low rates it sees all, at high rates the configured share.
//! How many requests a slot gets is not known, only how many the tap saw. So the share follows what was seen: it rises
//! while the tap sees too few requests, and falls while it sees more than needed.

use std::time::Duration;

/// Requests each second that the tap should see of a slot in steady state: enough for rates and latencies in the status,
/// and little work at any rate.
const STEADY_PER_S: f64 = 20.0;
/// The same during a trial, for both slots: enough to find 3 % of errors within seconds.
const TRIAL_PER_S: f64 = 200.0;
/// If exchanges are copied, the tap should see this many times the wanted number: not each one is of use.
const PER_COPY: f64 = 2.0;
/// The most that a share changes in one step, up or down. Rates change quickly, and one second with few requests says
/// little.
const STEP_MAX: f64 = 4.0;
/// A share that would change by less than this factor stays, so that the kernel's program changes rarely.
const STEP_MIN: f64 = 1.25;

/// Requests each second that the tap should see of a slot. `copied` is the number of exchanges each second that are to be
/// copied.
pub fn wanted(in_trial: bool, copied: u32) -> f64 {
    let judged = if in_trial { TRIAL_PER_S } else { STEADY_PER_S };
    judged.max(PER_COPY * f64::from(copied))
}

/// The share of one slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    present: f64,
    seen: u64,
}

impl Share {
    /// The configured share, which is the smallest one.
    pub const fn starting(floor: f64) -> Self {
        Self { present: floor, seen: 0 }
    }

    /// The present share.
    pub const fn present(self) -> f64 {
        self.present
    }

    /// The tap saw requests.
    pub const fn saw(&mut self, requests: u64) {
        self.seen = self.seen.saturating_add(requests);
    }

    /// Adapts the shares of both slots to what was seen in this time, and to the [`wanted`] requests each second.
    ///
    /// A slot without requests may get all of them at the next switch. So its share is at most that of the other slot, if
    /// that one has requests.
    pub fn adapt_both([a, b]: &mut [Self; 2], time: Duration, floor: f64, wanted: [f64; 2]) {
        let idle = [a.seen == 0, b.seen == 0];
        a.adapt(time, floor, wanted[0]);
        b.adapt(time, floor, wanted[1]);
        match idle {
            [true, false] => a.present = a.present.min(b.present),
            [false, true] => b.present = b.present.min(a.present),
            _ => {}
        }
    }

    fn adapt(&mut self, time: Duration, floor: f64, target: f64) {
        let rate = std::mem::take(&mut self.seen) as f64 / time.as_secs_f64().max(0.001);
        let step = (target / rate.max(f64::MIN_POSITIVE)).clamp(1.0 / STEP_MAX, STEP_MAX);
        let next = (self.present.max(floor) * step).clamp(floor, 1.0);
        let is_bound = next == floor || next >= 1.0;
        if floor == 0.0 {
            self.present = 0.0;
        } else if is_bound || !(1.0 / STEP_MIN..STEP_MIN).contains(&step) {
            self.present = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share after this many seconds of a slot with this many requests a second.
    fn after(seconds: u32, per_s: f64, in_trial: bool, mut share: Share) -> Share {
        for _ in 0..seconds {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
            share.saw((per_s * share.present()) as u64);
            share.adapt(Duration::from_secs(1), 0.01, wanted(in_trial, 0));
        }
        share
    }

    #[test]
    fn everything_at_low_rates_and_the_floor_at_high_rates() {
        let begin = Share::starting(0.01);
        for (per_s, in_trial, least, most) in [
            (0.0, false, 1.0, 1.0),
            (5.0, false, 1.0, 1.0),
            (100.0, false, 0.16, 0.25),
            (100_000.0, false, 0.01, 0.01),
            (5.0, true, 1.0, 1.0),
            (1_000.0, true, 0.16, 0.25),
            (100_000.0, true, 0.01, 0.01),
        ] {
            let share = after(20, per_s, in_trial, begin).present();
            assert!((least..=most).contains(&share), "{per_s} a second: {share}");
        }
    }

    #[test]
    fn it_follows_within_seconds() {
        let idle = after(10, 0.0, false, Share::starting(0.01));
        assert_eq!(after(4, 100_000.0, false, idle).present(), 0.01, "a burst after a quiet time");
        let busy = after(10, 2_000.0, false, Share::starting(0.01));
        assert!(after(3, 2_000.0, true, busy).present() >= 0.08, "a trial begins");
    }

    #[test]
    fn a_slot_without_requests_does_not_get_more_than_the_one_that_has_them() {
        let mut shares = [Share::starting(0.01); 2];
        for _ in 0..20 {
            shares[0].saw(1_000);
            Share::adapt_both(&mut shares, Duration::from_secs(1), 0.01, [wanted(false, 0); 2]);
        }
        assert_eq!(shares.map(Share::present), [0.01; 2]);
        for _ in 0..20 {
            Share::adapt_both(&mut shares, Duration::from_secs(1), 0.01, [wanted(false, 0); 2]);
        }
        assert_eq!(shares.map(Share::present), [1.0; 2], "no requests at all");
    }

    #[test]
    fn a_share_of_zero_is_off() {
        let mut share = Share::starting(0.0);
        share.adapt(Duration::from_secs(1), 0.0, wanted(true, 0));
        assert_eq!(share.present(), 0.0);
    }
}
