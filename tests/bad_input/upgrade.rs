//! Commits that cannot become a version: each is rejected with a reason, and Active does not change.

use std::os::unix::fs::symlink;

use rei::interface::operations::ShowKind;
use rei::interface::types::MaintenanceAction;

use crate::lab::{CHECKS, FLAKE, Lab, Supervisor, system};

/// A bad commit must be rejected with these words, and no request may be lost.
pub fn rejects(lab: &Lab, supervisor: &mut Supervisor, rev: &str, words: &[&str]) -> String {
    let before = supervisor.status().and_then(|it| it.active).map(|it| it.version);
    let load = lab.load();
    let end = supervisor.verdict_on(rev);
    println!("{}", end.summary);
    assert_eq!(end.action, Some(MaintenanceAction::Rejected), "{}", end.summary);
    for word in words {
        assert!(end.summary.contains(word), "{word:?} is not in:\n{}", end.summary);
    }
    let status = supervisor.status().expect("a status");
    assert_eq!(status.active.map(|it| it.version), before);
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    load.none_lost();
    end.summary
}

/// The same with a new service; a good commit after it must be promoted as usual.
fn alone(commit: impl FnOnce(&Lab) -> String, words: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let rev = commit(&lab);
    rejects(&lab, &mut supervisor, &rev, words);
    lab.write("flake.nix", &FLAKE.replace("SYSTEM", &system()));
    lab.write("checks/default.nix", CHECKS);
    let good = lab.commit("well 2");
    let end = supervisor.verdict_on(&good);
    println!("{}", supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_commit_that_does_not_evaluate() {
    let commit = |lab: &Lab| {
        lab.write("flake.nix", "{ outputs = { self }: { packages = nonsense; }; }");
        lab.commit_tree("nonsense")
    };
    alone(commit, &["undefined variable 'nonsense'", "flake.nix:1:"]);
}

#[test]
fn a_commit_that_does_not_build() {
    alone(|lab| lab.commit("does not build"), &["a semicolon is missing", "nix-store --read-log /"]);
}

#[test]
fn a_commit_without_the_package() {
    let commit = |lab: &Lab| {
        lab.write("flake.nix", &FLAKE.replace("SYSTEM.default", "SYSTEM.other").replace("SYSTEM", &system()));
        lab.commit_tree("other")
    };
    alone(commit, &["no package default", "it has: other"]);
}

#[test]
fn a_commit_without_a_flake() {
    let commit = |lab: &Lab| {
        lab.git(&["rm", "--quiet", "flake.nix"]);
        lab.commit_tree("no flake")
    };
    alone(commit, &["flake.nix"]);
}

/// With `protected = []` a commit may change the flake itself, so that rei judges the changed flake.
fn unprotected() -> Option<(Lab, Supervisor)> {
    let lab = Lab::new()?;
    lab.configure("[validation]\nprotected = []");
    let supervisor = lab.serving();
    Some((lab, supervisor))
}

#[test]
fn a_commit_without_the_command() {
    let Some((lab, mut supervisor)) = unprotected() else { return };
    let flake = FLAKE.replace("name = \"service\"; behaviour", "name = \"service\"; bin = \"other\"; behaviour");
    lab.write("flake.nix", &flake.replace("SYSTEM", &system()));
    let rev = lab.commit("well 2");
    rejects(&lab, &mut supervisor, &rev, &["boot", "bin/unruly"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn candidates_that_do_not_serve_or_do_not_stop() {
    let Some(lab) = Lab::new() else { return };
    lab.configure_with("start_timeout = \"4s\"\n", "");
    let mut supervisor = lab.serving();
    for (behaviour, words) in [
        ("never_ready 2", ["boot", "not ready within 4000 ms"]),
        ("exits 2", ["boot", "exit code 3"]),
        ("forks 2", ["boot", "foreground"]),
        ("slow_start 2", ["boot", "ready"]),
        ("ignores_term 2", ["boot", "SIGTERM"]),
    ] {
        let rev = lab.commit(behaviour);
        println!("== {behaviour}");
        rejects(&lab, &mut supervisor, &rev, &words);
    }
    let quarantine = supervisor.operator(async |client| client.quarantine().await.unwrap()).unwrap();
    assert_eq!(quarantine.len(), 5, "{quarantine:#?}");
    // Each name works with `rei show` and `rei lift`.
    for entry in &quarantine {
        let id = &entry.candidate_id.0;
        let shown = supervisor.operator(async |client| client.show(id.clone()).await.unwrap()).unwrap();
        assert_eq!(
            (shown.kind, &shown.object["version"]["tree"]),
            (ShowKind::Candidate, &entry.tree.as_str().into()),
            "{shown:?}"
        );
        supervisor.operator(async |client| client.lift_quarantine(id.clone()).await.unwrap()).unwrap();
    }
    assert_eq!(supervisor.status().map(|status| status.quarantined), Some(0));
    assert_eq!(supervisor.stop(), Some(0));
}

/// A check that passes by chance: if it runs often enough, it passes once.
const BY_CHANCE: &str = r#"{ check, self }: {
  flaky = check { name = "flaky"; try = "by chance"; subject = "${../behaviour}"; };
}
"#;

#[test]
fn a_failure_of_a_flaky_check_counts() {
    let Some(mut lab) = Lab::new() else { return };
    lab.take_own_store();
    lab.let_chance_in();
    lab.write("checks/default.nix", BY_CHANCE);
    lab.commit_tree("a flaky check");
    let mut supervisor = lab.serving();
    let rev = lab.commit("well 2");
    let end = rejects(&lab, &mut supervisor, &rev, &["stage tests", "flaky"]);
    println!("{end}");
    // From now on the check would pass. But rei does not run it again for the same commit, or for another commit with the same files.
    std::fs::write(lab.path("chance/good"), "").unwrap();
    lab.git(&["commit", "--quiet", "--allow-empty", "--message", "the same again"]);
    let again = lab.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let line = supervisor.says(&again[..12]);
    println!("{line}");
    let evolutions = |it: &Supervisor| {
        let history = it.operator(async |client| client.history(Some(50)).await.unwrap()).unwrap();
        history.into_iter().filter(|entry| entry.id != "evo_0001" && entry.id.starts_with("evo_")).count()
    };
    assert_eq!(evolutions(&supervisor), 1, "{}", supervisor.output());
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    // An operator's request is refused too, with this reason.
    let asked = again.clone();
    supervisor.operator(async |client| client.evolve(Some(asked), None).await.unwrap()).unwrap();
    let end = rejects(&lab, &mut supervisor, &again, &["quarantine", "flaky"]);
    println!("{end}");
    // If an operator releases the content from quarantine, rei runs the check once more.
    let tree = lab.git(&["rev-parse", "HEAD^{tree}"]).trim().to_owned();
    supervisor.operator(async |client| client.lift_quarantine(tree).await.unwrap()).unwrap();
    supervisor
        .until("the promotion", |it| it.status().and_then(|it| it.active).is_some_and(|it| it.version.rev == again));
    assert_eq!(lab.ask("/"), Ok("2".to_owned()));
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_repository_that_goes_away_and_comes_back() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    std::fs::rename(lab.path("repo"), lab.path("away")).unwrap();
    let line = supervisor.says("cannot follow the source");
    println!("{line}");
    assert!(line.contains("/repo"), "{line}");
    let before = load.count();
    supervisor.until("requests meanwhile", |_| load.count() > before + 50);
    assert_eq!(
        supervisor.output().matches("cannot follow the source").count(),
        1,
        "logged once:\n{}",
        supervisor.output()
    );
    std::fs::rename(lab.path("away"), lab.path("repo")).unwrap();
    let rev = lab.commit("well 2");
    assert_eq!(supervisor.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    load.none_lost();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_golden_run_with_a_broken_line() {
    let Some(lab) = Lab::new() else { return };
    std::fs::create_dir(lab.path("golden")).unwrap();
    let good = "{\"schema\":\"rei-golden/1.0\",\"name\":\"answers\",\"listener\":\"http\",\"created\":\"2026-01-01T00:00:00Z\"}\n{\"request\":nonsense}\n";
    std::fs::write(lab.path("golden/answers.golden.jsonl"), good).unwrap();
    lab.configure("[validation]\ngolden = [\"golden\"]");
    let mut supervisor = lab.serving();
    let rev = lab.commit("well 2");
    // The operator's own file is wrong, so there is no verdict on the commit.
    let end = supervisor.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Deferred), "{}", end.summary);
    assert!(end.summary.contains("answers.golden.jsonl:2:"), "{}", end.summary);
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_tree_with_a_link_to_the_outside() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    std::fs::remove_file(lab.path("repo/behaviour")).unwrap();
    symlink("/etc/shadow", lab.path("repo/behaviour")).unwrap();
    let rev = lab.commit_tree("a link to the outside");
    // Nix 2.26 names only the directory.
    rejects(
        &lab,
        &mut supervisor,
        &rev,
        &["path '/etc", "is forbidden in", "a commit may use only files that it contains"],
    );
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_profile_locked_by_another_program_delays_only_the_switch() {
    use rei::interface::operations::Phase;
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    let rev = lab.commit("well 2");
    let line = supervisor.says("of new connections");
    println!("{line}");
    // `nix-env --profile … --switch-generation` takes the same lock, but for a much shorter time.
    let held = std::fs::File::create(lab.path("state/profiles/service.lock")).unwrap();
    let held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    supervisor.until("the switch to wait", |it| it.status().is_some_and(|status| status.phase == Phase::Promoting));
    let asked = load.count();
    supervisor.until("requests meanwhile", |it| it.status().is_some() && load.count() > asked + 20);
    drop(held);
    let end = supervisor.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    load.none_lost();
    assert_eq!(supervisor.stop(), Some(0));
}

/// Nix builds the same store path: the commit is neither a version nor a rejection, and costs no budget.
fn unchanged(lab: &Lab, supervisor: &mut Supervisor, rev: &str) {
    let before = supervisor.status().and_then(|it| it.active).map(|it| it.version);
    let end = supervisor.verdict_on(rev);
    println!("{}", end.summary);
    assert_eq!(end.action, Some(MaintenanceAction::Unchanged), "{}", end.summary);
    let status = supervisor.status().expect("a status");
    assert_eq!((status.active.map(|it| it.version), status.quarantined), (before, 0));
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
}

#[test]
fn commits_with_actives_build_cost_no_budget_and_do_not_bypass_the_judge() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    // As many as the evolutions that the usual hourly budget allows.
    let budget = supervisor.status().expect("a status").budget;
    assert_eq!(budget.per_hour, 6);
    for number in 0..budget.per_hour {
        lab.write("README.md", &format!("Words, {number}.\n"));
        let rev = lab.commit_tree("words");
        unchanged(&lab, &mut supervisor, &rev);
    }
    assert_eq!(supervisor.status().expect("a status").budget.left, budget.left);
    // First a commit that only removes the check and changes no build; then a commit that the check would have caught.
    lab.write("checks/default.nix", "{ check, self }: { }\n");
    let rev = lab.commit_tree("no check");
    unchanged(&lab, &mut supervisor, &rev);
    let rev = lab.commit("well 2");
    rejects(&lab, &mut supervisor, &rev, &["protected", "checks/default.nix", "right"]);
    // `rei evolve --wait` reports such a commit as unchanged, and succeeds.
    lab.write("checks/default.nix", CHECKS);
    lab.write("behaviour", "well 1\n");
    lab.write("README.md", "More words.\n");
    let rev = lab.commit_tree("more words");
    let mut evolve = lab.rei();
    let waited =
        evolve.args(["evolve", "--wait", "--rev", &rev, "--config"]).arg(lab.path("rei.toml")).output().unwrap();
    let output = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert_eq!(waited.status.code(), Some(0), "{output}{}", String::from_utf8_lossy(&waited.stderr));
    assert!(output.contains("unchanged") && output.contains("the same as Active's"), "{output}");
    // The build of the rejected commit is in quarantine; another build is promoted.
    let rev = lab.commit("well 3");
    assert_eq!(supervisor.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    assert_eq!(supervisor.stop(), Some(0));
}

/// A candidate that makes its inherited listeners unusable is rejected, and the next, good version does not suffer from it.
fn spoiled_listeners(runtime: &str, more: &str) {
    let Some(lab) = Lab::new() else { return };
    let one_slot = runtime.contains("recreate");
    let promotion = if one_slot { "[promotion]\ncanary = []\nobserve = \"2s\"\n" } else { "" };
    lab.configure_with(&format!("start_timeout = \"4s\"\n{runtime}"), &format!("{promotion}{more}"));
    let mut supervisor = lab.serving();
    // Twice, because each candidate inherits from the one before.
    for round in 0..2 {
        let bad = lab.commit(&format!("poisons {round}"));
        let load = lab.load();
        let end = supervisor.verdict_on(&bad);
        assert!(end.summary.contains("ready in time"), "{}", end.summary);
        let wanted = if one_slot { MaintenanceAction::RolledBack } else { MaintenanceAction::Rejected };
        assert_eq!(end.action, Some(wanted), "{}", end.summary);
        load.none_lost();
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    let good = lab.commit("well 2");
    let load = lab.load();
    let end = supervisor.verdict_on(&good);
    println!("{}", supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    assert_eq!(lab.ask("/"), Ok("2".to_owned()));
    load.none_lost();
    assert!(!supervisor.output().contains("tampered"), "no process tampered");
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn listeners_that_a_rejected_candidate_made_unusable() {
    spoiled_listeners("", "");
}

#[test]
fn listeners_that_a_rejected_candidate_without_isolation_made_unusable() {
    spoiled_listeners("", "[isolation]\nenabled = false\n");
}

/// With one slot for both versions, connections wait meanwhile, and the version before must serve again.
#[test]
fn listeners_that_a_rejected_candidate_made_unusable_for_the_version_before() {
    spoiled_listeners("strategy = \"recreate\"\n", "[isolation]\nenabled = false\n");
}
