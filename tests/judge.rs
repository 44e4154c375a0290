//! The judge with real sandboxed Nix builds: an honest candidate passes, a hostile one fails.
//!
//! The tests need Nix and user namespaces; without them they are skipped and print the reason.

#[expect(dead_code, reason = "uses a part of it")]
mod common;
#[path = "judge/overlap.rs"]
mod overlap;
#[path = "judge/parts.rs"]
mod parts;
#[path = "judge/recorded.rs"]
mod recorded;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use common::programs::{can_build, example};
use common::store;
use rei::config;
use rei::digest;
use rei::golden::{Exchange, Expected, Header, Normaliser, Writer};
use rei::http::Request;
use rei::interface::types::{CandidateId, ReportId, ValidationReport, Verdict, Version};
use rei::nix::Nix;
use rei::time::Timestamp;
use rei::validation::{
    Bound, Built, Error, Facts, FlakeChecks, GoldenFact, Kind, Means, Meta, Plan, TreeFile, Work, execute, plan,
    report, reproduce,
};

/// A store, the program `judged` in it, and the configuration of its runtime.
struct Lab {
    dir: tempfile::TempDir,
    nix: Nix,
    env: Vec<(OsString, OsString)>,
    program: String,
    config: config::Config,
}

impl Lab {
    /// Makes a lab; `None` if this machine has no Nix or no user namespaces.
    async fn open() -> Option<Self> {
        if !can_build() {
            return None;
        }
        // The directory has a prefix, so that the leftovers of a killed test can be recognised.
        let dir = tempfile::Builder::new().prefix("rei-judge-").tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let env = store::environment(&root, "sandbox = true");
        let nix = Nix::locate_in(&root.join("nix-home"), env.clone()).await.unwrap();
        let program = String::new();
        let mut lab = Self { dir, nix, env, program, config: configuration() };
        lab.program = lab.ask("nix-store", &["--add", example("judged").to_str().unwrap()]);
        Some(lab)
    }

