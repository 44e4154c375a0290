//! Another program in the same process.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Setup};
use crate::load::Load;

/// Who owns what `/proc` shows of the process: root for one that is not dumpable, whoever runs it.
fn owner_of_environment(pid: u32) -> u32 {
    std::fs::metadata(format!("/proc/{pid}/environ")).map_or(u32::MAX, |about| about.uid())
}

/// A supervisor whose program is a file of the lab, and that file: an upgrade of rei replaces it.
fn by_a_program_of_its_own() -> Option<(Lab, PathBuf)> {
    let mut lab = Lab::new(Setup::default())?;
    let program = lab.path("rei");
    std::fs::copy(Lab::program(), &program).unwrap();
    lab.start_by(lab.rei_at(&program));
    lab.until("the first version to serve", |status| status.phase == Phase::Steady);
    Some((lab, program))
}

#[test]
fn a_new_program_in_the_same_process_loses_nothing() {
    let Some((mut lab, program)) = by_a_program_of_its_own() else { return };
    let (pid, keeper) = (lab.pid(), lab.keeper());
    let load = Load::on(lab.address());
    let replace = |lab: &mut Lab, started: rei::time::Timestamp| {
        let next = lab.path("rei-next");
        std::fs::copy(Lab::program(), &next).unwrap();
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&next, &program).unwrap();
        lab.ask(async |client| client.reexec().await).unwrap();
        lab.until("the new program", |status| status.supervisor.started_at > started)
    };

    // In Steady.
    let (before, status) = (lab.until_settled(), lab.status().unwrap());
    let status = replace(&mut lab, status.supervisor.started_at);
    assert_eq!((status.supervisor.pid, lab.pid(), lab.keeper()), (pid, pid, keeper));
    assert_eq!(lab.until_settled(), before);

    // In each phase of an evolution.
    let rev = lab.commit("ok 2");
    let mut started = status.supervisor.started_at;
    for phase in [Phase::Building, Phase::Validating, Phase::Canary, Phase::Observing] {
        lab.until(&phase.to_string(), |status| status.phase == phase);
        let status = replace(&mut lab, started);
        assert_eq!(status.phase, phase);
        started = status.supervisor.started_at;
    }
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.until_settled();
    assert_eq!((lab.pid(), lab.keeper()), (pid, keeper));
    let tally = load.none_lost();
    println!("{} requests, 0 failed, with 5 programs in one process", tally.answers.len());
    let ledger = lab.ledger();
    assert!(ledger.recoveries().iter().all(|(before, after)| before == after), "{:?}", ledger.recoveries());
    assert_eq!(ledger.recoveries().len(), 5);

    // Nothing of the same user may look into the process: it is root's, whoever runs it.
    assert_eq!(owner_of_environment(pid), 0);
    // Children of the process are its children still: how they end is known.
    let active = lab.until_settled();
    for pid in active.values() {
        assert_eq!(rei::process::stat(*pid).map(|stat| stat.parent), Some(lab.pid()));
    }
}

#[test]
fn a_supervisor_that_leaves_takes_nothing_with_it() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    let load = Load::on(lab.address());
    load.wait_for_more(50);
    let (before, keeper) = (lab.until_settled(), lab.keeper());
    // As `systemctl restart` does; `stop` sends SIGTERM.
    lab.signal(nix::sys::signal::Signal::SIGUSR2);
    assert_eq!(lab.wait(), Some(0));
    assert_eq!(lab.keeper(), keeper);
    load.wait_for_more(50);
    lab.start();
    lab.until("an answer", |_| true);
    assert_eq!(lab.until_settled(), before);
    load.none_lost();
}

#[test]
fn a_program_that_cannot_be_run_changes_nothing() {
    let Some((mut lab, program)) = by_a_program_of_its_own() else { return };
    let load = Load::on(lab.address());
    let before = lab.until_settled();
    std::fs::remove_file(&program).unwrap();
    let rev = lab.commit("ok 2");
    lab.until("an evolution", |status| status.phase != Phase::Steady);
    lab.ask(async |client| client.reexec().await).unwrap();
    lab.wait_for("the refusal", |lab| lab.output().contains("cannot become the new program").then_some(()));
    assert!(lab.processes().iter().any(|process| before.contains_key(&process.instance)));
    // Work that was ended for it is begun anew.
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
}
