//! The operator's view, with good and bad candidates and without other faults.

use nix::sys::signal::Signal;
use rei::interface::client::ClientError;
use rei::interface::operations::{OperationsError, Phase};
use rei::interface::types::MaintenanceAction;
use sha2::{Digest, Sha256};

use crate::common::process::is_alive;
use crate::lab::{Lab, Setup};
use crate::load::{Load, ask};

/// A version that is healthy for its checks and its first clients, and then degrades.
const TURNS_SLOW: &str = "slow=150:600";
const LATENCY: &str = "[incidents]\nlatency = { p99 = \"300ms\", for = \"1s\" }";

#[test]
fn a_commit_is_promoted_a_degraded_one_is_rolled_back_and_an_operator_rolls_back_further() {
    let Some(mut lab) = Lab::serving(Setup { more: LATENCY, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    load.wait_for_more(20);

    let good = lab.commit("ok 2");
    // If an operator requests an evolution that already runs, the answer is that evolution.
    lab.until("an evolution", |status| status.phase != Phase::Steady);
    let asked = lab.ask(async |client| client.evolve(Some(good[..12].to_owned()), None).await).unwrap();
    let verdict = lab.verdict_on(&good);
    assert_eq!((verdict.action, verdict.id), (Some(MaintenanceAction::Promoted), asked.0));
    let status = lab.until("Steady", |status| status.phase == Phase::Steady);
    let (active, previous) = (status.active.unwrap(), status.previous.unwrap());
    assert_eq!((active.version.rev.as_str(), active.generation), (good.as_str(), Some(2)));
    assert_eq!(previous.generation, Some(1));
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 2"));
    let profile = lab.path("state/profiles/served");
    let generations = lab.command("nix-env").arg("--profile").arg(&profile).arg("--list-generations").output().unwrap();
    let generations = String::from_utf8(generations.stdout).unwrap();
    assert!(
        generations.lines().any(|line| line.trim_start().starts_with("2 ") && line.contains("(current)")),
        "{generations}"
    );

    // This version passes every check and becomes slow under load: Previous is restored, and its content is not tried again.
    let slow = lab.commit(&format!("{TURNS_SLOW} 3"));
    let verdict = lab.verdict_on(&slow);
    assert_eq!(verdict.action, Some(MaintenanceAction::RolledBack), "{verdict:#?}");
    let status = lab.until("Steady", |status| status.phase == Phase::Steady);
    assert_eq!((status.active.unwrap().version.rev, status.quarantined), (good.clone(), 1));
    lab.git(&["commit", "--quiet", "--allow-empty", "--message", "the same files again"]);
    let again = lab.git(&["rev-parse", "HEAD"]).trim().to_owned();
    lab.wait_for("the commit in the follower", |lab| {
        let ledger = lab.ledger();
        ledger.states.last().unwrap().followed().filter(|rev| *rev == again).map(drop)
    });
    assert_eq!(lab.status().unwrap().phase, Phase::Steady);
    assert!(!lab.ledger().commits().contains(&again));

    // A check fails.
    let bad = lab.commit("fails-check 4");
    let verdict = lab.verdict_on(&bad);
    assert_eq!(verdict.action, Some(MaintenanceAction::Rejected), "{verdict:#?}");
    assert!(verdict.summary.contains("tests"), "the summary must name the check: {}", verdict.summary);
    assert_eq!(lab.status().unwrap().quarantined, 2, "a failed check counts in every stage");

    // An operator rolls back to the first version by its generation.
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.ask(async |client| client.rollback(Some(1)).await).unwrap();
    let status = lab.until("the first version", |status| {
        status.phase == Phase::Steady && status.active.as_ref().is_some_and(|active| active.generation == Some(1))
    });
    assert_eq!(status.quarantined, 3, "the replaced version is not promoted again by itself");
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 1"));

    let tally = load.none_lost();
    println!("{} requests, 0 failed: {:?}", tally.answers.len(), tally.versions());
    lab.until_settled();
    let ledger = lab.ledger();
    assert!(ledger.ends().values().all(|ends| ends.len() <= 1), "{:?}", ledger.ends());
    let profile = std::fs::read_link(lab.path("state/profiles/served")).unwrap();
    assert_eq!(profile.to_str(), Some("served-1-link"));
}

#[test]
fn an_incident_is_repaired_by_an_agent() {
    const AGENTS: &str = "[incidents]\ncrash = { restarts = 50, within = \"60s\" }\n[blueprints]\nincident = \"repair\"\n\
                          [agents.fixer]\ncommand = [\"/bin/sh\", \"LAB/fix.sh\"]\nread = [\"LAB/fix.sh\"]\n";
    let Some(mut lab) = Lab::new(Setup { first: "ok bug 1", more: AGENTS, ..Setup::default() }) else { return };
    std::fs::write(lab.path("fix.sh"), "set -eu\ngrep -q bug behaviour\necho 'ok repaired' > behaviour\n").unwrap();
    lab.start();
    lab.until("the first version to serve", |status| status.phase == Phase::Steady);
    let crash = |lab: &mut Lab| {
        let before = lab.until_settled();
        assert!(ask(lab.address(), "/crash").is_err(), "it crashes");
        lab.wait_for("the next instance", |lab| {
            let status = lab.status()?;
            let instance = status.active?.instances.into_iter().next()?;
            (!before.contains_key(&instance.id) && status.phase == Phase::Steady).then_some(())
        });
    };
    crash(&mut lab);
    // The second crash is an incident.
    assert!(ask(lab.address(), "/crash").is_err(), "it crashes again");
    let status = lab.until("the repair to be Active", |status| {
        status.phase == Phase::Steady && status.active.as_ref().is_some_and(|active| active.generation == Some(2))
    });
    assert!(status.open_incidents.is_empty(), "{:#?}", status.open_incidents);
    assert_eq!(ask(lab.address(), "/crash").unwrap(), "repaired");
    let history = lab.ask(async |client| client.history(Some(10)).await).unwrap();
    let repair = history.iter().find(|entry| entry.incident_id.is_some()).unwrap();
    assert_eq!(repair.action, Some(MaintenanceAction::Promoted));
    let id = repair.incident_id.clone().unwrap().0;
    let shown = lab.ask(async |client| client.show(id).await).unwrap();
    let names: Vec<&str> = shown.evidence.iter().filter_map(|it| it.path.rsplit('/').next()).collect();
    assert!(["log.txt", "context.json"].iter().all(|name| names.contains(name)), "{names:?}");
    for file in &shown.evidence {
        let bytes = std::fs::read(lab.path("state").join(&file.path)).unwrap();
        let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&sha256, bytes.len() as u64), (&file.sha256, file.bytes), "{}", file.path);
    }
    assert_eq!(shown.object["evidence"], serde_json::to_value(&shown.evidence).unwrap());
    lab.until_settled();
}

