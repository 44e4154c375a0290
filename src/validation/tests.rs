use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::config::{self, Config};
use crate::interface::types::{CandidateId, ReportId, ValidationReport, Verdict, Version};
use crate::time::Timestamp;

fn config() -> Config {
    let text = r#"
        [runtime]
        name = "greeter"
        source = "/srv/greeter"
        command = ["bin/greeter"]
        listen = ["http=127.0.0.1:8080", "dns=udp:127.0.0.1:53"]
        [promotion]
        canary = []
        [validation]
        protected = ["flake.nix", "tests/**"]
    "#;
    let place = config::Place { directory: "/etc/rei".into(), root: true, state_home: None };
    Config::from_toml(text, &place).unwrap()
}

fn version(name: &str) -> Version {
    let path = format!("/nix/store/{name}-greeter");
    Version { drv: format!("{path}.drv"), store_path: path, rev: format!("{name}-rev"), tree: format!("{name}-tree") }
}

fn golden(name: &str, listener: &str) -> GoldenFact {
    let path = PathBuf::from(format!("/srv/golden/{name}.golden.jsonl"));
    GoldenFact { name: name.into(), listener: listener.into(), path, sha256: "00".into(), bodies: None }
}

fn built(name: &str) -> Option<Built> {
    Some(Built { drv: format!("/nix/store/{name}.drv"), out: format!("/nix/store/{name}") })
}

fn checks(names: &[(&str, Option<Built>)]) -> FlakeChecks {
    names.iter().map(|(name, built)| ((*name).to_owned(), built.clone())).collect()
}

fn files(entries: &[(&str, &str)]) -> Vec<TreeFile> {
    entries.iter().map(|(path, object)| TreeFile { path: (*path).into(), object: (*object).into() }).collect()
}

fn facts() -> Facts {
    Facts {
        candidate: version("new"),
        active: version("old"),
        active_checks: Ok(checks(&[("tests", built("tests-old")), ("lint", built("lint"))])),
        candidate_checks: Ok(checks(&[("tests", built("tests-new")), ("lint", built("lint"))])),
        active_files: files(&[("flake.nix", "1"), ("src/a", "2"), ("tests/x/y", "3")]),
        candidate_files: files(&[("flake.nix", "1"), ("src/a", "9"), ("tests/x/y", "3")]),
        golden: vec![golden("greeting", "http")],
        reproduction: Some(golden("incident", "http")),
        rei: "/nix/store/x-rei".into(),
        nonce: String::new(),
    }
}

fn meta() -> Meta {
    let at = Timestamp::from_unix_ms(0);
    Meta { id: ReportId::numbered(1), candidate_id: CandidateId::numbered(1), started_at: at, finished_at: at }
}

/// What a step's builder would say when all is well.
fn well(step: &Step) -> StepOutcome {
    let drv = "/nix/store/check.drv".to_owned();
    match &step.work {
        Work::Decided { .. } => StepOutcome::None,
        Work::Build(_) => StepOutcome::Built { drv, verdict: None, reused: false },
        Work::Sandboxed { .. } => {
            StepOutcome::Built { drv, verdict: Some(said(&step.id.to_string(), Verdict::Pass)), reused: false }
        }
    }
}

fn said(check: &str, verdict: Verdict) -> Vec<u8> {
    let schema = "rei-verdict/1.0".into();
    let (summary, details, figures) = ("said".into(), vec![], BTreeMap::new());
    let file = VerdictFile { schema, check: check.into(), verdict, summary, details, duration_ms: 5, figures };
    serde_json::to_vec(&file).unwrap()
}

fn judged(facts: &Facts, change: impl Fn(&Step, StepOutcome) -> StepOutcome) -> ValidationReport {
    let plan = plan(&config(), facts);
    let findings: Vec<StepOutcome> = plan.steps.iter().map(|step| change(step, well(step))).collect();
    report(&plan, &findings, meta())
}

/// Verdict and summary of one check.
fn word(report: &ValidationReport, name: &str) -> (Verdict, String) {
    let check = report.checks.iter().find(|check| check.name == name).expect(name);
    (check.verdict, check.summary.clone())
}

