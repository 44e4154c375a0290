//! Attacks by a process of rei's own user, if instances have that user too.

use std::os::unix::fs::lchown;
use std::path::Path;

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Setup};
use crate::load::Load;

/// `nobody`: Nix works only for a user that has a name.
const USER: u32 = 65_534;

fn give(path: &Path, user: u32) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    lchown(path, Some(user), Some(user)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        path.read_dir().unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

/// Commits as the owner of the repository, because git refuses the repository of another user.
fn commit(lab: &Lab, behaviour: &str) -> String {
    give(&lab.path("repo"), 0);
    let commit = lab.commit(behaviour);
    give(&lab.path("repo"), USER);
    commit
}

/// A supervisor that is not root; if this machine cannot do that, prints the reason and returns `None`.
fn as_a_plain_user(lab: &Lab) -> Option<std::process::Command> {
    let program = lab.path("rei");
    if !program.exists() {
        std::fs::copy(Lab::program(), &program).unwrap();
        give(&lab.path(""), USER);
    }
    let plain = lab.rei_at(&program);
    if !nix::unistd::geteuid().is_root() {
        return Some(plain);
    }
    if which::which("setpriv").is_err() {
        eprintln!("SKIPPED: root can become another user only with setpriv");
        return None;
    }
    let id = USER.to_string();
    let mut command = lab.command("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(plain.get_program()).args(plain.get_args());
    let output = std::fs::File::options().append(true).open(lab.path("output")).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output).current_dir("/");
    Some(command)
}

#[test]
fn an_orphan_of_an_instance_approves_nothing_after_its_supervisor_was_killed() {
    const ASK: &str = "mode = \"approve\"\ncanary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"2s\"";
    let setup = Setup { promotion: ASK, first: "ok 1 orphan=LAB/state/control.sock", ..Setup::default() };
    let Some(mut lab) = Lab::new(setup) else { return };
    let Some(command) = as_a_plain_user(&lab) else { return };
    lab.start_by(command);
    lab.until("the first version to serve", |status| status.phase == Phase::Steady && status.active.is_some());
    let load = Load::on(lab.address());
    let candidate = commit(&lab, "ok 2");
    let status = lab.until("AwaitingApproval", |status| status.phase == Phase::AwaitingApproval);
    let id = status.evolution.unwrap().id.0;
    let said = lab.path("state/runtime/said");
    assert!(!said.exists(), "the orphan waits for the end of its supervisor");

    lab.kill();
    lab.start_by(as_a_plain_user(&lab).expect("as before"));
    let replies = lab.wait_for("replies to the orphan", |lab| {
        lab.status()?;
        let said = std::fs::read_to_string(&said).ok()?;
        (said.lines().count() >= 9).then_some(said)
    });
    assert!(replies.lines().all(|reply| reply.contains("io.openexec.Access.ProofNeeded")), "{replies}");
    assert_eq!(lab.status().map(|status| status.phase), Some(Phase::AwaitingApproval));

    // Only the operator's approval counts.
    lab.ask(async |client| client.approve(id).await).unwrap();
    assert_eq!(lab.verdict_on(&candidate).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
}

fn processors(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap_or_default().trim().to_owned()
}

#[test]
fn rei_undoes_changes_of_a_process_of_its_user() {
    use nix::sched::{CpuSet, sched_setaffinity};
    use nix::unistd::Pid;
    use std::os::unix::fs::PermissionsExt;
    let Some(mut lab) = Lab::new(Setup::default()) else { return };
    let Some(command) = as_a_plain_user(&lab) else { return };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run rei as another user here, and only such a rei undoes these changes");
        return;
    }
    lab.start_by(command);
    lab.until("the first version to serve", |status| status.phase == Phase::Steady && status.active.is_some());
    let load = Load::on(lab.address());
    let all = processors(lab.pid());
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|cpu| {
        one.set(*cpu).unwrap();
        let is_there = sched_setaffinity(Pid::from_raw(lab.pid().cast_signed()), &one).is_ok();
        one.unset(*cpu).unwrap();
        is_there
    });
    assert!(first.is_some());
    let close = |lab: &Lab| {
        for path in ["state/journal", "state/private", "state/logs", "state/instances"] {
            std::fs::set_permissions(lab.path(path), PermissionsExt::from_mode(0o000)).unwrap();
        }
    };
    let is_open = |lab: &Lab| lab.path("state/journal").metadata().unwrap().permissions().mode() & 0o777 == 0o700;
    close(&lab);
    // While the supervisor runs.
    lab.wait_for("its rights and its processors", |lab| (is_open(lab) && processors(lab.pid()) == all).then_some(()));
    // The line comes after the act.
    lab.wait_for("the line in the log", |lab| lab.output().contains("has changed what rei needs").then_some(()));
    // And before the next supervisor starts.
    close(&lab);
    lab.kill();
    lab.start_by(as_a_plain_user(&lab).expect("as before"));
    lab.until("the next supervisor", |status| status.phase == Phase::Steady);
    assert!(is_open(&lab));
    let promoted = commit(&lab, "ok 2");
    assert_eq!(lab.verdict_on(&promoted).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
}
