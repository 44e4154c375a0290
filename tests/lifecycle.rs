//! The lifecycle's invariants, proved over every reachable state of a bounded world.

#[path = "lifecycle/deadlines.rs"]
mod deadlines;
#[path = "lifecycle/desk.rs"]
mod desk;
#[path = "lifecycle/draining.rs"]
mod draining;
#[path = "lifecycle/findings.rs"]
mod findings;
#[path = "lifecycle/plans.rs"]
mod plans;
#[path = "lifecycle/repeats.rs"]
mod repeats;
#[path = "lifecycle/shadow.rs"]
mod shadow;
#[path = "lifecycle/verdicts.rs"]
mod verdicts;
#[path = "lifecycle/world.rs"]
mod world;

use proptest::prelude::*;
use rei::lifecycle::{
    Approval, Caller, CanaryStage, Effect, Event, Lifecycle, Phase, Policy, Quarantined, Reason, Request,
    RollbackStage, Routing, Standby, Timer, Trust,
};
use stateright::{Checker, Model, Property};
use world::loss::NUMBERED;
use world::{Action, Cause, Left, World, policy};

struct Bounded {
    policy: Policy,
    left: Left,
}

impl Model for Bounded {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.policy.clone(), self.left.clone())]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for cause in world.causes() {
            actions.push(Action::Happens(cause.clone()));
            if world.left.crashes > 0 {
                let mut probe = world.clone();
                let event = probe.event(cause.clone());
                let count = probe.take(event, 0);
                for carried in 0..=count {
                    actions.push(Action::Crashes { cause: cause.clone(), carried, reboot: false });
                }
                actions.push(Action::Crashes { cause, carried: count, reboot: true });
            }
        }
        actions.extend(world.losses());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1 one Active, and the profile and the routing are its", |_, world: &World| {
                world.one_active()
            }),
            Property::always("I2 I5 I6 I8 no forbidden effect was requested or executed", |_, world: &World| {
                world.broken.is_empty()
            }),
            Property::always("I3 the version to restore can serve", |_, world: &World| world.previous_can_serve()),
            Property::always("I4 every phase has a deadline", |_, world: &World| world.has_deadline()),
            Property::always("I5 Active has a process or gets one", |_, world: &World| world.active_is_cared_for()),
            Property::always("I6 a request of an instance has no effect", |_, world: &World| {
                world.instance_asks_in_vain()
            }),
            Property::always("I7 the hourly budget holds", |model: &Self, world: &World| {
                let operators = u64::from(model.left.requests - world.left.requests);
                // New numbers are higher than all known ones. The budget spent in lost records is lost, and an operator was asked.
                let before = if model.left.losses > world.left.losses { NUMBERED } else { 1 };
                let most = model.policy.per_hour + before + operators + u64::from(world.free);
                world.core.evolution().is_none_or(|it| it.id.0 <= format!("evo_{most:04}"))
            }),
            Property::always("I9 a rollback's plan names the restored version", |_, world: &World| {
                match (world.core.phase(), &world.plan) {
                    (Phase::RollingBack { .. }, Some(plan)) => {
                        world.core.active().is_some_and(|active| active.version.store_path == plan.store_path)
                    }
                    _ => true,
                }
            }),
            Property::sometimes(
                "the operator accepts reality after a journal lost its end",
                |model: &Self, world: &World| {
                    model.left.losses == 0
                        || world.settled == Some(Trust::Reality) && world.core.phase() == Phase::Steady
                },
            ),
            Property::sometimes(
                "the operator accepts the journal, and its Active is restored",
                |model: &Self, world: &World| {
                    model.left.losses == 0
                        || world.settled == Some(Trust::Journal)
                            && world.core.phase() == Phase::Steady
                            && world.core.active().is_some_and(|active| active.generation == 1)
                },
            ),
            Property::sometimes("a candidate is promoted and stays", |_, world: &World| {
                world.core.phase() == Phase::Steady && world.core.previous().is_some()
            }),
            Property::always("a candidate that is only asked has no users", |_, world: &World| {
                let is_shadow = matches!(world.core.phase(), Phase::Canary { stage: CanaryStage::Shadow { .. } });
                !is_shadow || world.core.routing() == world.core.active_slot().map(Routing::all)
            }),
            Property::sometimes("an operator is asked because of too few answers", |model: &Self, world: &World| {
                model.policy.shadow_ms.is_none()
                    || matches!(world.core.phase(), Phase::AwaitingApproval { of: Approval::Shadow })
            }),
            Property::sometimes("a candidate is rolled back", |_, world: &World| {
                matches!(world.core.phase(), Phase::RollingBack { stage: RollbackStage::Switching, .. })
            }),
            Property::sometimes("some content is in quarantine", |_, world: &World| {
                !world.core.quarantine().is_empty()
            }),
            Property::sometimes("a commit has the same build as Active", |model: &Self, world: &World| {
                model.left.commits < 2 || world.unchanged
            }),
            Property::sometimes("an evolution without a verdict is tried again", |model: &Self, world: &World| {
                model.policy.tries == 1 || world.free > 0 && matches!(world.core.phase(), Phase::Building)
            }),
            Property::sometimes("an operator is asked because of missing data", |_, world: &World| {
                matches!(world.core.phase(), Phase::AwaitingApproval { of: Approval::Observation })
            }),
            Property::sometimes("a queue is drained", |model: &Self, world: &World| {
                model.left.waits == 0 || world.processes.iter().flatten().any(|process| process.drains)
            }),
            Property::sometimes("a plan waits for another try", |_, world: &World| {
                world.core.timers().contains_key(&Timer::Plan)
            }),
            Property::sometimes("a budget is spent", |model: &Self, world: &World| {
                model.left.findings == 0
                    || matches!(
                        world.core.attention(),
                        Some(Reason::IncidentBudgetSpent { .. } | Reason::HourBudgetSpent { .. })
                    )
            }),
            Property::sometimes("the lifecycle recovers from a crash in a promotion", |model: &Self, world: &World| {
                model.left.crashes == 0
                    || matches!(world.recovered_in, Some(Phase::Promoting { .. }))
                        && world.core.phase() == Phase::Steady
            }),
            Property::sometimes("the lifecycle recovers from a crash in a rollback", |model: &Self, world: &World| {
                model.left.crashes == 0
                    || matches!(world.recovered_in, Some(Phase::RollingBack { .. }))
                        && world.core.phase() == Phase::Steady
            }),
        ]
    }
}

