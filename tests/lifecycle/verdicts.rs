//! One commit, one evolution, one verdict; and the events that change the version with which candidates are compared.

use rei::interface::types::{MaintenanceAction, Verdict};
use rei::lifecycle::{
    Caller, Deployed, Event, Fault, FoundInstance, Instance, Phase, Policy, Reality, Reason, Request, Slot, Standby,
    Trust,
};

use crate::desk::{Desk, version};
use crate::world::{path, policy};

fn usual() -> Policy {
    Policy {
        per_hour: 6,
        per_incident: 3,
        tries: 6,
        retry_ms: MINUTE,
        retry_max_ms: 60 * MINUTE,
        ..policy(true, false, Standby::Keep)
    }
}

const MINUTE: u64 = 60_000;

/// A failure of a check in the blueprint's tests stage, for this tree.
fn refuted(tree: &str) -> Fault {
    Fault::Content { tree: tree.to_owned(), store_path: path(tree) }
}

#[test]
fn a_commit_with_actives_build_is_unchanged_and_does_not_become_the_base() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t1");
    assert_eq!((desk.core.phase(), desk.base()), (Phase::Steady, "t1"));
    assert_eq!(desk.end(), MaintenanceAction::Unchanged);
    assert!(desk.core.quarantine().is_empty());
    // This is decided: neither the poll nor another commit with the same files starts an evolution.
    desk.push("t2");
    assert_eq!(desk.core.phase(), Phase::Steady);
    // The next candidate is compared with the judged version.
    desk.push("t3");
    desk.builds("t3", "t3");
    assert_eq!((desk.core.phase(), desk.base()), (Phase::Validating, "t1"));
    desk.promoted("t3", 2);
    assert_eq!(desk.base(), "t3");
    // Compared with another Active, the same files are a change.
    desk.push("t2");
    assert_eq!(desk.core.phase(), Phase::Diagnosing);
}

#[test]
fn commits_with_actives_build_cost_no_evolution() {
    let mut desk = Desk::serving(usual());
    for number in 0..6 {
        let tree = format!("docs{number}");
        desk.push(&tree);
        desk.builds(&tree, "t1");
        assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Unchanged));
    }
    assert_eq!(desk.core.recent().count(), 0);
    desk.push("t2");
    desk.builds("t2", "t2");
    assert_eq!(desk.core.phase(), Phase::Validating, "{:?}", desk.core.attention());
    desk.judged(Verdict::Fail);
    assert_eq!((desk.end(), desk.core.recent().count()), (MaintenanceAction::Rejected, 1));
}

#[test]
fn a_failed_check_in_the_tests_stage_is_a_verdict() {
    let mut desk = Desk::serving(usual());
    // An operator requests the commit right after a push; the poll finds it while the evolution runs, or after its end.
    for (tree, seen_before_the_end) in [("t2", true), ("t3", false)] {
        desk.asked(None);
        desk.aims(tree);
        if seen_before_the_end {
            desk.push(tree);
        }
        desk.fails(refuted(tree));
        if !seen_before_the_end {
            desk.push(tree);
        }
        assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected), "{tree}");
        assert!(desk.core.is_quarantined(tree) && desk.core.is_quarantined(&path(tree)));
        // Another commit with the same content is not even built.
        desk.tell(Event::Followed { rev: "r-again".to_owned(), tree: tree.to_owned() });
        assert_eq!(desk.core.phase(), Phase::Steady);
    }
    desk.asked(Some("r-again"));
    desk.aims("t3");
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected));
    assert!(matches!(desk.ends().last().unwrap().reason, Reason::TreeInQuarantine { .. }));
    // An operator releases it: the followed ref still names it, so it is judged again.
    desk.tell(Event::Operator {
        who: Caller::Operator("ada".to_owned()),
        request: Request::Release { content: "t3".to_owned() },
    });
    assert_eq!(desk.core.phase(), Phase::Diagnosing);
}

#[test]
fn a_check_that_fails_for_a_commit_with_actives_build_does_not_quarantine_active() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.fails(Fault::Content { tree: "t2".to_owned(), store_path: path("t1") });
    assert!(desk.core.is_quarantined("t2") && !desk.core.is_quarantined(&path("t1")));
}

