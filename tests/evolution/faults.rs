//! Single faults, under load.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::common::process::is_alive;
use crate::lab::{Lab, Setup};
use crate::load::{Load, ask};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Waits until Active has a new instance.
fn until_replaced(lab: &mut Lab, before: &std::collections::BTreeMap<String, u32>) {
    lab.wait_for("another instance", |lab| {
        let instance = lab.status()?.active?.instances.into_iter().next()?;
        (!before.contains_key(&instance.id) && instance.usage.pid.is_some_and(is_alive)).then_some(())
    });
}

#[test]
fn a_killed_instance_loses_only_its_accepted_requests() {
    const MANY: &str = "[incidents]\ncrash = { restarts = 60, within = \"60s\" }";
    let Some(mut lab) = Lab::serving(Setup { more: MANY, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    for _ in 0..5 {
        load.wait_for_more(40);
        let before = lab.until_settled();
        before.values().for_each(|pid| send(*pid, Signal::SIGKILL));
        until_replaced(&mut lab, &before);
    }
    load.wait_for_more(40);
    let tally = load.finish();
    // Each kill may lose the requests in progress. No connection is refused.
    let refused = tally.failures.iter().filter(|(_, what)| what.contains("refused") || what.starts_with("connecting"));
    assert_eq!(refused.count(), 0, "{:?}", tally.failures);
    assert!(tally.failures.len() <= 5 * 5, "{:?}", tally.failures);
    println!("{} requests, {} lost with 5 kills: {:?}", tally.answers.len(), tally.failures.len(), tally.failures);
}

#[test]
fn an_instance_that_exits_without_a_supervisor_is_restarted_and_its_last_output_is_known() {
    let Some(mut lab) = Lab::serving(Setup { first: "ok bug 1", ..Setup::default() }) else { return };
    let before = lab.until_settled();
    lab.kill();
    assert!(ask(lab.address(), "/crash").is_err(), "it crashes");
    lab.start();
    until_replaced(&mut lab, &before);
    // The kernel accepts connections, so no client is refused.
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok bug 1"));
    // Its own log has the last output; `a.log` belongs to its successor now.
    let logs = std::fs::read_dir(lab.path("state/logs/a")).unwrap();
    let logs: String = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    assert!(logs.contains("a real bug"), "{logs}");
    lab.until("the crash in the health report", |status| {
        let crashes = status.health.as_ref().and_then(|health| serde_json::to_value(health).ok());
        crashes.is_some_and(|health| health.to_string().contains("a real bug"))
            || status.open_incidents.iter().any(|incident| incident.summary.contains("bug"))
    });
    lab.until_settled();
}

#[test]
fn a_killed_keeper_is_replaced_and_the_new_one_has_all_descriptors() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    let load = Load::on(lab.address());
    let before = lab.until_settled();
    for _ in 0..2 {
        let keeper = lab.keeper().expect("a keeper");
        send(keeper, Signal::SIGKILL);
        lab.wait_for("another keeper", |lab| lab.keeper().filter(|pid| *pid != keeper));
        lab.wait_for("the keeper to have the listeners", |lab| {
            let said = lab.output();
            said.rsplit_once("the keeper has ended")
                .is_some_and(|(_, after)| after.contains("has the listeners"))
                .then_some(())
        });
        load.wait_for_more(40);
        lab.kill();
        load.wait_for_more(40);
        lab.start();
        assert_eq!(lab.until_settled(), before, "the same instance");
    }
    // The exit of an instance does not stop the keeper.
    let keeper = lab.keeper();
    let good = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.until_settled();
    assert_eq!(lab.keeper(), keeper);
    load.none_lost();
    assert!(!lab.output().contains("opened anew"), "{}", lab.output());
}

#[test]
fn a_notification_without_a_supervisor_is_not_lost() {
    let health =
        "http = { listen = \"http\", path = \"/healthz\", interval = \"50ms\", timeout = \"5s\" }\nnotify = {}";
    let Some(mut lab) = Lab::serving(Setup { health, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    // The candidate starts and sends READY=1 at about the time of the kill.
    for version in 2..6 {
        let rev = lab.commit(&format!("ok {version}"));
        lab.wait_for("the candidate's process", |lab| (lab.processes().len() == 2).then_some(()));
        lab.kill();
        load.wait_for_more(10);
        lab.start();
        assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
        lab.until("Steady", |status| status.phase == Phase::Steady);
    }
    load.none_lost();
}

#[test]
fn previous_is_restored_without_nix_git_and_source() {
    let promotion = "canary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"1h\"";
    let Some(mut lab) = Lab::serving(Setup { promotion, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    lab.commit("ok 2");
    lab.until("Observing", |status| status.phase == Phase::Observing);
    lab.kill();
    std::fs::rename(lab.path("repo"), lab.path("repo-away")).unwrap();
    std::fs::write(lab.path("no-directory"), "").unwrap();
    let mut command = lab.rei();
    command.env("PATH", "/nonexistent");
    // rei would find Nix in a usual place, too; there it has no database and no daemon.
    for name in ["NIX_STATE_DIR", "NIX_DAEMON_SOCKET_PATH"] {
        command.env(name, lab.path("no-directory"));
    }
    lab.start_by(command);
    lab.until("Observing", |status| status.phase == Phase::Observing);
    let restored = lab.ask(async |client| client.rollback(None).await).unwrap();
    assert_eq!(restored, 1);
    lab.until("Steady", |status| {
        status.phase == Phase::Steady && status.active.as_ref().is_some_and(|active| active.generation == Some(1))
    });
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 1"));
    lab.until_settled();
    load.none_lost();
}

/// A process of the supervisor's user can remove them. The keeper itself still runs, and only it has the descriptors.
#[test]
fn a_keeper_whose_socket_or_key_was_removed_is_found_again() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    let load = Load::on(lab.address());
    let before = lab.until_settled();
    let keeper = lab.keeper().expect("a keeper");
    for removed in [&["keeper.sock"][..], &["keeper.sock.lock"], &["keeper.sock", "keeper.sock.lock"]] {
        for file in removed {
            std::fs::remove_file(lab.path("state/private").join(file)).unwrap();
        }
        lab.kill();
        load.wait_for_more(20);
        lab.start();
        assert_eq!(lab.until_settled(), before, "the same instance");
        assert_eq!(lab.keeper(), Some(keeper), "{removed:?}: the same keeper, and no second one");
    }
    load.none_lost();
    assert!(!lab.output().contains("opened anew"), "{}", lab.output());
}

/// Then only the instances have the listening sockets.
#[test]
fn without_supervisor_and_keeper_the_listeners_come_back_from_the_instances() {
    let Some(mut lab) = Lab::serving(Setup { udp: true, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    let before = lab.until_settled();
    for round in 0..3 {
        let keeper = lab.keeper().expect("a keeper");
        match round {
            0 => {
                lab.signal(Signal::SIGSTOP);
                send(keeper, Signal::SIGKILL);
                lab.kill();
            }
            1 => {
                lab.kill();
                send(keeper, Signal::SIGKILL);
            }
            // Kills both and removes the files.
            _ => {
                std::fs::remove_file(lab.path("state/private/keeper.sock")).unwrap();
                std::fs::remove_file(lab.path("state/private/keeper.sock.lock")).unwrap();
                lab.kill();
                send(keeper, Signal::SIGKILL);
            }
        }
        load.wait_for_more(40);
        lab.start();
        assert_eq!(lab.until_settled(), before, "round {round}: the same instance");
        load.wait_for_more(40);
    }
    // Everything still works: other versions are promoted, through both slots, and each may be the only remaining one.
    for version in [2, 3] {
        let rev = lab.commit(&format!("ok {version}"));
        assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
        lab.until("Steady", |status| status.phase == Phase::Steady);
        let before = lab.until_settled();
        let keeper = lab.keeper().expect("a keeper");
        lab.kill();
        send(keeper, Signal::SIGKILL);
        load.wait_for_more(40);
        lab.start();
        assert_eq!(lab.until_settled(), before, "version {version}: the same instance");
    }
    load.none_lost();
}

/// Both versions run, and each has the same share of the clients afterwards.
fn continues_without_supervisor_and_keeper(setup: Setup, phase: Phase) {
    let Some(mut lab) = Lab::serving(setup) else { return };
    let load = Load::on(lab.address());
    let rev = lab.commit("ok 2");
    lab.until("both versions", |status| status.phase == phase);
    let before = lab.until_settled();
    assert_eq!(before.len(), 2, "{before:?}");
    let keeper = lab.keeper().expect("a keeper");
    lab.kill();
    send(keeper, Signal::SIGKILL);
    load.wait_for_more(40);
    lab.start();
    assert_eq!(lab.until_settled(), before, "the same instances");
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
}

#[test]
fn without_supervisor_and_keeper_a_canary_continues() {
    let promotion = "canary = [{ share = 0.3, for = \"20s\" }]\nobserve = \"3s\"";
    continues_without_supervisor_and_keeper(Setup { promotion, udp: true, ..Setup::default() }, Phase::Canary);
}

/// A unix socket cannot be shared.
#[test]
fn without_supervisor_and_keeper_a_window_continues() {
    let promotion = "canary = []\nobserve = \"20s\"";
    continues_without_supervisor_and_keeper(Setup { promotion, unix: true, ..Setup::default() }, Phase::Observing);
}
