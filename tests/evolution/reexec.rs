//! Re-execution: another program in the same process.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rei::history::entry::Entry;
use rei::interface::client::OperationsClient;
use rei::interface::operations::{Phase, Status, Trust};
use rei::interface::types::MaintenanceAction;
use rei::journal::{Reader, Record};
use rei::lifecycle::Event;

use crate::another;
use crate::lab::{Lab, Setup};
use crate::load::Load;

/// The owner of the process's files in `/proc`: root if the process is not dumpable, for any user.
fn owner_of_environment(pid: u32) -> u32 {
    std::fs::metadata(format!("/proc/{pid}/environ")).map_or(u32::MAX, |about| about.uid())
}

/// A supervisor whose program is a file of the lab, and that file: an upgrade of rei replaces it.
fn with_its_own_program(setup: Setup) -> Option<(Lab, PathBuf)> {
    let mut lab = Lab::new(setup)?;
    let program = lab.path("rei");
    std::fs::copy(Lab::program(), &program).unwrap();
    lab.start_by(lab.rei_at(&program));
    lab.until("the first version to serve", |status| status.phase == Phase::Steady);
    Some((lab, program))
}

/// Replaces the running program's file by another program, and re-executes the supervisor.
fn replace(lab: &mut Lab, program: &Path, by: &Path) -> Status {
    let (next, before) = (lab.path("rei-next"), lab.status().unwrap());
    std::fs::copy(by, &next).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&next, program).unwrap();
    lab.ask(async |client| client.reexec().await).unwrap();
    let status = lab.until("the new program", |status| status.supervisor.started_at > before.supervisor.started_at);
    assert_eq!(status.supervisor.pid, before.supervisor.pid);
    assert_eq!(status.phase, before.phase, "the phase must stay");
    status
}

/// Holds the profile's lock like another program, so that a switch lasts until this is dropped.
fn hold_profile(lab: &Lab) -> Flock<File> {
    let lock = File::create(lab.path("state/profiles/served.lock")).unwrap();
    Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

#[test]
fn a_rei_of_another_version_takes_over_in_each_phase_and_back() {
    let setup = Setup {
        promotion: "mode = \"approve\"\ncanary = [{ share = 0.3, for = \"3s\" }]\nobserve = \"4s\"",
        ..Setup::default()
    };
    let Some(another) = another::program() else { return };
    let Some((mut lab, program)) = with_its_own_program(setup) else { return };
    let (pid, keeper) = (lab.pid(), lab.keeper());
    let load = Load::on(lab.address());
    let mut is_another = false;
    let mut switched = 0;
    let mut switch = |lab: &mut Lab| {
        is_another = !is_another;
        switched += 1;
        let by = if is_another { another.to_owned() } else { Lab::program() };
        let status = replace(lab, &program, &by);
        let version = if is_another { another::VERSION } else { env!("CARGO_PKG_VERSION") };
        assert_eq!(status.supervisor.version, version);
        let waits = status.waits_for.unwrap_or_default();
        assert_eq!(waits.contains("other words"), is_another && !waits.is_empty(), "{waits}");
    };

    let before = lab.until_settled();
    switch(&mut lab);
    assert_eq!((lab.pid(), lab.keeper(), lab.until_settled()), (pid, keeper, before));
    // The program changes in each phase; in the second evolution in the other direction.
    for behaviour in ["ok 2", "ok 3"] {
        let rev = lab.commit(behaviour);
        for phase in [Phase::Building, Phase::Validating, Phase::AwaitingApproval, Phase::Canary] {
            let status = lab.until(&phase.to_string(), |status| status.phase == phase);
            switch(&mut lab);
            if phase == Phase::AwaitingApproval {
                let id = status.evolution.expect("an evolution waits").id.0;
                lab.ask(async |client| client.approve(id).await).unwrap();
            }
        }
        // The profile already has its generation.
        lab.until("a share", |status| status.candidate.as_ref().is_some_and(|candidate| candidate.share > 0.0));
        let held = hold_profile(&lab);
        lab.until("Promoting", |status| status.phase == Phase::Promoting);
        switch(&mut lab);
        drop(held);
        lab.until("Observing", |status| status.phase == Phase::Observing);
        switch(&mut lab);
        if behaviour == "ok 3" {
            let held = hold_profile(&lab);
            let rollback = std::thread::spawn({
                let path = lab.path("state/control.sock");
                move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    // The connection ends with the old program.
                    let _ = runtime.block_on(async { OperationsClient::connect(path).await?.rollback(None).await });
                }
            });
            lab.until("RollingBack", |status| status.phase == Phase::RollingBack);
            switch(&mut lab);
            switch(&mut lab);
            drop(held);
            rollback.join().unwrap();
        }
        let wanted = if behaviour == "ok 3" { MaintenanceAction::RolledBack } else { MaintenanceAction::Promoted };
        assert_eq!(lab.verdict_on(&rev).action, Some(wanted));
        lab.until("Steady", |status| status.phase == Phase::Steady);
        switch(&mut lab);
    }
    lab.until_settled();
    assert_eq!((lab.pid(), lab.keeper()), (pid, keeper));
    let tally = load.none_lost();
    println!("{} requests, 0 failed, with {switched} changes of the program", tally.answers.len());
    // Neither version follows all decisions of the other, so this journal is read and not replayed.
    let mut recoveries = 0;
    let counted = Reader::open(&lab.path("state/journal")).unwrap().records(1, |record: Record<Entry>| {
        recoveries += usize::from(matches!(record.body.event, Event::Recovered { .. }));
        ControlFlow::Continue(())
    });
    counted.expect("a sound journal");
    assert_eq!(recoveries, switched);
    // Each version reads the reasons of both.
    let said: Vec<String> =
        lab.ask(async |client| client.history(None).await).unwrap().into_iter().map(|it| it.summary).collect();
    assert!(said.iter().any(|summary| summary.contains("other words")), "{said:?}");

    // No process of the same user may inspect the supervisor: its files in /proc belong to root, for any user.
    assert_eq!(owner_of_environment(pid), 0);
    // The children stay children of the process, so their exits are known.
    let active = lab.until_settled();
    for pid in active.values() {
        assert_eq!(rei::process::stat(*pid).map(|stat| stat.parent), Some(lab.pid()));
    }
}

