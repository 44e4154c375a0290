//! The shadow: a candidate is asked what users ask, before any user reaches it.

use rei::interface::types::{MaintenanceAction, Verdict};
use rei::lifecycle::{
    Approval, Caller, CanaryStage, Effect, Event, Lifecycle, OnInconclusive, Phase, Policy, Reason, Request, Routing,
    Running, Slot, Standby, Timer,
};

use crate::desk::Desk;
use crate::world::{path, policy};

const SHADOW_MS: u64 = 30_000;

fn usual() -> Policy {
    Policy { shadow_ms: Some(SHADOW_MS), hold_ms: 60_000, ..policy(true, false, Standby::Keep) }
}

/// The candidate of tree `t2` is ready in slot B, and is asked.
fn asked(policy: Policy) -> Desk {
    let mut desk = Desk::serving(policy);
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
    desk.tell(Event::Ready { slot: Slot::B });
    assert_eq!(stage(&desk.core), Some(false), "{:?}", desk.core.phase());
    desk
}

/// `Some` in the shadow: whether its time is over.
fn stage(core: &Lifecycle) -> Option<bool> {
    match core.phase() {
        Phase::Canary { stage: CanaryStage::Shadow { judging } } => Some(judging),
        _ => None,
    }
}

fn says(desk: &mut Desk, verdict: Verdict) {
    desk.tell(Event::Judged { verdict, reason: "the answers".to_owned() });
}

/// No record gave the candidate a connection.
fn has_no_users(desk: &Desk) -> bool {
    let gives = |effect: &Effect| match effect {
        Effect::Route { routing } | Effect::Restore { routing, .. } => *routing != Routing::all(Slot::A),
        Effect::Execute(_) => true,
        _ => false,
    };
    !desk.effects.iter().any(gives) && desk.core.routing() == Some(Routing::all(Slot::A))
}

#[test]
fn a_shadow_comes_before_the_first_share_and_its_pass_leads_there() {
    let mut desk = asked(usual());
    assert!(has_no_users(&desk));
    assert_eq!(desk.core.trial_slot(), Some(Slot::B));
    let shadow = Effect::Shadow { slot: Slot::B, active: Slot::A };
    assert_eq!(desk.effects.last(), Some(&shadow));
    says(&mut desk, Verdict::Pass);
    assert_eq!(stage(&desk.core), Some(false), "a pass counts when the time is over");
    desk.later(SHADOW_MS);
    assert_eq!((stage(&desk.core), desk.effects.last()), (Some(true), Some(&Effect::Judge)));
    assert!(has_no_users(&desk));
    says(&mut desk, Verdict::Pass);
    assert_eq!(desk.core.phase(), Phase::Canary { stage: CanaryStage::Share { index: 0, judging: false } });
}

#[test]
fn without_a_canary_the_switch_follows() {
    let mut desk = asked(Policy { canary: vec![], ..usual() });
    desk.later(SHADOW_MS);
    says(&mut desk, Verdict::Pass);
    assert!(matches!(desk.core.phase(), Phase::Promoting { .. }));
}

#[test]
fn a_candidate_that_fails_in_the_shadow_is_rejected_and_nothing_is_rolled_back() {
    let ends: [fn(&mut Desk); 4] = [
        |desk| says(desk, Verdict::Fail),
        |desk| desk.tell(Event::Exited { slot: Slot::B, exit: "exit code 2".to_owned(), ran_ms: 5 }),
        |desk| {
            let request = Request::Reject { id: "evo_0002".to_owned(), reason: "no".to_owned() };
            desk.tell(Event::Operator { who: Caller::Operator("ada".to_owned()), request });
        },
        |desk| {
            let request = Request::Rollback { to: None };
            desk.tell(Event::Operator { who: Caller::Operator("ada".to_owned()), request });
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut desk = asked(usual());
        end(&mut desk);
        assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected), "{number}");
        assert!(desk.core.is_quarantined("t2") && has_no_users(&desk), "{number}");
        assert_eq!(desk.core.active().unwrap().version.tree, "t1");
    }
}