#[test]
fn an_operator_and_the_poll_join_one_evolution() {
    let mut desk = Desk::serving(usual());
    // The poll comes first.
    desk.push("t2000000");
    let first = desk.evolution();
    assert_eq!(desk.answer(None), Some(first.clone()));
    assert_eq!(desk.answer(Some("r-t2000")), Some(first.clone()));
    assert_eq!(desk.answer(Some("r-t3000")), None);
    desk.builds("t2000000", "t1");
    // It has just ended: its verdict still holds.
    assert_eq!(desk.answer(Some("r-t2000000")), Some(first));
    // The operator comes first, with an abbreviated commit or without one.
    for (number, tree) in ["t3000000", "t4000000"].into_iter().enumerate() {
        let abbreviation = format!("r-{}", &tree[..6]);
        desk.asked(Some(&abbreviation).filter(|_| number == 0).map(String::as_str));
        let asked = desk.evolution();
        desk.push(tree);
        desk.aims(tree);
        desk.builds(tree, "t1");
        assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Unchanged));
        desk.push(tree);
        assert_eq!((desk.core.phase(), desk.answer(Some(&abbreviation))), (Phase::Steady, Some(asked)));
    }
    assert_eq!(desk.begun(), 3);
}

#[test]
fn a_commit_without_a_candidate_waits_for_an_operator() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.fails(Fault::Maker);
    assert_eq!((desk.end(), desk.core.quarantine().len()), (MaintenanceAction::Rejected, 0));
    desk.push("t2");
    desk.later(600 * MINUTE);
    assert_eq!(desk.core.phase(), Phase::Steady);
    desk.asked(Some("r-t2"));
    assert_eq!(desk.core.phase(), Phase::Diagnosing);
}

#[test]
fn a_commit_that_failed_by_a_fault_of_the_machine_is_tried_again_a_bounded_number_of_times() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    let mut pauses = Vec::new();
    loop {
        desk.fails(Fault::Machine);
        if desk.end() != MaintenanceAction::Deferred {
            break;
        }
        assert_eq!((desk.core.phase(), desk.core.recent().count()), (Phase::Steady, 0), "it costs no budget");
        let (reported, until) = desk.core.waits_for();
        assert!(matches!(reported, Some(Reason::RetriesUpgrade { rev, .. }) if rev == "r-t2"));
        let pause = until.unwrap().ms_since(desk.now);
        pauses.push(pause / MINUTE);
        // Neither the poll nor a restart shortens the pause.
        desk.later(pause / 2);
        desk.push("t2");
        desk.crash(false);
        assert_eq!(desk.core.phase(), Phase::Steady);
        desk.later(pause - pause / 2);
        assert_eq!(desk.core.phase(), Phase::Diagnosing);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16]);
    assert_eq!((desk.end(), desk.core.quarantine().len()), (MaintenanceAction::Rejected, 0));
    assert!(desk.core.attention().is_some());
    desk.later(600 * MINUTE);
    assert_eq!(desk.core.phase(), Phase::Steady);
    // Another commit is judged at once.
    desk.push("t3");
    assert_eq!(desk.core.phase(), Phase::Diagnosing);
}

#[test]
fn a_repair_that_failed_by_a_fault_of_the_machine_costs_no_attempt() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    for _ in 0..4 {
        desk.fails(Fault::Machine);
        assert_eq!(desk.core.phase(), Phase::Steady);
        assert!(desk.core.spent_fingerprints().is_empty());
        let until = desk.core.waits_for().1.unwrap();
        desk.later(until.ms_since(desk.now));
        assert_eq!(desk.core.phase(), Phase::Diagnosing);
    }
}

#[test]
fn a_validation_that_could_not_run_is_no_verdict() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Inconclusive);
    desk.judged(Verdict::Inconclusive);
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Deferred));
    desk.later(MINUTE);
    desk.diagnosed();
    assert_eq!(desk.core.phase(), Phase::Building);
    // A build that exceeds its time limit is a fault of the machine, too.
    let bound = desk.core.waits_for().1.unwrap();
    desk.later(bound.ms_since(desk.now));
    assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Deferred));
}

