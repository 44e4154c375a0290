//! A journal that is shorter than reality, and a table of instances that is gone: what runs serves on, nothing is decided,
//! and an operator is asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use rei::interface::operations::Status;
use rei::interface::types::MaintenanceAction;
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

/// A service whose second version was promoted, and a backup of the journal of before that.
fn promoted() -> Option<(Lab, PathBuf)> {
    let mut lab = Lab::serving(QUICK)?;
    lab.until_settled();
    let backup = lab.path("backup");
    copy(&lab.path("state/journal"), &backup);
    let good = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == rei::interface::operations::Phase::Steady);
    lab.until_settled();
    Some((lab, backup))
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Puts a backup of the journal in its place.
fn restore(lab: &Lab, backup: &Path) {
    remove_journal(lab);
    copy(backup, &lab.path("state/journal"));
}

fn remove_journal(lab: &Lab) {
    std::fs::remove_dir_all(lab.path("state/journal")).unwrap();
}

/// Cuts the journal behind the record after which nothing but the first version was there.
fn cut(lab: &Lab) {
    let ledger = lab.ledger();
    let begun = ledger.states.iter().rposition(|state| state.phase() == CorePhase::Installing).unwrap();
    let segment = lab.path("state/journal/000000000001.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    // The header, the records up to that one, and the one that ended it.
    let kept: String = text.split_inclusive('\n').take(begun + 3).collect();
    assert!(kept.len() < text.len());
    std::fs::write(&segment, kept).unwrap();
}

/// The supervisor, the keeper and all instances are gone at once, as at a loss of power.
fn end_everything(lab: &mut Lab) {
    lab.kill();
    process::end_all(&lab.path("state"));
    lab.wait_for("everything to be gone", |lab| lab.processes().is_empty().then_some(()));
}

/// Ends the supervisor in an orderly way, with all that it runs.
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

/// Waits until an operator is asked; gives what is seen then.
fn until_asked(lab: &mut Lab) -> Status {
    let status = lab.until("an operator to be asked", |status| status.attention.is_some() && status.active.is_some());
    let attention = status.attention.clone().unwrap();
    assert!(attention.contains("rei journal accept"), "{attention}");
    status
}

fn serves(lab: &Lab, version: &str) {
    let body = ask(lab.address(), "/").unwrap();
    assert!(body.ends_with(&format!(" of {version}")), "{body}");
}

#[test]
fn a_journal_that_was_cut_ends_nothing() {
    let Some((mut lab, _)) = promoted() else { return };
    let load = Load::on(lab.address());
    let pid = the_pid(&lab);
    lab.kill();
    cut(&lab);
    lab.start();
    until_asked(&mut lab);
    assert_eq!((the_pid(&lab), profile(&lab)), (pid, "served-2-link".to_owned()));
    serves(&lab, "ok 2");
    load.none_lost();
}

#[test]
fn a_backup_that_is_older_than_a_promotion_takes_nothing_back() {
    let Some((mut lab, backup)) = promoted() else { return };
    stop(&mut lab);
    restore(&lab, &backup);
    lab.start();
    until_asked(&mut lab);
    assert_eq!(profile(&lab), "served-2-link");
    serves(&lab, "ok 2");
}

#[test]
fn without_a_journal_nothing_is_installed_beside_what_runs() {
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
    load.none_lost();
    stop(&mut lab);
    assert!(!is_alive(pid));
}

#[test]
fn without_a_journal_and_with_nothing_running_the_profile_says_what_serves() {
    let Some((mut lab, _)) = promoted() else { return };
    let bad = lab.commit("fails-check 3");
    assert_eq!(lab.verdict_on(&bad).action, Some(MaintenanceAction::Rejected));
    end_everything(&mut lab);
    remove_journal(&lab);
    lab.start();
    until_asked(&mut lab);
    assert_eq!(profile(&lab), "served-2-link");
    serves(&lab, "ok 2");
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
        assert_eq!(lab.status().unwrap().attention, None, "the journal knows it");
    }
    load.none_lost();
    stop(&mut lab);
    assert!(!is_alive(pid));
}