    fn means(&self) -> Means<'_> {
        Means { nix: &self.nix, jobs: 2, progress: None }
    }

    fn ask(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).envs(self.env.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A derivation of the program `judged`.
    fn derive(&self, name: &str, does: &str) -> Built {
        self.derive_knowing(name, does, "")
    }

    /// The same, with a text in its file `knows`.
    fn derive_knowing(&self, name: &str, does: &str, knows: &str) -> Built {
        let system = format!("{}-linux", std::env::consts::ARCH);
        let expression = format!(
            "let program = builtins.storePath \"{0}\"; d = derivation {{ name = \"judged-{name}\"; system = \"{system}\"; \
             builder = program; inherit program; args = [ \"{does}\" ]; behaviour = \"{name}\"; knows = \"{knows}\"; }}; \
             in {{ drv = d.drvPath; out = d.outPath; }}",
            self.program
        );
        let text =
            self.ask("nix-instantiate", &["--eval", "--strict", "--json", "--read-write-mode", "-E", &expression]);
        serde_json::from_str(&text).unwrap()
    }

    /// A version with this behaviour.
    fn version(&self, behaviour: &str) -> Version {
        self.version_knowing(behaviour, "")
    }

    fn version_knowing(&self, behaviour: &str, knows: &str) -> Version {
        let Built { drv, out } = self.derive_knowing(behaviour, "make", knows);
        assert_eq!(self.ask("nix-store", &["--realise", &drv]), out);
        Version { store_path: out, rev: behaviour.into(), tree: behaviour.into(), drv }
    }

    /// A golden run of these requests, each with its good answer.
    fn golden(&self, name: &str, asked: &[(&str, Option<&str>)]) -> GoldenFact {
        let path = self.dir.path().join(format!("{name}.golden.jsonl"));
        let mut header = Header::new(name, "http", Timestamp::from_unix_ms(0));
        header.normalisers = vec![Normaliser::Ignore { pointer: "/pid".into() }];
        let mut writer = Writer::create(&path, &header).unwrap();
        for (ask, good) in asked {
            let good = good.map(|body| Expected { status: 200, headers: vec![], body: Some(body.as_bytes().to_vec()) });
            writer
                .push(Exchange { request: Request::get(*ask), response: good, after_ms: 0, ..Exchange::default() })
                .unwrap();
        }
        writer.finish().unwrap();
        let sha256 = digest::sha256_of_file(&path).unwrap();
        GoldenFact {
            name: name.into(),
            listener: "http".into(),
            bodies: rei::golden::directory_if_any(&path),
            path,
            sha256,
        }
    }

    /// The store path at which the judge reads a golden run; it can be computed from the file.
    fn place(&self, run: &GoldenFact) -> String {
        let expression = format!(
            "builtins.unsafeDiscardStringContext (builtins.path {{ path = \"{}\"; name = \"{}.golden.jsonl\"; recursive = false; }})",
            run.path.display(),
            run.name
        );
        let text = self.ask("nix-instantiate", &["--eval", "--json", "--read-write-mode", "-E", &expression]);
        serde_json::from_str(&text).unwrap()
    }

    fn greeting(&self) -> GoldenFact {
        self.golden("greeting", &[("/healthz", Some("yes")), ("/greet", Some(r#"{"id":"1","hello":"world","pid":0}"#))])
    }

    fn facts(&self, candidate: &Version, active: &Version) -> Facts {
        Facts {
            candidate: candidate.clone(),
            active: active.clone(),
            active_checks: Ok(FlakeChecks::new()),
            candidate_checks: Ok(FlakeChecks::new()),
            active_files: vec![],
            candidate_files: vec![],
            golden: vec![],
            reproduction: None,
            rei: self.program.clone().into(),
            nonce: String::new(),
        }
    }

    async fn judge(&self, facts: &Facts) -> ValidationReport {
        let mut plan = plan(&self.config, facts);
        quicken(&mut plan);
        let findings = execute(&plan, &bound(facts), self.means()).await.unwrap();
        report(&plan, &findings, meta())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A store is read-only, so a plain user could not remove it.
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).output();
    }
}

fn bound(facts: &Facts) -> Bound {
    Bound { store_path: facts.candidate.store_path.clone(), active_store_path: facts.active.store_path.clone() }
}

fn meta() -> Meta {
    let at = Timestamp::from_unix_ms(0);
    Meta { id: ReportId::numbered(1), candidate_id: CandidateId::numbered(1), started_at: at, finished_at: at }
}

/// Sets short time limits, for checks that are late on purpose; honest candidates need only a small part of them.
fn quicken(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let Work::Sandboxed { spec, .. } = &mut step.work {
            match &mut spec.kind {
                Kind::Golden(golden) | Kind::Qualify(golden) => golden.request_timeout_ms = 2_000,
                Kind::Reproduction(reproduction) => reproduction.request_timeout_ms = 2_000,
                Kind::Control | Kind::Boot => {}
            }
        }
    }
}

fn configuration() -> config::Config {
    let text = r#"
        [runtime]
        name = "judged"
        source = "/nowhere"
        command = ["bin/judged"]
        listen = ["http=127.0.0.1:8080"]
        start_timeout = "4s"
        stop_timeout = "3s"
        [health]
        http = { path = "/healthz", timeout = "1s" }
        [promotion]
        canary = []
        [validation]
        protected = ["flake.nix", "tests/**"]
        timeout = "5m"
    "#;
    let place = config::Place { directory: "/nowhere".into(), root: true, state_home: None };
    config::Config::from_toml(text, &place).unwrap()
}

fn verdict_of(report: &ValidationReport, check: &str) -> Verdict {
    report.checks.iter().find(|result| result.name == check).map(|result| result.verdict).expect(check)
}

fn word(report: &ValidationReport, check: &str) -> String {
    let result = report.checks.iter().find(|result| result.name == check).expect(check);
    format!("{}\n{}", result.summary, result.details.join("\n"))
}

#[tokio::test]
async fn an_honest_repair_passes_every_check_and_a_repeat_builds_nothing() {
    let Some(lab) = Lab::open().await else { return };
    let (active, repaired) = (lab.version("ok"), lab.version("fixed"));
    let mut facts = lab.facts(&repaired, &active);
    let check = lab.derive("check", "make");
    facts.active_checks = Ok([("tests".to_owned(), Some(check.clone()))].into());
    facts.candidate_checks = Ok([("tests".to_owned(), Some(check))].into());
    facts.golden = vec![lab.greeting()];
    facts.reproduction = Some(lab.golden("incident", &[("/greet", None), ("/crash", None)]));
    let file = |object: &str| TreeFile { path: "flake.nix".into(), object: object.into() };
    (facts.active_files, facts.candidate_files) = (vec![file("a")], vec![file("a")]);
    let report = lab.judge(&facts).await;
    assert_eq!(report.verdict, Verdict::Pass, "{report:#?}");
    let names: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["sandbox", "protected", "unit/tests", "boot", "golden/greeting", "reproduction"]);
    assert!(
        report.checks.iter().filter(|check| check.name.contains("golden")).all(|check| check.duration_ms.is_some())
    );
    let again = lab.judge(&facts).await;
    assert_eq!(again.verdict, Verdict::Pass);
    assert!(again.checks.iter().all(|check| check.duration_ms.is_none()), "{again:#?}");

    let run = facts.reproduction.clone().unwrap();
    let run_result = reproduce(&lab.config, &active, &run, Path::new(&lab.program), "1", lab.means()).await.unwrap();
    assert_eq!(
        (run_result.tries, run_result.failures, run_result.reproduces),
        (3, 3, Some(true)),
        "{}",
        run_result.detail
    );
    let run_result = reproduce(&lab.config, &repaired, &run, Path::new(&lab.program), "1", lab.means()).await.unwrap();
    assert_eq!(run_result.reproduces, Some(false), "{}", run_result.detail);
}

#[tokio::test]
async fn late_wrong_and_missing_answers_fail_and_are_named() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("ok");
    let cases = [
        ("wrong", "golden/greeting", r#"body/hello: recorded "world", answered "wurld""#),
        ("slow", "golden/greeting", "no complete answer"),
        ("dies_after", "golden/greeting", "ended with exit code 0"),
        ("never_ready", "boot", "it was not ready within 4000 ms: GET /healthz answers 503"),
        ("ignores_term", "boot", "it did not stop within 3000 ms of SIGTERM"),
        (
            "forks",
            "boot",
            "ended with exit code 0 (its child process still runs: the program must stay in the foreground)",
        ),
        ("says_passed", "boot", "it ended with exit code 0 before it was ready\nit printed: all 12 checks passed"),
    ];
    for (behaviour, check, reason) in cases {
        let mut facts = lab.facts(&lab.version(behaviour), &active);
        facts.golden = vec![GoldenFact { path: lab.dir.path().join("greeting.golden.jsonl"), ..golden_once(&lab) }];
        let report = lab.judge(&facts).await;
        assert_eq!(
            (report.verdict, verdict_of(&report, check)),
            (Verdict::Fail, Verdict::Fail),
            "{behaviour}: {report:#?}"
        );
        assert!(word(&report, check).contains(reason), "{behaviour}: {report:#?}");
    }
    // An incident that is not repaired, an incident that Active does not have, and a check that fails or is missing.
    let mut facts = lab.facts(&lab.version("wrong"), &active);
    facts.reproduction = Some(lab.golden("crash", &[("/crash", None)]));
    let failing = lab.derive("failing", "fail");
    facts.active_checks = Ok([("gone".to_owned(), None)].into());
    facts.candidate_checks = Ok([("failing".to_owned(), Some(failing))].into());
    let report = lab.judge(&facts).await;
    assert_eq!(verdict_of(&report, "reproduction"), Verdict::Fail, "{report:#?}");
    assert!(word(&report, "reproduction").contains("SIGABRT"), "{report:#?}");
    assert_eq!(verdict_of(&report, "unit/gone"), Verdict::Fail);
    assert_eq!(verdict_of(&report, "unit/failing"), Verdict::Fail);
    assert!(word(&report, "unit/failing").contains("one test failed"), "{report:#?}");
    facts.reproduction = Some(lab.golden("harmless", &[("/greet", None)]));
    assert_eq!(verdict_of(&lab.judge(&facts).await, "reproduction"), Verdict::Inconclusive);
}

/// The golden run of the table, written once.
fn golden_once(lab: &Lab) -> GoldenFact {
    let path = lab.dir.path().join("greeting.golden.jsonl");
    if !path.exists() {
        return lab.greeting();
    }
    let sha256 = digest::sha256_of_file(&path).unwrap();
    GoldenFact {
        name: "greeting".into(),
        listener: "http".into(),
        bodies: rei::golden::directory_if_any(&path),
        path,
        sha256,
    }
}

#[tokio::test]
async fn a_hostile_candidate_does_not_pass() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("ok");
    let golden = lab.greeting();
    let place = lab.place(&golden);
    let cases: [(&str, &[&str]); 3] = [
        ("writes_verdict", &["make a path in the store", "write outside its directory", "write into /tmp"]),
        ("reads_answers", &["read the golden run", "open the judge's memory", "open a descriptor of the judge"]),
        ("kills_judge", &["kill the judge", "stop the judge", "trace the judge"]),
    ];
    for (behaviour, attempts) in cases {
        let mut facts = lab.facts(&lab.version_knowing(behaviour, &place), &active);
        facts.golden = vec![golden.clone()];
        let report = lab.judge(&facts).await;
        assert_eq!(verdict_of(&report, "golden/greeting"), Verdict::Fail, "{behaviour}: {report:#?}");
        // The whole log, because a verdict quotes only its end.
        let drv =
            report.checks.iter().find(|check| check.name == "golden/greeting").and_then(|check| check.drv.clone());
        let log = lab.ask("nix-store", &["--read-log", &drv.unwrap()]);
        for attempt in attempts {
            // The attempt must fail because of a missing permission, not because of a wrong path.
            let refused = ["Permission denied", "Operation not permitted", "EPERM", "EACCES"];
            let tried = |line: &&str| line.starts_with(&format!("{attempt}: "));
            let lines: Vec<&str> = log.lines().filter(tried).collect();
            assert!(!lines.is_empty(), "{behaviour} must have tried to {attempt}: {log}");
            assert!(lines.iter().all(|line| refused.iter().any(|word| line.contains(word))), "{lines:?}");
        }
        assert!(!log.contains("SUCCEEDED"), "{behaviour}: {log}");
    }
}