#[test]
fn decisions_of_a_killed_other_version_lead_to_held() {
    let Some(another) = another::program() else { return };
    let Some((mut lab, program)) = with_its_own_program(Setup::default()) else { return };
    let load = Load::on(lab.address());
    replace(&mut lab, &program, another);
    let rev = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    let before = lab.until_settled();
    lab.kill();
    lab.start();
    let status = lab.until("Held", |status| status.phase == Phase::Held);
    let attention = status.attention.unwrap();
    assert!(attention.contains("are of another version of rei, which decides otherwise"), "{attention}");
    assert_eq!(status.active.unwrap().version.rev, rev, "the running version continues to serve");
    assert_eq!(lab.until_settled(), before);
    lab.ask(async |client| client.settle(Trust::Reality, None).await).unwrap();
    lab.until("Steady", |status| status.phase == Phase::Steady && status.attention.is_none());
    // The operator's decision stays: the next start does not ask again.
    lab.kill();
    lab.start();
    let status = lab.until("an answer", |_| true);
    assert_eq!((status.phase, status.active.unwrap().version.rev), (Phase::Steady, rev));
    assert_eq!(lab.until_settled(), before);
    load.none_lost();
}

#[test]
fn a_supervisor_that_leaves_stops_nothing() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    let load = Load::on(lab.address());
    load.wait_for_more(50);
    let (before, keeper) = (lab.until_settled(), lab.keeper());
    // `systemctl restart` sends this signal; `stop` sends SIGTERM.
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
fn a_program_that_cannot_be_executed_changes_nothing() {
    let Some((mut lab, program)) = with_its_own_program(Setup::default()) else { return };
    let load = Load::on(lab.address());
    let before = lab.until_settled();
    std::fs::remove_file(&program).unwrap();
    let rev = lab.commit("ok 2");
    lab.until("an evolution", |status| status.phase != Phase::Steady);
    lab.ask(async |client| client.reexec().await).unwrap();
    lab.wait_for("the refusal", |lab| lab.output().contains("cannot become the new program").then_some(()));
    assert!(lab.processes().iter().any(|process| before.contains_key(&process.instance)));
    // Work that was stopped for the re-execution starts again.
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
}
