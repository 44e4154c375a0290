//! A version that crashes while it is observed: the crash is told in three ways, and decided once, for one reason.

use std::collections::BTreeSet;

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;
use rei::lifecycle::Event;

use crate::lab::{Lab, Setup};
use crate::load::{Load, ask};

#[test]
fn each_crash_in_a_window_ends_it_for_the_same_reason_and_opens_no_incident() {
    // Nothing but the crash ends the window.
    let Some(mut lab) = Lab::serving(Setup { promotion: "canary = []\nobserve = \"60s\"", ..Setup::default() }) else {
        return;
    };
    let load = Load::on(lab.address());
    let mut reasons = BTreeSet::new();
    for number in 2..6 {
        let rev = lab.commit(&format!("ok bug {number}"));
        lab.until("Observing", |status| status.phase == Phase::Observing);
        load.wait_for_more(20);
        assert!(ask(lab.address(), "/crash").is_err(), "it crashes");
        let verdict = lab.verdict_on(&rev);
        assert_eq!(verdict.action, Some(MaintenanceAction::RolledBack), "{verdict:#?}");
        let (_, reason) = verdict.summary.split_once(": ").expect("a purpose and a reason");
        reasons.insert(reason.to_owned());
        let status = lab.until("Steady", |status| status.phase == Phase::Steady);
        assert!(status.open_incidents.is_empty(), "{:#?}", status.open_incidents);
        lab.until_settled();
    }
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("signal 6")), "{reasons:?}");
    let found = lab.ledger().records.into_iter().filter(|it| matches!(it.body.event, Event::Found { .. })).count();
    assert_eq!(found, 0, "what does not count is not recorded");
}
