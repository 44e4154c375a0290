//! A slot is released only when its queue is empty: an instance of Active serves the connections that still wait there.

use rei::interface::types::Verdict;
use rei::lifecycle::{Effect, Event, Phase, Policy, RunState, Slot, Standby};

use crate::desk::{Desk, version};
use crate::world::policy;

fn usual() -> Policy {
    Policy { per_hour: 10, ..policy(true, false, Standby::Keep) }
}

/// A desk in which a second version was promoted, and the first one has the stop signal.
fn leaving() -> Desk {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.confirmed("t2", 2);
    assert_eq!(desk.effects.iter().filter(|it| **it == Effect::Stop { slot: Slot::A, drain: true }).count(), 1);
    desk.effects.clear();
    desk
}

fn drains() -> Effect {
    Effect::Drain { slot: Slot::A, version: version("t2", "t2") }
}

fn starts(desk: &Desk, slot: Slot) -> usize {
    desk.effects.iter().filter(|it| matches!(it, Effect::Start { slot: of, .. } if *of == slot)).count()
}

#[test]
fn active_serves_the_waiting_connections_before_a_slot_is_used_again() {
    let mut desk = leaving();
    desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
    assert_eq!((&*desk.effects, desk.core.slot(Slot::A).run), (&[drains()][..], RunState::Draining));
    // The next candidate waits for the slot, and the instance gets no second stop signal.
    desk.push("t3");
    desk.builds("t3", "t3");
    desk.judged(Verdict::Pass);
    assert_eq!((starts(&desk, Slot::A), desk.core.slot(Slot::A).run), (0, RunState::Draining));
    assert!(!desk.effects.iter().any(|it| matches!(it, Effect::Stop { .. })));
    // The slot is drained once; later connections do not delay the release.
    desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
    assert_eq!((starts(&desk, Slot::A), desk.core.slot(Slot::A).run), (1, RunState::Starting));
}

#[test]
fn a_slot_is_released_if_the_draining_instance_cannot_start() {
    let exits = Event::Exited { slot: Slot::A, exit: "exit code 2".to_owned(), ran_ms: 5 };
    let does_not_start = Event::StartFailed { slot: Slot::A, reason: "no memory".to_owned() };
    for end in [exits, does_not_start] {
        let mut desk = leaving();
        desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
        desk.effects.clear();
        desk.tell(end.clone());
        assert_eq!((&*desk.effects, desk.core.slot(Slot::A).run), (&[][..], RunState::Down), "{end:?}");
    }
}

#[test]
fn an_empty_queue_is_not_drained() {
    let mut desk = leaving();
    desk.tell(Event::Stopped { slot: Slot::A, waiting: false });
    assert_eq!((&*desk.effects, desk.core.slot(Slot::A).run), (&[][..], RunState::Down));
}

/// With strategy recreate both versions use one slot: the next version serves the waiting connections.
#[test]
fn a_slot_that_gets_new_connections_is_not_drained() {
    let mut desk = Desk::serving(Policy { overlap: false, canary: vec![], ..usual() });
    desk.push("t2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Pass);
    desk.tell(Event::GenerationPrepared { store_path: crate::world::path("t2"), generation: 2 });
    assert_eq!(desk.effects.last(), Some(&Effect::Stop { slot: Slot::A, drain: false }));
    desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
    assert!(matches!(desk.core.phase(), Phase::Promoting { .. }));
}

#[test]
fn if_a_supervisor_dies_while_it_drains_the_next_one_drains() {
    let mut desk = leaving();
    desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
    for _ in 0..3 {
        desk.effects.clear();
        desk.crash(false);
        // The draining instance ends with its supervisor, so the next supervisor drains the queue again.
        assert!(desk.effects.contains(&Effect::Stop { slot: Slot::A, drain: true }));
        assert_eq!(desk.core.slot(Slot::A).run, RunState::Stopping);
        desk.tell(Event::Stopped { slot: Slot::A, waiting: true });
        assert_eq!(desk.effects.last(), Some(&drains()));
    }
    // A reboot ends all connections.
    desk.crash(true);
    desk.tell(Event::Stopped { slot: Slot::A, waiting: false });
    assert_eq!(desk.core.slot(Slot::A).run, RunState::Down);
}

#[test]
fn records_of_a_supervisor_without_drain_effects_are_followed() {
    let event: Event = serde_json::from_str(r#"{"event":"stopped","slot":"A"}"#).unwrap();
    assert_eq!(event, Event::Stopped { slot: Slot::A, waiting: false });
    let effect: Effect = serde_json::from_str(r#"{"effect":"stop","slot":"A"}"#).unwrap();
    assert!(effect.decides_as(&Effect::Stop { slot: Slot::A, drain: true }));
    assert!(!effect.decides_as(&Effect::Stop { slot: Slot::B, drain: false }));
}