/// Proves every property over the whole space, and returns the number of states.
fn prove(policy: Policy, left: Left) -> usize {
    let checker = Bounded { policy, left }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn a_record_from_before_other_callers_existed_belongs_to_an_operator() {
    let old = r#"{"event":"operator","who":"ada","request":{"request":"approve","id":"evo_0001"}}"#;
    let event: Event = serde_json::from_str(old).unwrap();
    let Event::Operator { who, .. } = &event else { panic!("{event:?}") };
    assert_eq!(*who, Caller::Operator("ada".into()));
    assert_eq!(serde_json::to_string(&event).unwrap(), old, "it is written in the same form");
    let other = Event::Operator { who: Caller::Supervised { pid: 7 }, request: Request::Pause };
    let text = serde_json::to_string(&other).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), other);
}

#[test]
fn a_reason_of_any_version_of_rei_can_be_read() {
    for (stored, wanted) in [
        (r#""it ended: exit code 2""#, Reason::Text("it ended: exit code 2".into())),
        (r#"{"why":"exited","exit":"exit code 2"}"#, Reason::Exited { exit: "exit code 2".into() }),
        (
            r#"{"why":"never_heard_of","n":1}"#,
            Reason::Unknown(Box::new(serde_json::json!({"why":"never_heard_of","n":1}))),
        ),
    ] {
        let read: Reason = serde_json::from_str(stored).unwrap();
        assert_eq!(read, wanted);
        assert_eq!(serde_json::to_string(&read).unwrap(), stored, "it is written in the same form");
    }
    let nested = Reason::NoVerdict { reason: Box::new(Reason::Text("no space".into())) };
    let text = serde_json::to_string(&nested).unwrap();
    assert_eq!(serde_json::from_str::<Reason>(&text).unwrap(), nested);
}

/// What a record of an earlier rei does not say is a copy of what the state knows, so it decides nothing.
#[test]
fn effects_of_an_earlier_rei_decide_the_same() {
    let read = |text: &str| serde_json::from_str::<Effect>(text).unwrap();
    let version = r#"{"store_path":"/s","rev":"r","tree":"t","drv":"d"}"#;
    let routing = r#"{"main":"A","other_ppm":50000}"#;
    for (old, new) in [
        (
            r#"{"effect":"prepare_generation","store_path":"/s"}"#.to_owned(),
            r#"{"effect":"prepare_generation","evolution":"evo_0002","store_path":"/s","way_back":1}"#.to_owned(),
        ),
        (
            r#"{"effect":"diagnose","evolution":"evo_0002","incident":null}"#.to_owned(),
            format!(r#"{{"effect":"diagnose","evolution":"evo_0002","incident":null,"slot":"A","active":{version}}}"#),
        ),
        (
            format!(
                r#"{{"effect":"validate","evolution":"evo_0002","candidate":"cand_0001","version":{version},"report":"val_0001"}}"#
            ),
            format!(
                r#"{{"effect":"validate","evolution":"evo_0002","candidate":"cand_0001","version":{version},"report":"val_0001",
                    "active":{version},"incident":"inc_0001"}}"#
            ),
        ),
        (
            format!(r#"{{"effect":"restore","routing":{routing},"generation":null}}"#),
            format!(r#"{{"effect":"route","routing":{routing}}}"#),
        ),
    ] {
        let (old, new) = (read(&old), read(&new));
        assert!(old.decides_as(&new) && new.decides_as(&old), "{old:?} and {new:?}");
    }
    let other = read(&format!(r#"{{"effect":"restore","routing":{routing},"generation":1}}"#));
    assert!(!other.decides_as(&read(&format!(r#"{{"effect":"route","routing":{routing}}}"#))));
}

#[test]
fn a_snapshot_with_the_evolution_of_quarantined_content_can_be_read() {
    let old =
        r#"{"tree":"t","store_path":"/s","evolution":"evo_0002","reason":"slow","at":"2026-01-01T00:00:00.000Z"}"#;
    let entry: Quarantined = serde_json::from_str(old).unwrap();
    assert!(["evo_0002", "t", "/s"].iter().all(|name| entry.answers_to(name)) && !entry.answers_to(""));
    let now = serde_json::to_string(&entry).unwrap();
    assert!(now.contains(r#""candidate":"evo_0002""#), "{now}");
}

// The counts are pinned: a change that shrinks the space proves less, and one that grows it may allow something forbidden.

#[test]
fn incidents_and_upgrades() {
    let left = Left {
        commits: 2,
        findings: 1,
        exits: 1,
        crashes: 0,
        requests: 0,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 0,
    };
    assert_eq!(prove(policy(true, false, Standby::Keep), left), 115_748);
}

#[test]
fn an_evolution_without_a_verdict_is_tried_twice() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 0,
        crashes: 0,
        requests: 0,
        failures: 1,
        rechecks: 0,
        losses: 0,
        waits: 0,
    };
    let policy = Policy { tries: 2, ..policy(false, false, Standby::Cold) };
    assert_eq!(prove(policy, left), 798);
}

#[test]
fn an_operator() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 0,
        crashes: 0,
        requests: 2,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 0,
    };
    assert_eq!(prove(policy(true, false, Standby::Keep), left), 717_485);
}

#[test]
fn a_crash_anywhere() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 1,
        crashes: 1,
        requests: 0,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 1,
    };
    assert_eq!(prove(policy(true, false, Standby::Keep), left), 50_837);
}

#[test]
fn two_crashes() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 0,
        crashes: 2,
        requests: 0,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 0,
    };
    assert_eq!(prove(policy(true, false, Standby::Cold), left), 41_859);
}

/// Before the first share, the candidate is asked what users ask.
#[test]
fn a_shadow_with_a_crash_anywhere() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 1,
        crashes: 1,
        requests: 0,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 0,
    };
    let policy = Policy { shadow_ms: Some(1), ..policy(true, false, Standby::Keep) };
    assert_eq!(prove(policy, left), 57_991);
}

#[test]
fn an_exclusive_runtime_and_an_operator() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 0,
        crashes: 1,
        requests: 2,
        failures: 1,
        rechecks: 1,
        losses: 0,
        waits: 0,
    };
    assert_eq!(prove(policy(false, true, Standby::Cold), left), 204_193);
}