#[test]
fn the_next_repair_of_an_incident_waits_longer_each_time() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        assert_eq!(desk.core.phase(), Phase::Diagnosing, "{attempt}");
        desk.fails(Fault::Maker);
        assert_eq!((desk.core.phase(), desk.end()), (Phase::Steady, MaintenanceAction::Rejected));
        if attempt == 3 {
            break;
        }
        // Neither a new occurrence nor another policy nor a restart shortens the pause.
        let until = desk.core.waits_for().1.unwrap();
        pauses.push(until.ms_since(desk.now) / MINUTE);
        desk.finds("f");
        desk.tell(Event::Configured { policy: usual() });
        desk.crash(false);
        assert_eq!(desk.core.phase(), Phase::Steady);
        desk.later(until.ms_since(desk.now));
    }
    assert_eq!(pauses, [1, 2]);
    assert_eq!(desk.core.spent_fingerprints(), ["f"]);
    // An operator's request does not wait.
    desk.asked(None);
    assert_eq!(desk.core.phase(), Phase::Diagnosing);
}

#[test]
fn runs_of_agents_have_a_budget_of_their_own() {
    let runs = Policy { agent_runs: 4, per_hour: 100, ..usual() };
    let time = Policy { agent_ms: 8 * MINUTE, per_hour: 100, ..usual() };
    for policy in [runs, time] {
        let mut desk = Desk::serving(policy);
        // Four old incidents wait, for example after a reload.
        for fingerprint in ["f1", "f2", "f3", "f4"] {
            desk.finds(fingerprint);
        }
        for _ in 0..2 {
            desk.diagnosed();
            for _ in 0..2 {
                desk.tell(Event::AgentRan { evolution: desk.evolution(), took_ms: 2 * MINUTE, asked: None });
            }
            desk.fails(Fault::Maker);
        }
        assert_eq!((desk.core.phase(), desk.begun()), (Phase::Steady, 2));
        let attention = desk.core.attention();
        assert!(
            matches!(attention, Some(Reason::AgentRunsSpent { .. } | Reason::AgentTimeSpent { .. })),
            "{attention:?}"
        );
        let until = desk.core.waits_for().1.unwrap();
        assert_eq!(until.ms_since(desk.now), 60 * MINUTE);
        // An upgrade needs no agent, and an operator may request any evolution.
        desk.push("t2");
        assert_eq!(desk.core.phase(), Phase::Diagnosing);
        desk.builds("t2", "t1");
        desk.later(until.ms_since(desk.now));
        assert_eq!((desk.core.phase(), desk.begun()), (Phase::Diagnosing, 4));
    }
}

/// The followed ref may be reported before an operator decides, after it, or while the journal's Active is restored.
#[test]
fn a_commit_that_the_journal_lost_is_judged_again_whenever_it_is_reported() {
    for reported in ["held", "starting", "switching", "restored"] {
        let mut desk = Desk::serving(usual());
        desk.tell(Event::Held(Box::new(Reality {
            facts: vec!["records are lost".to_owned()],
            running: [
                None,
                Some(FoundInstance {
                    version: version("t2", "t2"),
                    instance: Instance { id: "x-9-b".to_owned(), pid: 1, start_ticks: 1 },
                    ready: true,
                }),
            ],
            serves: Some((Slot::B, Deployed { version: version("t2", "t2"), generation: 2 })),
            numbered: 5,
        })));
        let tells = |desk: &mut Desk, now: &str| {
            if reported == now {
                desk.push("t2");
            }
        };
        tells(&mut desk, "held");
        assert_eq!(desk.core.phase(), Phase::Held);
        let who = Caller::Operator("ada".to_owned());
        let request = Request::Settle { trust: Trust::Journal, reason: "a mistake".to_owned() };
        desk.tell(Event::Operator { who, request });
        tells(&mut desk, "starting");
        desk.tell(Event::Ready { slot: Slot::A });
        tells(&mut desk, "switching");
        let plan = desk.plan();
        desk.tell(Event::PlanDone { plan, took_us: 1 });
        tells(&mut desk, "restored");
        assert_eq!(desk.base(), "t1", "reported when {reported}");
        assert_eq!((desk.core.phase(), desk.begun()), (Phase::Diagnosing, 1), "reported when {reported}");
        assert_eq!(desk.core.evolution().unwrap().tree.as_deref(), Some("t2"));
    }
}
