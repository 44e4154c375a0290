//! One commit, one evolution, one verdict; and what moves the version that candidates are compared with.

use rei::interface::types::{MaintenanceAction, Verdict};
use rei::lifecycle::{Phase, Policy, Standby};

use crate::desk::Desk;
use crate::world::policy;

fn usual() -> Policy {
    Policy { per_hour: 6, per_incident: 3, ..policy(true, false, Standby::Keep) }
}

#[test]
fn a_commit_with_actives_build_moves_no_base_and_is_unchanged() {
    let mut desk = Desk::serving(usual());
    desk.push("t2");
    desk.builds("t2", "t1");
    assert_eq!((desk.core.phase(), desk.base()), (Phase::Steady, "t1"));
    assert_eq!(desk.end(), MaintenanceAction::Unchanged);
    assert!(desk.core.quarantine().is_empty());
    // It is decided: neither the poll nor the same files in another commit ask again.
    desk.push("t2");
    assert_eq!(desk.core.phase(), Phase::Steady);
    // What comes next is held against the version that was judged.
    desk.push("t3");
    desk.builds("t3", "t3");
    assert_eq!((desk.core.phase(), desk.base()), (Phase::Validating, "t1"));
    desk.promoted("t3", 2);
    assert_eq!(desk.base(), "t3");
    // Held against another Active, the same files are a change.
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