#[test]
fn a_journal_that_loses_its_end() {
    let left = Left {
        commits: 2,
        findings: 0,
        exits: 0,
        crashes: 0,
        requests: 1,
        failures: 1,
        rechecks: 1,
        losses: 1,
        waits: 0,
    };
    assert_eq!(prove(policy(true, false, Standby::Keep), left), 48_189);
}

/// A walk through a larger world than the model checker's, chosen by the numbers of proptest.
fn walk(world: &mut World, draws: &[u16]) {
    for draw in draws {
        if !world.instance_asks_in_vain() {
            world.broken.push("I6: an instance's request had an effect");
        }
        let losses = world.losses();
        if let Some(loss) = losses.get(usize::from(*draw) % losses.len().max(1)).filter(|_| draw % 37 == 0) {
            world.act(loss.clone());
            continue;
        }
        let causes = world.causes();
        let Some(cause) = causes.get(usize::from(*draw) % causes.len().max(1)) else { return };
        let crash = world.left.crashes > 0 && draw % 11 == 0;
        world.act(if crash {
            Action::Crashes { cause: cause.clone(), carried: usize::from(draw % 3), reboot: draw % 2 == 0 }
        } else {
            Action::Happens(cause.clone())
        });
    }
}

/// Lets the world answer every task without a fault; returns the number of steps.
fn calm_down(world: &mut World) -> usize {
    world.left = Left {
        commits: 0,
        findings: 0,
        exits: 0,
        crashes: 0,
        requests: 0,
        failures: 0,
        rechecks: 255,
        losses: 0,
        waits: 0,
    };
    for steps in 0..STEPS_MAX {
        let causes = world.causes();
        let calm = causes.iter().find(|cause| !matches!(cause, Cause::Due(_))).or_else(|| causes.first());
        match calm {
            Some(cause) if world.core.phase() != Phase::Steady || !world.tasks.is_empty() => {
                world.act(Action::Happens(cause.clone()));
            }
            _ => return steps,
        }
    }
    STEPS_MAX
}