#[test]
fn a_plan_can_be_read_and_stored() {
    let made = plan(&config(), &facts());
    insta::assert_snapshot!(made.to_string());
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made);
    assert_eq!(judged(&facts(), |_, finding| finding).verdict, Verdict::Pass);
}

#[test]
fn a_reproduction_alone_is_one_step_against_active() {
    let run = golden("incident", "http");
    let made =
        super::plan::plan_reproduction(&config(), &version("old"), &run, "/nix/store/x-rei".into(), String::new());
    let [step] = made.steps.as_slice() else { panic!("{made}") };
    let Work::Sandboxed { spec, inputs } = &step.work else { panic!("{made}") };
    assert_eq!((&step.id, spec.check.as_str()), (&StepId::Reproduction, "reproduction"));
    assert_eq!(inputs.keys().copied().collect::<Vec<_>>(), [InputName::Active, InputName::Golden]);
}

/// Flakes write specs by hand, and derivations outlive a version of rei.
#[test]
fn the_data_of_a_kind_stands_beside_it() {
    let text = |check: &str, kind: Kind| {
        let mut spec = CheckSpec::new(&StepId::try_from(check.to_owned()).unwrap(), kind, &config());
        spec.instance = InstanceSpec::default();
        serde_json::to_value(spec).unwrap()
    };
    let golden = text("golden/greeting", Kind::Golden(GoldenSpec::default()));
    assert_eq!((&golden["kind"], &golden["request_timeout_ms"]), (&"golden".into(), &10_000.into()));
    let mut again = text("reproduction", Kind::Reproduction(ReproductionSpec::default()));
    again.as_object_mut().unwrap().remove("tries");
    let read: CheckSpec = serde_json::from_value(again).unwrap();
    assert_eq!(read.kind, Kind::Reproduction(ReproductionSpec::default()), "a spec of before has no tries");
    let mut boot = text("boot", Kind::Boot);
    boot.as_object_mut().unwrap().insert("request_timeout_ms".into(), 5.into());
    assert_eq!(
        serde_json::from_value::<CheckSpec>(boot).unwrap().kind,
        Kind::Boot,
        "a spec of before has a time too many"
    );
}

#[test]
fn every_kind_has_an_expression() {
    let expressions = include_str!("../../checks/default.nix");
    let kinds = [
        Kind::Control,
        Kind::Boot,
        Kind::Golden(GoldenSpec::default()),
        Kind::Reproduction(ReproductionSpec::default()),
    ];
    for kind in kinds {
        let word = serde_json::to_value(&kind).unwrap()["kind"].as_str().unwrap().to_owned();
        assert!(expressions.contains(&format!("\n  {word} =")), "checks/default.nix has no {word}");
    }
}

#[test]
fn a_plan_says_what_it_was_made_from() {
    let digest = |facts: &Facts| plan(&config(), facts).made_from.digest;
    let (same, mut other) = (facts(), facts());
    assert_eq!(digest(&same), digest(&facts()));
    other.candidate_files = files(&[]);
    assert_ne!(digest(&same), digest(&other));
    let mut again = facts();
    again.nonce = "2".into();
    assert_eq!(digest(&same), digest(&again), "a repetition is made from the same facts");
}

#[test]
fn protected_files_may_not_be_changed_removed_or_added() {
    let mut facts = facts();
    facts.candidate_files = files(&[("flake.nix", "7"), ("src/a", "2"), ("tests/new", "3")]);
    let report = judged(&facts, |_, finding| finding);
    let check = report.checks.iter().find(|check| check.name == "protected").unwrap();
    assert_eq!(check.details, ["changed: flake.nix", "removed: tests/x/y", "added: tests/new"]);
    assert_eq!(report.verdict, Verdict::Fail);
}

