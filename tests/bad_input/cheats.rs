//! Commits that try to pass without being right: a check catches each of them, the commit is rejected and quarantined, and Active
//! does not change.

use crate::lab::{CHECKS, FLAKE, Lab, Supervisor, system};
use crate::upgrade::rejects;

/// The checks of a service with two of them.
const TWO: &str = r#"{ check, self }: {
  right = check { name = "right"; try = "reads"; subject = "${../behaviour}"; };
  also = check { name = "also"; try = "passes"; };
}
"#;

/// Checks like those of a test runner that runs the tests that it finds: it runs the hard check only if its file exists.
const FOUND: &str = r#"{ check, self }: {
  right = check {
    name = "right"; subject = "${../behaviour}";
    try = if builtins.pathExists ../tests/hard.sh then "reads" else "passes";
  };
}
"#;

/// A service with two checks and a golden run.
fn guarded(protected: &str) -> Option<(Lab, Supervisor)> {
    guarded_by(TWO, protected)
}

/// A service with these checks and a golden run.
fn guarded_by(checks: &str, protected: &str) -> Option<(Lab, Supervisor)> {
    let lab = Lab::new()?;
    lab.write("checks/default.nix", checks);
    lab.write("tests/hard.sh", "the hard one\n");
    lab.commit_tree("checks");
    std::fs::create_dir(lab.path("golden")).unwrap();
    let mut header = rei::golden::Header::new("answers", "http", rei::time::Timestamp::from_unix_ms(0));
    header.normalisers = Vec::new();
    let path = lab.path("golden/answers.golden.jsonl");
    let mut writer = rei::golden::Writer::create(&path, &header).unwrap();
    let response = Some(rei::golden::Expected { status: 200, headers: vec![], body: Some(b"42".to_vec()) });
    writer
        .push(rei::golden::Exchange {
            request: rei::http::Request::get("/answer"),
            response,
            ..rei::golden::Exchange::default()
        })
        .unwrap();
    writer.finish().unwrap();
    // The built-in blueprint runs the flake's checks itself; here only the judge runs them.
    std::fs::create_dir(lab.path("blueprints")).unwrap();
    let follow = "version: 1\nname: follow\nstages:\n  - id: follow\n    type: deterministic\n    action: checkout\n    \
                  outputs: [commit]\n    on_success: done\n";
    std::fs::write(lab.path("blueprints/follow.yaml"), follow).unwrap();
    lab.configure(&format!(
        "[validation]\ngolden = [\"golden\"]\nprotected = [{protected}]\n[blueprints]\ndirectory = \"blueprints\"\n\
         upgrade = \"follow\"\n[evolution]\nbudget = {{ per_incident = 3, per_hour = 60 }}"
    ));
    let supervisor = lab.serving();
    Some((lab, supervisor))
}

/// The commit must be rejected with these words and be in quarantine.
fn caught(lab: &Lab, supervisor: &mut Supervisor, rev: &str, words: &[&str]) {
    let summary = rejects(lab, supervisor, rev, words);
    let quarantine = supervisor.operator(async |client| client.quarantine().await.unwrap()).unwrap();
    let tree = lab.git(&["rev-parse", &format!("{rev}^{{tree}}")]);
    assert!(quarantine.iter().any(|entry| entry.tree == tree.trim()), "not in quarantine: {summary}\n{quarantine:#?}");
}

