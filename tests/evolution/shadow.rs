//! The supervisor is killed and replaced while a candidate is only asked what users ask: the next one continues with the same
//! candidate until the same deadline, and no connection ever goes to it.

use rei::interface::operations::{Phase, Status};
use rei::interface::types::MaintenanceAction;
use rei::lifecycle::{CanaryStage, Lifecycle, Phase as Stage, Routing, Timer};

use crate::lab::{Lab, Setup};
use crate::load::Load;

fn is_shadow(state: &Lifecycle) -> bool {
    matches!(state.phase(), Stage::Canary { stage: CanaryStage::Shadow { .. } })
}

/// The process of the candidate.
fn candidate(status: &Status) -> Option<u32> {
    status.candidate.as_ref()?.instances.first()?.usage.pid
}

#[test]
fn a_shadow_survives_kills_and_a_re_exec_and_gives_its_candidate_no_connection() {
    let promotion = "shadow = { share = 1.0, for = \"8s\", except = [\"GET /\"] }\n\
                     canary = [{ share = 0.3, for = \"1500ms\" }]\nobserve = \"3s\"";
    let Some(mut lab) = Lab::serving(Setup { promotion, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    let rev = lab.commit("ok 2");
    let first = lab.until("the shadow", |status| status.phase == Phase::Shadow && candidate(status).is_some());
    let deadline = lab.ledger().states.last().expect("a state").timers()[&Timer::Phase].at;
    for is_killed in [true, false, true] {
        let before = lab.ledger().recoveries().len();
        if is_killed {
            lab.kill();
            lab.start();
        } else {
            lab.ask(async |client| client.reexec().await).unwrap();
        }
        lab.wait_for("the next supervisor", |lab| (lab.ledger().recoveries().len() > before).then_some(()));
        let status = lab.until("an answer", |_| true);
        assert_eq!((status.phase, candidate(&status)), (Phase::Shadow, candidate(&first)), "it continues");
    }
    let end = lab.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    let ledger = lab.ledger();
    let shadow: Vec<&Lifecycle> = ledger.states.iter().filter(|state| is_shadow(state)).collect();
    assert!(shadow.len() >= 4);
    for state in shadow {
        assert_eq!(state.routing(), state.active_slot().map(Routing::all));
        assert_eq!(state.timers()[&Timer::Phase].at, deadline, "the deadline does not move");
    }
    // The record of the first share comes before the kernel's routing.
    let first_share = ledger.states.iter().position(|state| state.routing().is_some_and(|it| it.other_ppm > 0));
    let since_ms = ledger.records[first_share.expect("a share")].at.as_unix_ms();
    let tally = load.none_lost();
    let early: Vec<_> =
        tally.answers.iter().filter(|answer| answer.version == "ok 2" && answer.answered_ms < since_ms).collect();
    assert!(early.is_empty(), "{early:?}");
    assert!(tally.versions().contains_key("ok 2"), "{:?}", tally.versions());
}
