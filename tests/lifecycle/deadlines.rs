//! Deadlines are points in time: repeated crashes do not move them again and again.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rei::interface::types::MaintenanceAction;
use rei::lifecycle::{
    CanaryStage, CanaryStep, EXTENDED_MS_MAX, Event, OnInconclusive, Phase, Policy, Slot, Standby, Timer,
};
use rei::time::Timestamp;

use crate::desk::Desk;
use crate::world::{path, policy};

const SECOND: u64 = 1000;

fn usual() -> Policy {
    let mut policy = Policy {
        canary: vec![CanaryStep { share_ppm: 50_000, for_ms: SECOND }],
        observe_ms: 5 * SECOND,
        hold_ms: 10 * SECOND,
        on_inconclusive: OnInconclusive::Revert,
        ..policy(true, false, Standby::Keep)
    };
    let bounds = &mut policy.bounds;
    (bounds.diagnose_ms, bounds.build_ms, bounds.validate_ms) = (10 * SECOND, 30 * SECOND, 20 * SECOND);
    (bounds.start_ms, bounds.stop_ms, bounds.recheck_ms) = (3 * SECOND, SECOND, SECOND);
    policy
}

/// A desk in the canary: the candidate has its share.
fn in_canary() -> Desk {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(rei::interface::types::Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
    desk.tell(Event::Ready { slot: Slot::B });
    assert!(matches!(desk.core.phase(), Phase::Canary { stage: CanaryStage::Share { .. } }));
    desk
}

#[test]
fn a_canary_ends_at_its_deadline_if_the_supervisor_is_killed_over_and_over() {
    let mut desk = in_canary();
    let began = desk.now;
    while matches!(desk.core.phase(), Phase::Canary { .. }) {
        // Less time than the step takes, so that no supervisor sees the end of the step.
        desk.later(SECOND / 2);
        desk.crash(false);
        assert!(desk.now.ms_since(began) <= 20 * SECOND, "the canary does not end");
    }
    // The time of the step, and of the wait for data.
    assert!(desk.now.ms_since(began) <= 11 * SECOND + SECOND / 2);
    assert!(matches!(desk.core.phase(), Phase::RollingBack { .. }), "on_inconclusive = revert");
}

#[test]
fn repeated_reboots_drop_the_candidate() {
    let mut desk = in_canary();
    let began = desk.now;
    while desk.core.evolution().is_some() {
        desk.later(SECOND);
        desk.crash(true);
        desk.tell(Event::Ready { slot: Slot::A });
        desk.tell(Event::Ready { slot: Slot::B });
        assert!(desk.now.ms_since(began) <= 60 * SECOND, "the canary does not end");
    }
    // The candidate gets no blame.
    assert!(desk.core.quarantine().is_empty());
    assert!(matches!(desk.end(), MaintenanceAction::Deferred | MaintenanceAction::Rejected));
}

#[test]
fn a_deadline_that_passed_without_a_supervisor_is_extended_once() {
    let mut desk = in_canary();
    // No supervisor runs for an hour, or the clock was wrong by an hour.
    desk.now = desk.now.plus_ms(3600 * SECOND);
    desk.crash(false);
    let deadline = desk.core.timers()[&Timer::Phase].at;
    assert_eq!(deadline.ms_since(desk.now), SECOND, "as long as the step takes");
    desk.now = desk.now.plus_ms(SECOND / 2);
    desk.crash(false);
    assert_eq!(desk.core.timers()[&Timer::Phase].at, deadline);
}

/// A desk in which the candidate's process starts.
fn in_preparation() -> Desk {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(rei::interface::types::Verdict::Pass);
    assert!(matches!(desk.core.phase(), Phase::Canary { stage: CanaryStage::Preparing }));
    desk
}

fn deadline(desk: &Desk) -> Timestamp {
    desk.core.timers()[&Timer::Phase].at
}

#[test]
fn an_instance_extends_the_deadline_of_its_own_start_from_its_message_on() {
    let mut desk = in_preparation();
    let (first, ask) = (deadline(&desk), |slot, by_ms| Event::Extended { slot, by_ms });
    // Four seconds: the stop of the former instance, and the start.
    desk.later(3 * SECOND);
    desk.tell(ask(Slot::B, SECOND / 2));
    assert_eq!(deadline(&desk), first, "a deadline is never moved earlier");
    desk.tell(ask(Slot::A, 60 * SECOND));
    assert_eq!(deadline(&desk), first, "the phase does not wait for Active");
    desk.tell(ask(Slot::B, 2 * SECOND));
    assert_eq!(deadline(&desk), desk.now.plus_ms(2 * SECOND));
    // The extension survives a crash of the supervisor.
    desk.crash(false);
    desk.later(SECOND);
    desk.tell(ask(Slot::B, 3 * SECOND));
    let put_off = deadline(&desk);
    assert_eq!(put_off, desk.now.plus_ms(3 * SECOND));
    desk.later(3 * SECOND);
    assert!(!matches!(desk.core.phase(), Phase::Canary { .. }), "no message arrived in time");
}

#[test]
fn endless_requests_for_time_end_and_a_ready_instance_gets_none() {
    let mut desk = in_preparation();
    let first = deadline(&desk);
    while matches!(desk.core.phase(), Phase::Canary { .. }) {
        desk.tell(Event::Extended { slot: Slot::B, by_ms: 300 * SECOND });
        assert!(deadline(&desk).ms_since(first) <= EXTENDED_MS_MAX);
        desk.later(100 * SECOND);
    }
    assert!(desk.now.ms_since(first) >= EXTENDED_MS_MAX, "the candidate gets the full extension");
    let mut desk = in_canary();
    let before = desk.core.clone();
    for slot in Slot::ALL {
        desk.tell(Event::Extended { slot, by_ms: 300 * SECOND });
    }
    assert_eq!(desk.core, before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// With any crashes and pauses, a phase's deadline moves at most once, and only if it was too near.
    #[test]
    fn a_deadline_is_moved_once_at_most(acts in proptest::collection::vec((0u64..8000, 0u8..8), 0..60)) {
        let mut desk = in_canary();
        let mut known: Vec<(String, Timestamp, BTreeSet<Timestamp>)> = Vec::new();
        for (ms, act) in acts {
            match act {
                0..=3 => desk.crash(false),
                4 => {
                    desk.now = desk.now.plus_ms(ms);
                    desk.crash(false);
                }
                5 => {
                    desk.push("t3");
                    desk.diagnosed();
                }
                6 => desk.tell(Event::PlanDone { plan: desk.plan_or_none(), took_us: 1 }),
                _ => desk.later(ms),
            }
            let Some(armed) = desk.core.timers().get(&Timer::Phase) else { continue };
            let (name, since) = (desk.core.phase().name().to_owned(), desk.core.phase_since());
            match known.iter_mut().find(|(of, began, _)| *of == name && *began == since) {
                Some((_, _, deadlines)) => {
                    deadlines.insert(armed.at);
                    prop_assert!(deadlines.len() <= 2, "{name} since {since}: {deadlines:?}");
                }
                None => known.push((name, since, BTreeSet::from([armed.at]))),
            }
        }
    }
}
