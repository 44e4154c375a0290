//! A commit that cannot become a version: it is rejected with a reason, and Active is as it was.

use rei::interface::types::MaintenanceAction;

use crate::lab::{FLAKE, Lab, system};

/// Commits something bad on a running service: it is rejected with these words, and no request is lost.
fn rejects(lab: &Lab, commit: impl FnOnce(&Lab) -> String, words: &[&str]) {
    let mut supervisor = lab.serving();
    let before = supervisor.status().and_then(|it| it.active).map(|it| it.version);
    let load = lab.load();
    let rev = commit(lab);
    let end = supervisor.verdict_on(&rev);
    println!("{}", end.summary);
    assert_eq!(end.action, Some(MaintenanceAction::Rejected), "{}", end.summary);
    for word in words {
        assert!(end.summary.contains(word), "{word:?} is not in:\n{}", end.summary);
    }
    assert_eq!(supervisor.status().and_then(|it| it.active).map(|it| it.version), before);
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    load.none_lost();
    // What follows is taken as if nothing had been.
    lab.write("flake.nix", &FLAKE.replace("SYSTEM", &system()));
    let good = lab.commit("well 2");
    let end = supervisor.verdict_on(&good);
    println!("{}", supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_commit_that_does_not_evaluate() {
    let Some(lab) = Lab::new() else { return };
    let commit = |lab: &Lab| {
        lab.write("flake.nix", "{ outputs = { self }: { packages = nonsense; }; }");
        lab.commit_tree("nonsense")
    };
    rejects(&lab, commit, &["undefined variable", "nonsense"]);
}