/// More steps than any evolution needs without faults.
const STEPS_MAX: usize = 200;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// After any history, the state comes to rest when the faults stop, and no invariant breaks on the way.
    #[test]
    fn every_walk_comes_to_rest(
        overlap: bool, approve: bool, cold: bool, shadow: bool,
        draws in proptest::collection::vec(any::<u16>(), 0..300)
    ) {
        let left =
            Left { commits: 6, findings: 6, exits: 6, crashes: 4, requests: 4, failures: 6, rechecks: 20, losses: 2, waits: 4 };
        let standby = if cold { Standby::Cold } else { Standby::Keep };
        let shadow_ms = (shadow && overlap).then_some(1);
        let policy = Policy { per_hour: 9, per_incident: 3, shadow_ms, ..policy(overlap, approve, standby) };
        let mut world = World::new(policy, left);
        walk(&mut world, &draws);
        prop_assert!(world.broken.is_empty(), "{:?}", world.broken);
        let steps = calm_down(&mut world);
        let rests = matches!(
            world.core.phase(),
            Phase::Empty | Phase::Steady | Phase::AwaitingApproval { .. } | Phase::Held
        );
        prop_assert!(rests || world.gave_up, "still {:?} after {steps} calm steps", world.core.phase());
        prop_assert!(world.broken.is_empty(), "{:?}", world.broken);
        prop_assert!(world.one_active() && world.active_is_cared_for());
    }

    /// A snapshot that is written and read back equals the state.
    #[test]
    fn a_snapshot_equals_the_state(draws in proptest::collection::vec(any::<u16>(), 0..150)) {
        let left =
            Left { commits: 6, findings: 6, exits: 6, crashes: 4, requests: 4, failures: 6, rechecks: 20, losses: 0, waits: 4 };
        let mut world = World::new(policy(true, true, Standby::Keep), left);
        walk(&mut world, &draws);
        let text = serde_json::to_string(&world.core).unwrap();
        prop_assert_eq!(serde_json::from_str::<Lifecycle>(&text).unwrap(), world.core);
    }
}
