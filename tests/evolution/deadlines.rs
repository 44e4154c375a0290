//! Deadlines are points in time: even if the supervisor is killed over and over, a canary and a window end at their deadlines.

use std::collections::{BTreeMap, BTreeSet};

use rei::interface::types::MaintenanceAction;
use rei::lifecycle::{CanaryStage, Event, Lifecycle, ObservationStage, Phase, Timer};
use rei::time::Timestamp;

use crate::lab::{Lab, Setup};
use crate::load::now_ms;

/// The service gets no requests, so each phase waits for data until its deadline, and then continues.
const WAITS_FOR_DATA: &str = "canary = [{ share = 0.3, for = \"1500ms\" }]\nobserve = \"1500ms\"\nhold = \"2s\"\n\
                              on_inconclusive = \"promote\"";
/// How long a step and the window gather data; a deadline moves by at most this time, and only once.
const DATA_MS: u64 = 1500;

/// The phase of the trial. There is one evolution, so each phase comes once.
fn trial(state: &Lifecycle) -> Option<&'static str> {
    let is_trial = matches!(
        state.phase(),
        Phase::Canary { stage: CanaryStage::Share { .. } }
            | Phase::Observing { stage: ObservationStage::Window { .. } }
    );
    is_trial.then(|| state.phase().name())
}

fn recoveries(lab: &Lab) -> usize {
    lab.ledger().recoveries().len()
}

#[test]
fn a_canary_and_a_window_end_at_their_deadlines_if_the_supervisor_is_killed_over_and_over() {
    let Some(mut lab) = Lab::serving(Setup { promotion: WAITS_FOR_DATA, ..Setup::default() }) else { return };
    let rev = lab.commit("ok 2");
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut deadlines: BTreeMap<&str, BTreeSet<Timestamp>> = BTreeMap::new();
    loop {
        let state = lab.wait_for("a trial, or its end", |lab| {
            let state = lab.ledger().states.pop()?;
            let ended = state.phase() == Phase::Steady && state.active().is_some_and(|it| it.version.rev == rev);
            (trial(&state).is_some() || ended).then_some(state)
        });
        let Some(current) = trial(&state) else { break };
        let deadline = state.timers()[&Timer::Phase].at;
        let known = deadlines.entry(current).or_default();
        known.insert(deadline);
        // If each supervisor set a new deadline, it would be another one each time and never come.
        assert!(known.len() <= 2, "the deadline of {current} moves with each supervisor: {known:?}");
        if Timestamp::from_unix_ms(now_ms()) >= deadline {
            lab.wait_for("its end", |lab| lab.ledger().states.pop().filter(|state| trial(state) != Some(current)));
            continue;
        }
        let before = recoveries(&lab);
        lab.kill();
        *killed.entry(current).or_default() += 1;
        lab.start();
        lab.wait_for("the next supervisor", |lab| (recoveries(lab) > before).then_some(()));
    }
    println!("{killed:?} {deadlines:?}");
    assert_eq!(deadlines.keys().copied().collect::<Vec<_>>(), ["Canary", "Observing"]);
    let ledger = lab.ledger();
    for (current, known) in &deadlines {
        assert!(killed.contains_key(current), "{killed:?}");
        let (first, last) = (known.first().expect("one"), known.last().expect("one"));
        assert!(last.ms_since(*first) <= DATA_MS, "{known:?}");
        // The deadline ended it, which was due at that time.
        let end = ledger.states.iter().rposition(|state| trial(state) == Some(*current)).expect("the trial") + 1;
        let end = &ledger.records[end];
        assert_eq!(end.body.event, Event::Due(Timer::Phase), "{}", ledger.lines());
        assert!(end.at >= *last);
    }
    let ends: Vec<_> = ledger.ends().into_values().flatten().collect();
    assert_eq!(ends, [MaintenanceAction::Promoted; 2], "the first version and this one");
}
