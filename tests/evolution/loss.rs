//! A journal that is shorter than reality, and a lost table of instances: the running version continues to serve, rei decides
//! nothing, and asks an operator.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use rei::interface::client::ClientError;
use rei::interface::operations::{InstanceState, OperationsError, Phase, Status, Trust};
use rei::interface::types::MaintenanceAction;
use rei::journal::Reader;
use rei::lifecycle::Phase as CorePhase;

use crate::common::process::{self, is_alive};
use crate::lab::{Lab, Setup};
use crate::load::{Load, ask};

const QUICK: Setup = Setup {
    runtime: "",
    health: "",
    promotion: "canary = [{ share = 0.3, for = \"300ms\" }]\nobserve = \"500ms\"",
    more: "",
    unix: false,
    udp: false,
    first: "",
};

/// A service whose second version was promoted, and a backup of the journal from before that promotion.
fn promoted() -> Option<(Lab, PathBuf)> {
    let mut lab = Lab::serving(QUICK)?;
    lab.until_settled();
    let backup = lab.path("backup");
    copy(&lab.path("state/journal"), &backup);
    let good = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.until_settled();
    Some((lab, backup))
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Replaces the journal by a backup.
fn restore(lab: &Lab, backup: &Path) {
    remove_journal(lab);
    copy(backup, &lab.path("state/journal"));
}

fn remove_journal(lab: &Lab) {
    std::fs::remove_dir_all(lab.path("state/journal")).unwrap();
}

/// Cuts the journal after a record at which only the first version existed.
fn cut(lab: &Lab) {
    let ledger = lab.ledger();
    let begun = ledger.states.iter().rposition(|state| state.phase() == CorePhase::Installing).unwrap();
    let segment = lab.path("state/journal/000000000001.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    // Keeps the header, the records up to that one, and the record that ended it.
    let kept: String = text.split_inclusive('\n').take(begun + 3).collect();
    assert!(kept.len() < text.len());
    std::fs::write(&segment, kept).unwrap();
}

/// Kills the supervisor, the keeper and all instances at once, as in a power cut.
fn end_everything(lab: &mut Lab) {
    lab.kill();
    process::end_all(&lab.path("state"));
    lab.wait_for("the end of all processes", |lab| lab.processes().is_empty().then_some(()));
}

/// Stops the supervisor and its instances in order.
fn stop(lab: &mut Lab) {
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait(), Some(0));
    assert_eq!(lab.processes(), []);
}

fn the_pid(lab: &Lab) -> u32 {
    let there = lab.processes();
    assert_eq!(there.len(), 1, "{there:?}");
    there[0].pid
}

fn profile(lab: &Lab) -> String {
    std::fs::read_link(lab.path("state/profiles/served")).unwrap().display().to_string()
}

/// Waits until rei asks an operator; returns the status.
fn until_asked(lab: &mut Lab) -> Status {
    let status =
        lab.until("a question to the operator", |status| status.attention.is_some() && status.active.is_some());
    let attention = status.attention.clone().unwrap();
    assert!(attention.contains("rei journal accept"), "{attention}");
    status
}

fn serves(lab: &Lab, version: &str) {
    let body = ask(lab.address(), "/").unwrap();
    assert!(body.ends_with(&format!(" of {version}")), "{body}");
}

/// Waits until the follower has reported the commit; no evolution may start.
fn until_followed(lab: &mut Lab, rev: &str) {
    lab.wait_for("the commit in the journal", |lab| {
        lab.ledger().states.last().and_then(|state| state.followed().map(str::to_owned)).filter(|seen| seen == rev)
    });
    assert_eq!(lab.status().unwrap().phase, Phase::Held);
    let ledger = lab.ledger();
    assert!(!ledger.commits().contains(&rev.to_owned()), "an evolution was started");
}

/// An operator accepts the serving version; then the next good commit is promoted.
fn accept_reality(lab: &mut Lab, next: &str) {
    let why = Some("it is the release of today".to_owned());
    assert_eq!(lab.ask(async |client| client.settle(Trust::Reality, why).await).unwrap(), 2);
    let status = lab.until("no question to the operator", |status| status.attention.is_none());
    assert_eq!(status.active.unwrap().generation, Some(2));
    let again = lab.ask(async |client| client.settle(Trust::Reality, None).await);
    assert!(matches!(again, Err(ClientError::Answered(OperationsError::WrongPhase { .. }))), "{again:?}");
    let history = lab.ask(async |client| client.history(Some(50)).await).unwrap();
    let settled = history.iter().find(|entry| entry.summary.contains("the release of today")).expect("a record of it");
    assert!(settled.decided_by.as_ref().is_some_and(|by| by.starts_with("operator:")), "{settled:#?}");
    let good = lab.commit(next);
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.until_settled();
    serves(lab, next);
}

#[test]
fn a_cut_journal_stops_nothing() {
    let Some((mut lab, _)) = promoted() else { return };
    let load = Load::on(lab.address());
    let pid = the_pid(&lab);
    lab.kill();
    cut(&lab);
    lab.start();
    let status = until_asked(&mut lab);
    assert_eq!((status.phase, the_pid(&lab), profile(&lab)), (Phase::Held, pid, "served-2-link".to_owned()));
    assert!(status.attention.unwrap().contains("are lost"));
    serves(&lab, "ok 2");
    // Other requests of the operator must wait for this decision.
    let asked = lab.ask(async |client| client.rollback(None).await);
    assert!(matches!(asked, Err(ClientError::Answered(OperationsError::WrongPhase { .. }))), "{asked:?}");
    let third = lab.commit("ok 3");
    until_followed(&mut lab, &third);
    // The next supervisor asks the same question, and the same process serves.
    lab.kill();
    lab.start();
    assert_eq!(until_asked(&mut lab).phase, Phase::Held);
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
    accept_reality(&mut lab, "ok 4");
    load.none_lost();
    // The journal is complete again, and the next start asks no question.
    lab.kill();
    lab.start();
    let settled = lab.until_settled();
    assert_eq!((settled.len(), lab.status().unwrap().attention), (1, None));
}

#[test]
fn with_a_cut_journal_and_no_instance_the_profile_decides_what_serves() {
    let Some((mut lab, _)) = promoted() else { return };
    end_everything(&mut lab);
    cut(&lab);
    lab.start();
    assert_eq!(until_asked(&mut lab).phase, Phase::Held);
    lab.until_settled();
    assert_eq!(profile(&lab), "served-2-link");
    serves(&lab, "ok 2");
}

#[test]
fn a_backup_from_before_a_promotion_does_not_undo_it() {
    let Some((mut lab, backup)) = promoted() else { return };
    let load = Load::on(lab.address());
    let pid = the_pid(&lab);
    lab.kill();
    restore(&lab, &backup);
    lab.start();
    until_asked(&mut lab);
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
    serves(&lab, "ok 2");
    // If the operator accepts the journal, rei restores its Active without a gap; then it judges the commit of the source again.
    let why = Some("it was a mistake".to_owned());
    lab.ask(async |client| client.settle(Trust::Journal, why).await).unwrap();
    lab.wait_for("the journal's version", |lab| ask(lab.address(), "/").unwrap().ends_with(" of ok 1").then_some(()));
    lab.wait_for("the second version, judged again", |lab| {
        let status = lab.status()?;
        (status.phase == Phase::Steady && status.active?.generation == Some(2)).then_some(())
    });
    serves(&lab, "ok 2");
    lab.until_settled();
    assert!(!is_alive(pid));
    load.none_lost();
}

#[test]
fn with_such_a_backup_and_no_instance_the_profile_decides_what_serves() {
    let Some((mut lab, backup)) = promoted() else { return };
    stop(&mut lab);
    restore(&lab, &backup);
    lab.start();
    until_asked(&mut lab);
    assert_eq!(profile(&lab), "served-2-link");
    let before = lab.until_settled();
    serves(&lab, "ok 2");
    // rei restarts the instance in this phase, too.
    process::send(the_pid(&lab), Signal::SIGKILL);
    let after = lab.wait_for("another instance", |lab| {
        let instances = lab.status()?.active?.instances;
        instances
            .into_iter()
            .find(|instance| instance.state == InstanceState::Serving && !before.contains_key(&instance.id))
    });
    assert!(after.usage.pid.is_some());
    serves(&lab, "ok 2");
    assert_eq!((lab.status().unwrap().phase, profile(&lab)), (Phase::Held, "served-2-link".to_owned()));
    accept_reality(&mut lab, "ok 3");
}

#[test]
fn without_a_journal_nothing_is_installed_beside_a_running_instance() {
    let Some((mut lab, _)) = promoted() else { return };
    let load = Load::on(lab.address());
    let bad = lab.commit("fails-check 3");
    assert_eq!(lab.verdict_on(&bad).action, Some(MaintenanceAction::Rejected));
    let pid = the_pid(&lab);
    lab.kill();
    remove_journal(&lab);
    lab.start();
    until_asked(&mut lab);
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
    serves(&lab, "ok 2");
    until_followed(&mut lab, &bad);
    let none = lab.ask(async |client| client.settle(Trust::Journal, None).await);
    assert!(matches!(none, Err(ClientError::Answered(OperationsError::WrongPhase { .. }))), "{none:?}");
    // The rejected commit is judged again, not installed.
    lab.ask(async |client| client.settle(Trust::Reality, None).await).unwrap();
    assert_eq!(lab.verdict_on(&bad).action, Some(MaintenanceAction::Rejected));
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
    load.none_lost();
}

#[test]
fn without_a_journal_and_without_an_instance_the_profile_decides_what_serves() {
    let Some((mut lab, _)) = promoted() else { return };
    let bad = lab.commit("fails-check 3");
    assert_eq!(lab.verdict_on(&bad).action, Some(MaintenanceAction::Rejected));
    end_everything(&mut lab);
    remove_journal(&lab);
    lab.start();
    until_asked(&mut lab);
    lab.until_settled();
    assert_eq!(profile(&lab), "served-2-link");
    serves(&lab, "ok 2");
    until_followed(&mut lab, &bad);
    accept_reality(&mut lab, "ok 4");
}

#[test]
fn without_journal_and_table_running_instances_are_found_and_stopped_with_the_rest() {
    let Some((mut lab, _)) = promoted() else { return };
    let pid = the_pid(&lab);
    lab.kill();
    remove_journal(&lab);
    std::fs::remove_file(lab.path("state/instances")).unwrap();
    lab.start();
    until_asked(&mut lab);
    assert_eq!(lab.until_settled().values().copied().collect::<Vec<_>>(), [pid]);
    serves(&lab, "ok 2");
    stop(&mut lab);
    assert!(!is_alive(pid));
}

#[test]
fn without_a_table_no_second_copy_is_started() {
    let Some((mut lab, _)) = promoted() else { return };
    let load = Load::on(lab.address());
    let pid = the_pid(&lab);
    for damage in ["removed", "emptied"] {
        lab.kill();
        let table = lab.path("state/instances");
        match damage {
            "removed" => std::fs::remove_file(&table).unwrap(),
            _ => std::fs::write(&table, "").unwrap(),
        }
        lab.start();
        assert_eq!(lab.until_settled().values().copied().collect::<Vec<_>>(), [pid], "{damage}");
        assert_eq!(lab.status().unwrap().attention, None, "the journal knows the instance");
    }
    load.none_lost();
    stop(&mut lab);
    assert!(!is_alive(pid));
    // Without an instance a new table is made.
    std::fs::remove_file(lab.path("state/instances")).unwrap();
    lab.start();
    assert_eq!(lab.until_settled().len(), 1);
    assert_eq!(lab.status().unwrap().attention, None);
}

#[test]
fn a_lost_head_is_sealed_again_if_all_other_witnesses_agree() {
    let Some((mut lab, _)) = promoted() else { return };
    let pid = the_pid(&lab);
    let head = lab.path("state/private/journal.head");
    lab.kill();
    std::fs::remove_file(&head).unwrap();
    lab.start();
    assert_eq!(lab.until_settled().values().copied().collect::<Vec<_>>(), [pid]);
    assert_eq!(lab.status().unwrap().attention, None);
    let verified = Reader::open(&lab.path("state/journal")).unwrap().verify_against(&head).unwrap();
    assert!(verified.sealed.is_some());
    assert!(lab.output().contains("no sound sealed head"), "{}", lab.output());
    // Without a head the profile shows that a promotion is lost.
    lab.kill();
    std::fs::remove_file(&head).unwrap();
    cut(&lab);
    lab.start();
    let attention = until_asked(&mut lab).attention.unwrap();
    assert!(attention.contains("the profile's current generation is 2"), "{attention}");
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
}