#[tokio::test]
async fn without_a_sandbox_nothing_is_judged() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("ok");
    let facts = lab.facts(&active, &active);
    // A Nix that ignores its options: the builder itself finds that it is not process 1 of a sandbox.
    let unsandboxed =
        Command::new(&lab.program).arg("builder").env_clear().env("out", lab.dir.path().join("out")).output().unwrap();
    assert_eq!(unsandboxed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unsandboxed.stderr).contains("this is no Nix sandbox"));
    assert!(!lab.dir.path().join("out").exists());
    // An old plan is refused, and so is a golden run that has changed since.
    let plan_now = plan(&lab.config, &facts);
    let elsewhere = Bound { active_store_path: "/nix/store/other".into(), ..bound(&facts) };
    assert!(matches!(execute(&plan_now, &elsewhere, lab.means()).await, Err(Error::Stale { .. })));
    let mut changed = facts.clone();
    // Content that the store already has by its hash is not read again.
    changed.golden = vec![lab.golden("changing", &[("/greet", None)])];
    std::fs::write(&changed.golden[0].path, "another").unwrap();
    let error = execute(&plan(&lab.config, &changed), &bound(&changed), lab.means()).await.unwrap_err();
    assert!(matches!(error, Error::Nix(_)) && error.hint().is_some(), "{error}");
    // A builder that cannot judge makes the verdict inconclusive, also for the flake's own checks.
    let mut broken = facts.clone();
    broken.rei = lab.dir.path().join("no-program");
    std::fs::write(&broken.rei, "not executable").unwrap();
    broken.candidate_checks = Ok([("failing".to_owned(), Some(lab.derive("failing", "fail")))].into());
    let report = lab.judge(&broken).await;
    assert_eq!(report.verdict, Verdict::Inconclusive, "{report:#?}");
}