#[test]
fn a_protected_file_is_edited() {
    let Some((lab, mut supervisor)) = guarded("\"checks/**\", \"flake.nix\", \"golden/**\"") else { return };
    // The check now reads another file.
    lab.write("checks/default.nix", &CHECKS.replace("../behaviour", "../flake.nix"));
    let rev = lab.commit("wrong 2");
    caught(&lab, &mut supervisor, &rev, &["unit", "checks/default.nix"]);
    // The flake's checks become `true`.
    lab.git(&["checkout", "--quiet", "HEAD~1", "--", "checks"]);
    let flake = FLAKE.replace("check = attributes: make", "check = attributes: let try = \"passes\"; in make");
    lab.write(
        "flake.nix",
        &flake
            .replace("// attributes); in", "// attributes // { try = \"passes\"; }); in")
            .replace("SYSTEM", &system()),
    );
    let rev = lab.commit("wrong 3");
    caught(&lab, &mut supervisor, &rev, &["unit", "flake.nix"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_check_is_deleted_and_no_file_is_protected() {
    let Some((lab, mut supervisor)) = guarded("") else { return };
    lab.write("checks/default.nix", "{ check, self }: { also = check { name = \"also\"; try = \"passes\"; }; }");
    let rev = lab.commit("wrong 2");
    caught(&lab, &mut supervisor, &rev, &["unit", "right"]);
    lab.write("checks/default.nix", "{ check, self }: { }");
    let rev = lab.commit("wrong 3");
    caught(&lab, &mut supervisor, &rev, &["unit", "right"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_check_lies() {
    let Some((lab, mut supervisor)) = guarded("") else { return };
    // It prints that it passed, and exits successfully without an output.
    lab.write("checks/default.nix", &CHECKS.replace("\"reads\"", "\"says passed\""));
    let rev = lab.commit("wrong 2");
    rejects(&lab, &mut supervisor, &rev, &["right"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn checks_are_patched_to_true_and_no_file_is_protected() {
    let Some((lab, mut supervisor)) = guarded("") else { return };
    lab.write(
        "checks/default.nix",
        "{ check, self }: { right = check { name = \"right\"; try = \"passes\"; }; also = check { name = \"also\"; try = \"passes\"; }; }",
    );
    let rev = lab.commit("wrong_answer 2");
    // The operator's own checks remain.
    caught(&lab, &mut supervisor, &rev, &["golden/answers", "41"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_golden_run_in_the_tree_is_not_used() {
    let Some((lab, mut supervisor)) = guarded("\"checks/**\"") else { return };
    std::fs::create_dir(lab.path("repo/golden")).unwrap();
    let golden = std::fs::read_to_string(lab.path("golden/answers.golden.jsonl")).unwrap();
    lab.write("golden/answers.golden.jsonl", &golden.replace("42", "41"));
    let rev = lab.commit("wrong_answer 2");
    caught(&lab, &mut supervisor, &rev, &["golden/answers", "42", "41"]);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn the_output_and_exit_code_of_a_candidate_are_no_verdict() {
    let Some((lab, mut supervisor)) = guarded("\"checks/**\"") else { return };
    for (behaviour, words) in [
        ("says_passed 2", ["boot", "ended"]),
        ("writes_verdict 2", ["boot", "ended"]),
        ("wrong_answer 2", ["golden/answers", "41"]),
    ] {
        println!("== {behaviour}");
        let rev = lab.commit(behaviour);
        caught(&lab, &mut supervisor, &rev, &words);
    }
    // Another commit with the same content is not even built.
    let status = supervisor.status().unwrap();
    lab.git(&["commit", "--quiet", "--allow-empty", "--message", "the same again"]);
    let rev = lab.git(&["rev-parse", "HEAD"]);
    let line = supervisor.says(&rev[..12]);
    println!("{line}");
    assert!(line.contains("quarantine"), "{line}");
    let after = supervisor.status().unwrap();
    assert_eq!(status.active.map(|it| it.version), after.active.map(|it| it.version));
    assert_eq!(supervisor.stop(), Some(0));
}

/// With attributes in the tree `git archive` would leave a file out. rei must build the same files that it compares.
#[test]
fn a_protected_test_is_hidden_by_an_attribute() {
    let protected = "\"checks/**\", \"tests/**\", \"flake.nix\"";
    let Some((lab, mut supervisor)) = guarded_by(FOUND, protected) else { return };
    let rev = lab.commit("wrong 2");
    caught(&lab, &mut supervisor, &rev, &["right"]);
    lab.write(".gitattributes", "tests/hard.sh export-ignore\n");
    let rev = lab.commit("wrong 3");
    caught(&lab, &mut supervisor, &rev, &["right"]);
    assert_eq!(supervisor.stop(), Some(0));
}
