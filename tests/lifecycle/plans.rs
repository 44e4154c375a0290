//! A plan is tried again while another program holds the profile's lock, and not for ever.

use rei::interface::types::{MaintenanceAction, Verdict};
use rei::lifecycle::{Effect, Event, Phase, Plan, Policy, RollbackStage, Slot, Standby, Timer};

use crate::desk::Desk;
use crate::world::{path, policy};

/// The pauses between the tries, in milliseconds.
const PAUSES: [u64; 5] = [64, 128, 256, 512, 1024];

fn usual() -> Policy {
    Policy { tries: 6, retry_ms: 60_000, retry_max_ms: 60_000, ..policy(true, false, Standby::Keep) }
}

/// The switch to a candidate is wanted.
fn promoting() -> Desk {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
    desk.tell(Event::Ready { slot: Slot::B });
    desk.judge_says(Verdict::Pass);
    assert!(matches!(desk.core.phase(), Phase::Promoting { .. }));
    desk
}

/// The switch back is wanted.
fn rolling_back() -> Desk {
    let mut desk = promoting();
    let plan = desk.plan();
    desk.tell(Event::PlanDone { plan, took_us: 1 });
    desk.judge_says(Verdict::Fail);
    assert!(matches!(desk.core.phase(), Phase::RollingBack { stage: RollbackStage::Switching, .. }));
    desk
}

/// The plans that were handed out since the last look.
fn plans(desk: &mut Desk) -> Vec<Plan> {
    let taken = std::mem::take(&mut desk.effects);
    taken.into_iter().filter_map(|it| if let Effect::Execute(plan) = it { Some(plan) } else { None }).collect()
}

fn is_busy(desk: &mut Desk, plan: u64) {
    desk.tell(Event::PlanBusy { plan, reason: "another program holds the lock".to_owned() });
}

/// The lock is held at each try; says how long each pause was.
fn stays_busy(desk: &mut Desk) -> Vec<u64> {
    let plan = plans(desk).pop().expect("a plan");
    let mut pauses = Vec::new();
    loop {
        is_busy(desk, plan.number);
        let Some(at) = desk.core.timers().get(&Timer::Plan).map(|armed| armed.at) else { return pauses };
        assert_eq!(plans(desk), [], "not before the pause is over");
        pauses.push(at.ms_since(desk.now));
        desk.now = at;
        desk.tell(Event::Due(Timer::Plan));
        assert_eq!(plans(desk), std::slice::from_ref(&plan), "the same plan, from its first step");
    }
}

#[test]
fn a_switch_is_done_as_soon_as_the_lock_is_free() {
    let mut desk = promoting();
    let plan = plans(&mut desk).pop().unwrap();
    for pause in &PAUSES[..2] {
        is_busy(&mut desk, plan.number);
        desk.later(*pause);
    }
    assert_eq!(plans(&mut desk), [plan.clone(), plan.clone()]);
    desk.tell(Event::PlanDone { plan: plan.number, took_us: 1 });
    assert!(matches!(desk.core.phase(), Phase::Observing { .. }));
    assert!(!desk.core.timers().contains_key(&Timer::Plan));
}

#[test]
fn a_promotion_whose_lock_is_held_for_two_seconds_has_failed() {
    let mut desk = promoting();
    assert_eq!(stays_busy(&mut desk), PAUSES);
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Deferred));
    assert_eq!(desk.base(), "t1");
    assert!(desk.core.quarantine().is_empty(), "the candidate is not the cause");
}

#[test]
fn a_rollback_whose_lock_is_held_is_tried_until_its_deadline() {
    let mut desk = rolling_back();
    let deadline = desk.core.timers()[&Timer::Phase].at;
    let mut rounds = 0;
    while desk.now < deadline && matches!(desk.core.phase(), Phase::RollingBack { .. }) {
        assert_eq!(stays_busy(&mut desk), PAUSES);
        assert_eq!(desk.core.timers()[&Timer::Phase].at, deadline, "the deadline stays");
        assert!(desk.core.attention().is_some());
        desk.later(desk.core.timers()[&Timer::Recheck].at.ms_since(desk.now));
        rounds += 1;
    }
    assert!(rounds > 1);
    desk.later(1);
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::RolledBack));
}

#[test]
fn another_supervisor_begins_with_the_tries_anew() {
    for mut desk in [promoting(), rolling_back()] {
        let first = plans(&mut desk).pop().unwrap().number;
        is_busy(&mut desk, first);
        desk.crash(false);
        assert!(!desk.core.timers().contains_key(&Timer::Plan));
        assert_eq!(stays_busy(&mut desk), PAUSES);
    }
}

#[test]
fn the_lock_of_a_plan_that_nobody_waits_for_changes_nothing() {
    let mut desk = promoting();
    let plan = desk.plan();
    desk.tell(Event::PlanDone { plan, took_us: 1 });
    let (before, effects) = (desk.core.clone(), desk.effects.len());
    is_busy(&mut desk, plan);
    desk.tell(Event::Due(Timer::Plan));
    assert!(desk.core == before && desk.effects.len() == effects);
}