#[test]
fn an_operator_approves_pauses_and_changes_the_file() {
    const ASK: &str = "mode = \"approve\"\ncanary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"2s\"";
    let Some(mut lab) = Lab::serving(Setup { promotion: ASK, ..Setup::default() }) else { return };
    let load = Load::on(lab.address());
    let rejected = lab.commit("ok not");
    let status = lab.until("AwaitingApproval", |status| status.phase == Phase::AwaitingApproval);
    let (id, candidate) = status.evolution.map(|it| (it.id, it.candidate_id.unwrap().0)).unwrap();
    let said = lab.ask(async |client| client.reject(candidate, "not this one".to_owned()).await).unwrap();
    assert_eq!((said, lab.verdict_on(&rejected).action), (id, Some(MaintenanceAction::Rejected)));

    let approved = lab.commit("ok 2");
    let status = lab.until("AwaitingApproval", |status| status.phase == Phase::AwaitingApproval);
    let id = status.evolution.unwrap().id.0;
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 1"));
    let wrong = lab.ask(async |client| client.approve("evo_9999".to_owned()).await).unwrap_err();
    assert!(matches!(wrong, ClientError::Answered(OperationsError::NotFound { .. })), "{wrong:?}");
    lab.ask(async |client| client.approve(id).await).unwrap();
    assert_eq!(lab.verdict_on(&approved).action, Some(MaintenanceAction::Promoted));

    // A paused supervisor serves and starts no evolution.
    lab.until("Steady", |status| status.phase == Phase::Steady);
    lab.ask(async |client| client.pause().await).unwrap();
    let waiting = lab.commit("ok 3");
    lab.wait_for("the commit in the follower", |lab| {
        lab.ledger().states.last().unwrap().followed().filter(|rev| *rev == waiting).map(drop)
    });
    assert_eq!(lab.status().unwrap().phase, Phase::Steady);

    // The supervisor reads the file again: from now on it asks no operator.
    lab.configure(Setup::default());
    lab.signal(Signal::SIGHUP);
    lab.wait_for("the new policy", |lab| {
        let ledger = lab.ledger();
        ledger.states.last().unwrap().policy().filter(|policy| !policy.approve).map(drop)
    });
    lab.ask(async |client| client.resume().await).unwrap();
    assert_eq!(lab.verdict_on(&waiting).action, Some(MaintenanceAction::Promoted));

    // A wrong file changes nothing.
    std::fs::write(lab.path("rei.toml"), "[runtime]\n").unwrap();
    lab.signal(Signal::SIGHUP);
    lab.wait_for("the refusal", |lab| lab.output().contains("reload failed: rei.toml is invalid").then_some(()));
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 3"));
    load.none_lost();
}