#[test]
fn active_is_started_again_if_it_exits_in_the_shadow() {
    let mut desk = asked(usual());
    desk.tell(Event::Exited { slot: Slot::A, exit: "exit code 2".to_owned(), ran_ms: 5 });
    assert!(desk.effects.iter().any(|effect| matches!(effect, Effect::Start { slot: Slot::A, .. })));
    assert_eq!(stage(&desk.core), Some(false));
}

#[test]
fn too_few_answers_are_waited_for_and_then_the_policy_decides() {
    for (on_inconclusive, phase) in [
        (OnInconclusive::Ask, Phase::AwaitingApproval { of: Approval::Shadow }),
        (OnInconclusive::Promote, Phase::Canary { stage: CanaryStage::Share { index: 0, judging: false } }),
        (OnInconclusive::Revert, Phase::Steady),
    ] {
        let mut desk = asked(Policy { on_inconclusive, ..usual() });
        desk.later(SHADOW_MS);
        says(&mut desk, Verdict::Inconclusive);
        assert_eq!(stage(&desk.core), Some(true));
        assert!(desk.core.timers().contains_key(&Timer::Recheck), "it is judged again");
        desk.later(60_000);
        assert_eq!(desk.core.phase(), phase);
        if on_inconclusive == OnInconclusive::Ask {
            assert_eq!(desk.core.trial_slot(), Some(Slot::B), "the evidence grows meanwhile");
            let request = Request::Approve { id: "evo_0002".to_owned() };
            let mut approved = desk.core.clone();
            approved.step(desk.now, Event::Operator { who: Caller::Operator("ada".to_owned()), request });
            assert_eq!(approved.phase(), Phase::Canary { stage: CanaryStage::Share { index: 0, judging: false } });
            says(&mut desk, Verdict::Fail);
            assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected));
        }
    }
}

#[test]
fn another_supervisor_asks_again_until_the_same_deadline() {
    let running = |ready| [true, ready].map(|ready| Running { store_path: String::new(), ready });
    let found = |ready| {
        let [a, b] = running(ready);
        [Some(Running { store_path: path("t1"), ..a }), Some(Running { store_path: path("t2"), ..b })]
    };
    let mut desk = asked(usual());
    let deadline = desk.core.timers()[&Timer::Phase].at;
    desk.later(10_000);
    desk.tell(Event::Recovered { running: found(true), rebooted: false });
    assert_eq!((stage(&desk.core), desk.core.timers()[&Timer::Phase].at), (Some(false), deadline));
    assert_eq!(desk.effects.last(), Some(&Effect::Shadow { slot: Slot::B, active: Slot::A }));
    // Its candidate has ended meanwhile.
    let [active, _] = found(true);
    desk.tell(Event::Recovered { running: [active, None], rebooted: false });
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected));
    assert!(matches!(desk.ends().last().unwrap().reason, Reason::ExitedUnattended));
    // After a restart of the machine, the candidate is not the cause.
    let mut desk = asked(usual());
    desk.tell(Event::Recovered { running: [None, None], rebooted: true });
    assert_eq!(desk.core.phase(), Phase::Canary { stage: CanaryStage::Preparing });
}

#[test]
fn a_journal_without_a_shadow_has_none() {
    let old = serde_json::to_value(policy(true, false, Standby::Keep)).unwrap();
    assert!(old.get("shadow_ms").is_none(), "{old}");
    assert_eq!(serde_json::from_value::<Policy>(old).unwrap().shadow_ms, None);
    let stored = serde_json::json!({"phase": "canary", "stage": {"stage": "shadow", "judging": true}});
    let phase: Phase = serde_json::from_value(stored).unwrap();
    assert_eq!(phase.name(), "Shadow");
}