#[test]
fn a_check_that_is_gone_or_throws_fails_and_is_named() {
    let mut facts = facts();
    facts.candidate_checks = Ok(checks(&[("lint", None), ("testz", built("t"))]));
    let report = judged(&facts, |_, finding| finding);
    let name = "unit/tests";
    assert_eq!(
        word(&report, name),
        (Verdict::Fail, "Active's flake has the check \"tests\", and the candidate's has not".into())
    );
    assert_eq!(word(&report, "unit/lint").0, Verdict::Fail);
    assert_eq!(word(&report, "unit/testz").0, Verdict::Pass, "an added check is asked too");

    facts.candidate_checks = Err("error: abort".into());
    assert_eq!(word(&judged(&facts, |_, finding| finding), "unit").0, Verdict::Fail);
    // If even Active's checks are not known, the candidate is not the cause.
    facts.active_checks = Err("no daemon".into());
    assert_eq!(word(&judged(&facts, |_, finding| finding), "unit").0, Verdict::Inconclusive);
}

#[test]
fn what_cannot_be_asked_is_not_passed() {
    let mut facts = facts();
    facts.golden = vec![golden("nowhere", "admin"), golden("datagrams", "dns")];
    let report = judged(&facts, |_, finding| finding);
    assert_eq!(word(&report, "golden/nowhere").0, Verdict::Inconclusive);
    assert_eq!(word(&report, "golden/datagrams").0, Verdict::Inconclusive);
    assert_eq!(report.verdict, Verdict::Inconclusive);

    for program in ["/bin/sh", "../x", ""] {
        let mut config = config();
        config.runtime.command = vec![program.into()];
        let made = plan(&config, &facts);
        let boot = made.steps.iter().find(|step| step.id == StepId::Boot).unwrap();
        assert!(matches!(boot.work, Work::Decided { verdict: Verdict::Fail, .. }), "{program:?}");
    }
}

#[test]
fn only_its_own_whole_verdict_is_a_pass() {
    let cases: [(Option<Vec<u8>>, Verdict); 8] = [
        (Some(said("boot", Verdict::Pass)), Verdict::Pass),
        (Some(said("boot", Verdict::Fail)), Verdict::Fail),
        (None, Verdict::Inconclusive),
        (Some(b"".to_vec()), Verdict::Inconclusive),
        (Some(b"passed".to_vec()), Verdict::Inconclusive),
        (Some(said("golden/greeting", Verdict::Pass)), Verdict::Inconclusive),
        (Some(said("boot", Verdict::Pass)[..40].to_vec()), Verdict::Inconclusive),
        (
            Some(String::from_utf8(said("boot", Verdict::Pass)).unwrap().replace("/1.0", "/9.0").into()),
            Verdict::Inconclusive,
        ),
    ];
    for (verdict, expected) in cases {
        let report = judged(&facts(), |step, finding| match &step.id {
            StepId::Boot => StepOutcome::Built { drv: "d".into(), verdict: verdict.clone(), reused: false },
            _ => finding,
        });
        assert_eq!((word(&report, "boot").0, report.verdict), (expected, expected), "{report:#?}");
    }
}

#[test]
fn where_the_control_was_not_built_a_failed_check_says_nothing() {
    let failed = |finding: StepOutcome, is: bool| {
        if is { StepOutcome::Failed { drv: "d".into(), log: vec![] } } else { finding }
    };
    let alone = judged(&facts(), |step, finding| failed(finding, step.id == StepId::Unit("tests".into())));
    assert_eq!((word(&alone, "unit/tests").0, alone.verdict), (Verdict::Fail, Verdict::Fail));
    let all = judged(&facts(), |_, finding| failed(finding, true));
    assert_eq!((word(&all, "unit/tests").0, all.verdict), (Verdict::Inconclusive, Verdict::Inconclusive));
}

#[test]
fn too_few_findings_never_pass() {
    let made = plan(&config(), &facts());
    let findings: Vec<StepOutcome> = made.steps.iter().map(well).collect();
    for n in 0..findings.len() {
        assert_eq!(report(&made, &findings[..n], meta()).verdict, Verdict::Inconclusive, "{n} findings");
    }
    let nothing = Plan { steps: vec![], ..made };
    assert_eq!(report(&nothing, &[], meta()).verdict, Verdict::Inconclusive, "nothing checked is no pass");
}
