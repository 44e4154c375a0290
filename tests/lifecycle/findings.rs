//! A finding only opens an incident of Active. The verdict decides about a version under trial.

use rei::interface::types::{IncidentClass, MaintenanceAction, Verdict};
use rei::lifecycle::{CanaryStage, Event, Phase, Policy, Reason, Slot, Standby};

use crate::desk::Desk;
use crate::world::{path, policy};

const FAILURE: IncidentClass = IncidentClass::RuntimeFailure;

/// A policy in which incidents have no blueprint, so that open incidents can be counted.
fn usual(overlap: bool) -> Policy {
    Policy { per_hour: 10, incident_blueprint: None, ..policy(overlap, false, Standby::Keep) }
}

/// A desk in which a second version is in its window: in slot B beside Previous, or with strategy recreate alone in slot A.
fn in_window(overlap: bool) -> Desk {
    let mut desk = Desk::serving(usual(overlap));
    desk.push("t2");
    desk.builds("t2", "t2");
    if overlap {
        desk.observed("t2", 2);
        return desk;
    }
    desk.judged(Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
    desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
    let plan = desk.plan();
    desk.tell(Event::PlanDone { plan, took_us: 1 });
    desk.tell(Event::Ready { slot: Slot::A });
    assert!(matches!(desk.core.phase(), Phase::Observing { .. }));
    desk
}

/// Checks that a finding that must not count changes nothing, so that it is not recorded.
fn is_ignored(desk: &mut Desk, slot: Slot, what: &str) {
    let (before, effects) = (desk.core.clone(), desk.effects.len());
    desk.finds_in(slot, "f", FAILURE);
    assert!(desk.core == before && desk.effects.len() == effects, "{what}");
}

#[test]
fn a_finding_counts_only_for_active() {
    let mut desk = Desk::serving(usual(true));
    is_ignored(&mut desk, Slot::B, "no instance in the slot");
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
    desk.tell(Event::Ready { slot: Slot::B });
    assert!(matches!(desk.core.phase(), Phase::Canary { stage: CanaryStage::Share { .. } }));
    is_ignored(&mut desk, Slot::B, "a candidate in its canary");
    desk.finds_in(Slot::A, "of Active", FAILURE);
    assert!(desk.core.incidents().contains_key("of Active"), "beside the canary");
    let mut desk = in_window(true);
    is_ignored(&mut desk, Slot::B, "Active in its window");
    is_ignored(&mut desk, Slot::A, "the warm Previous");
    desk.judge_says(Verdict::Pass);
    desk.finds_in(Slot::B, "of Active", FAILURE);
    assert!(desk.core.incidents().contains_key("of Active"), "its window is over");
}

/// A crash causes three events. The exit comes first, decides, and names the reason; the others come in any order, before or after
/// the end of the switch back.
#[test]
fn a_crash_in_the_window_is_decided_once_and_always_for_the_same_reason() {
    let exit = "signal 6 (SIGABRT)";
    for overlap in [true, false] {
        for found_first in [true, false] {
            for after_the_switch in [true, false] {
                let mut desk = in_window(overlap);
                let slot = desk.core.active_slot().unwrap();
                desk.tell(Event::Exited { slot, exit: exit.to_owned(), ran_ms: 2000 });
                let plan = desk.plan();
                let switched = Event::PlanDone { plan, took_us: 1 };
                let told = |desk: &mut Desk| {
                    for is_finding in [found_first, !found_first] {
                        if is_finding {
                            is_ignored(desk, slot, "the replaced version");
                        } else {
                            desk.tell(Event::Judged { verdict: Verdict::Fail, reason: "crash".to_owned() });
                        }
                    }
                };
                if !after_the_switch {
                    told(&mut desk);
                }
                desk.tell(switched);
                // With strategy recreate the slot already has the version before; the replaced version is not observed any more.
                if after_the_switch && overlap {
                    told(&mut desk);
                }
                let ends = desk.ends();
                let end = ends.last().unwrap();
                assert_eq!((ends.len(), end.action), (2, MaintenanceAction::RolledBack));
                assert_eq!(end.reason, Reason::Exited { exit: exit.to_owned() });
                assert!(desk.core.incidents().is_empty());
                assert_eq!((desk.core.phase(), desk.base()), (Phase::Steady, "t1"));
            }
        }
    }
}

#[test]
fn only_the_verdict_ends_a_window() {
    let mut desk = in_window(true);
    is_ignored(&mut desk, Slot::B, "it is judged");
    desk.tell(Event::Judged { verdict: Verdict::Fail, reason: "latency".to_owned() });
    let plan = desk.plan();
    desk.tell(Event::PlanDone { plan, took_us: 1 });
    assert_eq!(desk.end(), MaintenanceAction::RolledBack);
    assert_eq!(desk.ends().last().unwrap().reason, Reason::Text("latency".to_owned()));
}

#[test]
fn an_upgrade_request_is_no_fault_of_a_version_under_trial() {
    let mut desk = in_window(true);
    desk.finds_in(Slot::B, "wish", IncidentClass::UpgradeRequest);
    assert!(matches!(desk.core.phase(), Phase::Observing { .. }), "it does not end the window");
    assert!(desk.core.incidents().contains_key("wish"), "and it is not lost");
}

#[test]
fn a_stored_finding_without_a_slot_belongs_to_active() {
    let old = r#"{"event":"found","class":"runtime_failure","cause":"crash","severity":"critical","fingerprint":"f",
                 "summary":"it crashed","evolve":false}"#;
    let mut desk = Desk::serving(usual(true));
    desk.tell(serde_json::from_str(old).unwrap());
    assert!(desk.core.incidents().contains_key("f"));
}
