//! The same agent is not asked the same question twice, whatever happens in between.

use rei::interface::types::{MaintenanceAction, Verdict};
use rei::lifecycle::{
    Caller, Event, Fault, Lifecycle, Phase, Policy, Question, Reason, Request, Standby, TRIED_MAX, Tried,
};

use crate::desk::Desk;
use crate::world::policy;

const MINUTE: u64 = 60_000;

fn usual() -> Policy {
    Policy {
        per_hour: 1000,
        per_incident: 1000,
        tries: 2,
        retry_ms: 1,
        retry_max_ms: 1,
        ..policy(true, false, Standby::Keep)
    }
}

/// An agent of the current evolution has answered this question.
fn asks(desk: &mut Desk, question: &str) {
    desk.diagnosed();
    let asked = Some(Question { task: question.to_owned(), facts: vec!["it crashed".to_owned()] });
    let evolution = desk.evolution();
    desk.tell(Event::AgentRan { evolution, took_ms: MINUTE, asked });
}

/// Starts the next evolution for an open incident.
fn next(desk: &mut Desk) {
    assert_eq!(desk.core.phase(), Phase::Steady);
    let until = desk.core.waits_for().1.expect("another try");
    desk.later(until.ms_since(desk.now));
    desk.diagnosed();
    assert_eq!(desk.core.phase(), Phase::Building);
}

fn known(desk: &Desk) -> Vec<String> {
    let shown = |it: &Tried| it.tasks.iter().map(|task| format!("{task} {}", it.evolution)).collect::<Vec<_>>();
    assert!(desk.core.asked_before().all(|it| it.facts == ["it crashed"]));
    desk.core.asked_before().flat_map(shown).collect()
}

/// The text of a verdict's reason.
fn text(reason: &Reason) -> &str {
    match reason {
        Reason::Text(text) => text,
        data => panic!("{data:?}"),
    }
}

#[test]
fn later_evolutions_and_supervisors_know_the_answered_questions_with_a_verdict() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    assert!(known(&desk).is_empty());
    asks(&mut desk, "q1");
    assert!(known(&desk).is_empty(), "the run itself knows its questions");
    desk.fails(Fault::Maker);
    next(&mut desk);
    assert_eq!(known(&desk), ["q1 evo_0002"]);
    // The agent made nothing, so there is no new fact for the next one.
    assert!(desk.core.refused_before().is_empty());
    desk.crash(false);
    let snapshot = serde_json::to_string(&desk.core).unwrap();
    desk.core = serde_json::from_str::<Lifecycle>(&snapshot).unwrap();
    assert_eq!(known(&desk), ["q1 evo_0002"]);
    // The agent's change was refused: the next agent gets the reason.
    asks(&mut desk, "q2");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Fail);
    next(&mut desk);
    assert_eq!(known(&desk), ["q1 evo_0002", "q2 evo_0003"]);
    let shown: Vec<String> =
        desk.core.refused_before().into_iter().map(|(of, why)| format!("{of}: {}", text(&why))).collect();
    assert_eq!(shown, ["evo_0003: unit"]);
    // An agent gets no refusals of another incident, but the same question counts as the same.
    desk.fails(Fault::Maker);
    desk.tell(Event::Operator {
        who: Caller::Operator("ada".to_owned()),
        request: Request::Reject { id: "inc_0001".to_owned(), reason: "known".to_owned() },
    });
    desk.finds("g");
    desk.diagnosed();
    assert_eq!((known(&desk).len(), desk.core.refused_before().len()), (2, 0));
}

#[test]
fn the_failure_of_a_machine_is_no_answer() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    for end in [MaintenanceAction::Deferred, MaintenanceAction::Rejected] {
        asks(&mut desk, "q");
        desk.fails(Fault::Machine);
        assert_eq!(desk.end(), end);
        next(&mut desk);
        assert!(known(&desk).is_empty(), "after {end:?}");
    }
    // A question without an answer does not count.
    desk.tell(Event::AgentRan { evolution: desk.evolution(), took_ms: MINUTE, asked: None });
    desk.fails(Fault::Maker);
    next(&mut desk);
    assert!(known(&desk).is_empty());
}

#[test]
fn if_an_agent_is_not_asked_again_an_operator_is_needed() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    asks(&mut desk, "q");
    desk.fails(Fault::Maker);
    assert_eq!(desk.core.attention(), None);
    next(&mut desk);
    desk.fails(Fault::Repeat);
    assert_eq!((desk.end(), desk.core.phase()), (MaintenanceAction::Rejected, Phase::Steady));
    assert!(desk.core.attention().is_some());
    // An operator may have it asked again, by `evolve` for one evolution or by `resume` for all.
    desk.asked(None);
    desk.diagnosed();
    assert!(known(&desk).is_empty());
    desk.fails(Fault::Maker);
    next(&mut desk);
    assert_eq!(known(&desk), ["q evo_0002"]);
    desk.tell(Event::Operator { who: Caller::Operator("ada".to_owned()), request: Request::Resume });
    assert!(known(&desk).is_empty());
}

#[test]
fn content_that_an_operator_releases_may_be_made_again() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    asks(&mut desk, "q");
    desk.builds("t2", "t2");
    desk.judged(Verdict::Fail);
    next(&mut desk);
    assert_eq!(known(&desk), ["q evo_0002"]);
    desk.tell(Event::Operator {
        who: Caller::Operator("ada".to_owned()),
        request: Request::Release { content: "t2".to_owned() },
    });
    assert!(known(&desk).is_empty());
}

#[test]
fn the_memory_of_questions_is_bounded() {
    let mut desk = Desk::serving(usual());
    desk.finds("f");
    for number in 0..2 * TRIED_MAX {
        for question in 0..100 {
            asks(&mut desk, &format!("{number}-{question}"));
        }
        desk.tell(Event::BuildFailed {
            evolution: desk.evolution(),
            reason: "é".repeat(100_000),
            fault: Fault::Content { tree: format!("t-{number}"), store_path: String::new() },
        });
        desk.effects.clear();
        next(&mut desk);
    }
    assert!(known(&desk).len() <= TRIED_MAX * 32);
    let shown: usize = desk.core.refused_before().iter().map(|(_, why)| text(why).len()).sum();
    assert!(shown <= TRIED_MAX * 2048, "{shown}");
    let knows = |number: usize| known(&desk).iter().any(|it| it.starts_with(&format!("{number}-")));
    assert!(!knows(0) && knows(2 * TRIED_MAX - 1), "the oldest is removed first");
}