#[test]
fn with_an_exclusive_runtime_clients_wait_and_none_is_refused() {
    const ALONE: Setup = Setup {
        runtime: "strategy = \"recreate\"",
        promotion: "observe = \"2s\"",
        more: LATENCY,
        health: "",
        unix: false,
        udp: false,
        first: "",
    };
    let Some(mut lab) = Lab::serving(ALONE) else { return };
    let load = Load::on(lab.address());
    load.wait_for_more(20);
    let good = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    // It has all users from its first moment, so it turns slow early, also on a machine that answers few of them.
    let slow = lab.commit("slow=15:600 3");
    assert_eq!(lab.verdict_on(&slow).action, Some(MaintenanceAction::RolledBack));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 2"));
    let tally = load.none_lost();
    println!("{} requests, 0 failed, the longest {} ms", tally.answers.len(), tally.longest_ms());
    assert_eq!(lab.until_settled().len(), 1);
}

#[test]
fn a_unix_socket_is_switched_and_taken_over() {
    let Some(mut lab) =
        Lab::serving(Setup { unix: true, promotion: "canary = []\nobserve = \"3s\"", ..Setup::default() })
    else {
        return;
    };
    let load = Load::on(lab.address());
    load.wait_for_more(20);
    let good = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&good).action, Some(MaintenanceAction::Promoted));
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 2"));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    let before = lab.until_settled();
    lab.kill();
    load.wait_for_more(20);
    lab.start();
    assert_eq!(lab.until_settled(), before);
    let bad = lab.commit(&format!("{TURNS_SLOW} 3"));
    assert!(lab.verdict_on(&bad).action.is_some());
    load.none_lost();
}

/// In the window the old process has exited; another process is warm, or none.
fn stops_the_old_process(runtime: &'static str, expected: usize) {
    let promotion = "canary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"8s\"";
    let setup = Setup { runtime, promotion, more: LATENCY, ..Setup::default() };
    let Some(mut lab) = Lab::serving(setup) else { return };
    let load = Load::on(lab.address());
    let first = lab.until_settled();
    lab.commit("ok 2");
    lab.until("Observing", |status| status.phase == Phase::Observing);
    lab.wait_for("the exit of the first process", |lab| {
        let there = lab.processes();
        let gone = there.iter().all(|process| !first.contains_key(&process.instance));
        (gone && there.len() == expected).then_some(())
    });
    lab.until("the promotion to be confirmed", |status| status.phase == Phase::Steady);
    let slow = lab.commit(&format!("{TURNS_SLOW} 3"));
    assert_eq!(lab.verdict_on(&slow).action, Some(MaintenanceAction::RolledBack), "{runtime}");
    lab.until("Steady", |status| status.phase == Phase::Steady);
    assert_eq!(lab.until_settled().len(), 1);
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 2"));
    let tally = load.none_lost();
    println!("{runtime}: {} requests, 0 failed, the longest {} ms", tally.answers.len(), tally.longest_ms());
}

#[test]
fn a_fresh_standby_replaces_the_old_process() {
    stops_the_old_process("standby = \"fresh\"", 2);
}

#[test]
fn a_cold_standby_has_no_process() {
    stops_the_old_process("standby = \"cold\"", 1);
}

#[test]
fn a_stop_leaves_no_process_and_a_second_supervisor_is_refused() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    let refused = lab.rei().status().unwrap();
    assert!(!refused.success(), "a second supervisor on the same state");
    let output = lab.output();
    assert!(output.contains(&format!("another rei (pid {})", lab.pid())), "{output}");
    assert!(ask(lab.address(), "/").is_ok());
    lab.commit("ok 2");
    lab.until("Canary", |status| status.phase == Phase::Canary);
    let (keeper, instances) = (lab.keeper().expect("a keeper"), lab.processes());
    assert!(!instances.is_empty());
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait(), Some(0));
    assert_eq!(lab.processes(), []);
    lab.wait_for("the keeper's end", |_| (!is_alive(keeper)).then_some(()));
    assert!(ask(lab.address(), "/").is_err(), "no process listens");

    // The next start continues with the same versions.
    lab.start();
    lab.until("the second version", |status| {
        status.phase == Phase::Steady && status.active.as_ref().is_some_and(|active| active.generation == Some(2))
    });
    lab.until_settled();
}
