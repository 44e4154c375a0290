//! Whole runs, with real repositories and real agents, most of them hostile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::job::{
    Blame, CheckResult, Checker, Checkpoint, Decision, Job, Journal, RunOutcome, StageEvent, StageEventKind,
};
use super::library::Library;
use super::{Error, parse, run};
use crate::config::types::Agent;
use crate::interface::types::CandidateId;
use crate::redact::Secrets;
use crate::source::testing::Repository;
use crate::source::{Mirror, ObjectId};
use crate::time::Timestamp;

mod keys;
mod repeats;

/// A judge that checks for files in the commit: with `good` it builds, with `tested` the tests pass.
struct Bench<'a> {
    mirror: &'a Mirror,
    asked: RefCell<Vec<String>>,
}

impl Bench<'_> {
    async fn has(&self, what: &str, commit: &ObjectId, path: &str) -> CheckResult {
        self.asked.borrow_mut().push(format!("{what} {commit}"));
        let kept = self.mirror.candidate(&CandidateId::numbered(1)).await.unwrap();
        assert_eq!(kept.as_ref(), Some(commit), "only commits under a ref are built");
        let ok = self.mirror.files(commit).await.unwrap().iter().any(|file| file.path == Path::new(path));
        let summary = format!("{what}: {path} is {}", if ok { "there" } else { "missing" });
        let (log, product) = (format!("log of {what}"), ok.then(|| "/nix/store/x".into()));
        CheckResult { ok, summary, log, product, blame: Blame::Content }
    }
}

impl Checker for Bench<'_> {
    async fn build(&self, commit: &ObjectId) -> CheckResult {
        self.has("build", commit, "good").await
    }
    async fn test(&self, commit: &ObjectId) -> CheckResult {
        self.has("test", commit, "tested").await
    }
    async fn lint(&self, commit: &ObjectId) -> CheckResult {
        self.has("lint", commit, "good").await
    }
}

#[derive(Default)]
struct Events(Vec<StageEvent>);

impl Journal for Events {
    async fn record(&mut self, event: StageEvent) {
        // Serialise it, because a restarted supervisor reads it from the journal.
        let text = serde_json::to_string(&event.checkpoint).unwrap();
        assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), event.checkpoint);
        self.0.push(event);
    }
}

impl Events {
    fn ended(&self) -> Vec<String> {
        let sign = |kind| match kind {
            StageEventKind::Started => "?",
            StageEventKind::Completed => "+",
            StageEventKind::Failed => "-",
        };
        let ended = self.0.iter().filter(|event| event.kind != StageEventKind::Started);
        ended.map(|event| format!("{}{}", sign(event.kind), event.stage)).collect()
    }

    fn summary(&self, stage: &str) -> String {
        self.0.iter().rfind(|event| event.stage == stage).unwrap().summary.clone()
    }
}

struct World {
    repository: Repository,
    state: tempfile::TempDir,
    job: Job,
}

const ONE_AGENT: &str =
    "version: 1\nname: one\nstages:\n  - {id: work, type: agent, goal: Do it, outputs: [patch], retry_limit: 0}\n";

impl World {
    async fn new(blueprint: &str, script: &str) -> Self {
        let repository = Repository::new();
        repository.commit(&[("file", "old\n"), ("dir/deep", "x\n")], "base");
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        let active = mirror.fetch().await.unwrap();
        let incident = state.path().join("incidents/inc_0001");
        std::fs::create_dir_all(incident.join("logs")).unwrap();
        std::fs::write(incident.join("context.json"), r#"{"id":"ctx_0001","missing":[]}"#).unwrap();
        std::fs::write(incident.join("logs/tail.log"), "panicked at 'boom'").unwrap();
        let job = Job {
            run_id: "run_0001".into(),
            blueprint: parse(blueprint).unwrap(),
            mirror,
            candidate: CandidateId::numbered(1),
            active,
            followed: None,
            context: Some(incident),
            message: "repair inc_0001".into(),
            at: Timestamp::from_unix_ms(1_700_000_000_000),
            flake_dir: String::new(),
            agents: BTreeMap::from([("fixer".to_owned(), agent(script))]),
            commands: BTreeMap::new(),
            state_dir: state.path().to_owned(),
            secrets: Secrets::default(),
            facts: vec!["it crashed".into()],
            asked_before: Vec::new(),
            refused_before: Vec::new(),
            quarantine: BTreeMap::new(),
            timeout: Duration::from_secs(120),
        };
        Self { repository, state, job }
    }

    async fn run_from(&self, checkpoint: Option<Checkpoint>) -> (Result<RunOutcome, Error>, Events, Vec<String>) {
        let bench = Bench { mirror: &self.job.mirror, asked: RefCell::default() };
        let mut events = Events::default();
        let outcome = run(&self.job, checkpoint, &bench, &mut events).await;
        (outcome, events, bench.asked.into_inner())
    }

    async fn run(&self) -> (RunOutcome, Events) {
        let (outcome, events, _) = self.run_from(None).await;
        (outcome.unwrap(), events)
    }

    async fn changed(&self, outcome: &RunOutcome) -> Vec<String> {
        let RunOutcome::Done { commit } = outcome else { panic!("{outcome:?}") };
        let paths = self.job.mirror.changed(&self.job.active, commit).await.unwrap();
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    fn run_dir(&self) -> PathBuf {
        self.state.path().join("runs/run_0001")
    }
}

fn agent(script: &str) -> Agent {
    Agent {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        timeout: Duration::from_secs(30),
        memory_bytes: 1 << 30,
        output_bytes: 64 << 10,
        read: Vec::new(),
        network: false,
    }
}

fn built_in(name: &str) -> super::Blueprint {
    Library::new(None).find(name).unwrap().0
}

#[tokio::test]
async fn a_repair_goes_from_context_to_commit_through_its_loops() {
    // First the agent does nothing, then it makes a change that does not build, then one that fails the tests. Each
    // time it is told why.
    let script = r#"
        grep -q ctx_0001 "$REI_CONTEXT" && grep -q boom "${REI_CONTEXT%/*}/logs/tail.log" || exit 9
        grep -q '"commit"' "$REI_INPUTS/context_pack" || exit 8
        cat > "$HOME/prompt"; grep -q "smallest change" "$HOME/prompt" || exit 7
        if [ ! -e "${REI_FAILURE:-/nowhere}" ]; then exit 0; fi
        grep -q "nothing was changed" "$REI_FAILURE" && { echo new > file; exit 0; }
        grep -q "log of build" "$REI_FAILURE" && { echo > good; exit 0; }
        grep -q "log of test" "$REI_FAILURE" && { echo > tested; exit 0; }
        exit 6"#;
    let mut world = World::new(ONE_AGENT, script).await;
    world.job.blueprint = built_in("repair");
    let (outcome, events) = world.run().await;
    let expected = [
        "+gather_context",
        "+repair",
        "-commit",
        "+repair",
        "+commit",
        "-build",
        "+repair",
        "+commit",
        "+build",
        "-tests",
        "+repair",
        "+commit",
        "+build",
        "+tests",
        "+report",
    ];
    assert_eq!(events.ended(), expected, "{outcome:?}");
    assert_eq!(world.changed(&outcome).await, ["file", "good", "tested"]);
    let RunOutcome::Done { commit } = outcome else { panic!() };
    let kept = world.job.mirror.candidate(&world.job.candidate).await.unwrap();
    assert_eq!(kept, Some(commit), "kept under the candidate's ref");
    // The run's directory has the layout of OpenExec's documents.
    let timeline = std::fs::read_to_string(world.run_dir().join("timeline.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = timeline.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().enumerate().all(|(n, line)| line["seq"] == n && line["run_id"] == "run_0001"));
    assert_eq!(lines.first().unwrap()["event"], "run_started");
    assert_eq!(lines.last().unwrap()["event"], "run_completed");
    let pack = std::fs::read(world.run_dir().join("context_pack.json")).unwrap();
    let pack: serde_json::Value = serde_json::from_slice(&pack).unwrap();
    assert_eq!((&pack["context"]["id"], &pack["source"]["files_total"]), (&"ctx_0001".into(), &2.into()));
}

#[tokio::test]
async fn an_upgrade_is_the_followed_commit_itself() {
    let mut world = World::new(ONE_AGENT, "exit 1").await;
    world.job.blueprint = built_in("upgrade");
    world.job.context = None;
    let next = world.repository.commit(&[("good", ""), ("tested", "")], "better");
    world.job.followed = Some(world.job.mirror.fetch().await.unwrap());
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+follow", "+build", "+tests"]);
    assert_eq!(outcome, RunOutcome::Done { commit: ObjectId::parse(&next).unwrap() });
    world.job.followed = Some(world.job.active.clone());
    world.job.run_id = "run_0002".into();
    world.job.blueprint =
        parse("version: 1\nname: x\nstages: [{id: a, type: deterministic, action: checkout}]\n").unwrap();
    let (outcome, _) = world.run().await;
    assert_eq!(outcome, RunOutcome::Unchanged { commit: world.job.active.clone() });
}

#[tokio::test]
async fn an_agent_without_effect_is_not_started_more_often_than_its_stage_allows() {
    let looped = |limit: u32| {
        format!(
            "version: 1\nname: x\nstages:\n  - {{id: fix, type: agent, goal: Fix, outputs: [patch], retry_limit: {limit}}}\n  \
             - {{id: commit, type: deterministic, action: commit, retry_limit: 0, on_failure: fix}}\n"
        )
    };
    for (limit, most) in [(0, 1), (1, 1), (2, 2), (9, 2)] {
        // The third time there is nothing new to tell it, so it is not started.
        let mut world = World::new(&looped(limit), "exit 0").await;
        world.job.run_id = format!("run_{limit}");
        let (outcome, events) = world.run().await;
        let runs = events.ended().iter().filter(|stage| *stage == "+fix").count();
        assert_eq!(runs, most, "retry_limit {limit}: {:?} {outcome:?}", events.ended());
        assert!(matches!(outcome, RunOutcome::Failed { blame: Blame::Maker, .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_agent_that_cannot_start_is_the_machines_failure() {
    let blueprint = ONE_AGENT.replace("retry_limit: 0", "retry_limit: 3");
    let world = World::new(&blueprint, "echo no network >&2; exit 1").await;
    let (outcome, events) = world.run().await;
    assert!(matches!(outcome, RunOutcome::Failed { blame: Blame::Machine, .. }), "{outcome:?}");
    assert_eq!(events.ended(), ["-work"], "no immediate second attempt");
}

/// A judge whose tests fail the first time and would pass the second time.
#[derive(Default)]
struct Flaky(Cell<u32>);

impl Checker for Flaky {
    async fn build(&self, _: &ObjectId) -> CheckResult {
        CheckResult { ok: true, ..CheckResult::default() }
    }
    async fn test(&self, _: &ObjectId) -> CheckResult {
        self.0.set(self.0.get() + 1);
        CheckResult {
            ok: self.0.get() > 1,
            summary: "1 of 1 checks fail".into(),
            blame: Blame::Content,
            ..CheckResult::default()
        }
    }
    async fn lint(&self, commit: &ObjectId) -> CheckResult {
        self.test(commit).await
    }
}

#[tokio::test]
async fn a_failed_check_is_not_repeated_for_the_same_files() {
    let mut world = World::new(ONE_AGENT, "exit 1").await;
    world.repository.commit(&[("file", "new")], "flaky");
    world.job.followed = Some(world.job.mirror.fetch().await.unwrap());
    for limit in [0, 1, 3] {
        let text = format!(
            "version: 1\nname: x\nstages:\n  - {{id: a, type: deterministic, action: checkout}}\n  \
             - {{id: b, type: deterministic, action: run_tests, retry_limit: {limit}}}\n"
        );
        world.job.blueprint = parse(&text).unwrap();
        world.job.run_id = format!("run_{limit}");
        let bench = Flaky::default();
        let outcome = run(&world.job, None, &bench, &mut Events::default()).await.unwrap();
        let commit = world.job.followed.clone().unwrap();
        let reason = "1 of 1 checks fail".to_owned();
        assert_eq!(outcome, RunOutcome::Failed { stage: "b".into(), reason, blame: Blame::Content, commit });
        assert_eq!(bench.0.get(), 1, "run once");
    }
}

#[tokio::test]
async fn a_hostile_agent_can_change_only_its_files() {
    let script = r#"
        exec 2>/dev/null
        echo x > "$OUTSIDE/x"; echo x > ../x; echo x > ../../x; echo x > ../../../mirror; echo x >> "$REI_CONTEXT"
        rm -rf ../artifacts ../timeline.jsonl "$OUTSIDE"
        for f in ../../../source/mirror.git ../../../source/mirror.git/HEAD; do cat $f && echo leak > leaked; done
        git cat-file -e "$FUTURE" && echo leak > leaked
        git fetch "$REPOSITORY" && echo leak > leaked
        git log --all --format=%s | grep -v '^base$' && echo leak > leaked
        git config filter.x.clean "touch $OUTSIDE/ran; cat"; git config core.fsmonitor "touch $OUTSIDE/ran"
        echo '* filter=x' > .gitattributes; mkdir -p .git/hooks
        printf '#!/bin/sh\ntouch %s/ran' "$OUTSIDE" > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
        (setsid sleep 86511 &) ; setsid sh -c 'while :; do echo late >> file; sleep 0.01; done' &
        echo new > file; exit 0"#;
    let mut world = World::new(ONE_AGENT, script).await;
    let outside = tempfile::tempdir().unwrap();
    let future = world.repository.commit(&[("file", "the fix\n")], "the fix");
    world.job.mirror.fetch().await.unwrap();
    let env = &mut world.job.agents.get_mut("fixer").unwrap().env;
    env.insert("OUTSIDE".into(), outside.path().display().to_string());
    env.insert("REPOSITORY".into(), world.repository.path().into());
    env.insert("FUTURE".into(), future);
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+work"], "{outcome:?}");
    assert_eq!(world.changed(&outcome).await, [".gitattributes", "file"]);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!world.run_dir().join("x").exists() && world.run_dir().join("timeline.jsonl").exists());
    let context = world.state.path().join("incidents/inc_0001/context.json");
    assert!(std::fs::read_to_string(context).unwrap().ends_with('}'), "the evidence is unchanged");
}

#[tokio::test]
async fn a_file_that_cannot_be_committed_fails_the_stage_and_is_named() {
    for (script, expected) in [
        ("ln -s /etc/passwd stolen", "leads out of the tree"),
        ("mkdir sub && cd sub && git init -q && echo x > y", "git repository inside"),
        ("exit 3", "exited with 3"),
        ("kill -9 $$", "exited with 137"),
    ] {
        let world = World::new(ONE_AGENT, script).await;
        let (outcome, _) = world.run().await;
        assert!(
            matches!(&outcome, RunOutcome::Failed { stage, reason, .. } if stage == "work" && reason.contains(expected)),
            "{script}: {outcome:?}"
        );
    }
    // A FIFO is no file for git: the commit is made without it.
    let world = World::new(ONE_AGENT, "mkfifo pipe; echo new > file").await;
    assert_eq!(world.changed(&world.run().await.0).await, ["file"]);
    for script in ["rm file; mkfifo file", "mkdir d; mkfifo d/.gitignore"] {
        let world = World::new(ONE_AGENT, script).await;
        let (outcome, _) = world.run().await;
        let matches = matches!(&outcome, RunOutcome::Failed { reason, .. } if reason.contains("not a file, directory"));
        assert!(matches, "{script}: {outcome:?}");
    }
}

#[tokio::test]
async fn time_and_output_are_limited() {
    let mut world = World::new(ONE_AGENT, "echo partial > file; sleep 86521").await;
    world.job.agents.get_mut("fixer").unwrap().timeout = Duration::from_millis(300);
    let (outcome, events) = world.run().await;
    assert!(
        matches!(&outcome, RunOutcome::Failed { reason, .. } if reason.contains("did not end within")),
        "{outcome:?}"
    );
    let last = &events.0.last().unwrap().checkpoint;
    assert!(last.head.is_some(), "its changes are kept for the next attempt");
    world.job.agents.insert("fixer".into(), agent("sleep 86522"));
    world.job.timeout = Duration::from_millis(300);
    world.job.run_id = "run_0002".into();
    let (outcome, _) = world.run().await;
    assert!(matches!(&outcome, RunOutcome::Failed { reason, .. } if reason.contains("took")), "{outcome:?}");
    let blueprint = ONE_AGENT.replace("outputs: [patch]", "outputs: [patch, answer]");
    let mut world = World::new(&blueprint, "yes | head -c 5000000; echo new > file; echo the end").await;
    world.job.agents.get_mut("fixer").unwrap().output_bytes = 100;
    let (_, events) = world.run().await;
    let answer = &events.0.last().unwrap().checkpoint.artifacts["answer"];
    assert_eq!(answer.bytes, 100);
    assert!(std::fs::read_to_string(world.run_dir().join(&answer.path)).unwrap().ends_with("the end\n"));
}

const PIPELINE: &str = "version: 1
name: pipeline
stages:
  - {id: write, type: agent, goal: Write, outputs: [patch, notes]}
  - {id: apply, type: deterministic, action: apply_patch, inputs: [patch], outputs: [patch_applied]}
  - {id: format, type: deterministic, action: run, command: fmt}
  - {id: lint, type: deterministic, action: run_linters}
  - {id: look, type: agent, goal: Look, agent: fixer, inputs: [notes], outputs: [opinion], sandbox: read_only}
  - {id: bundle, type: deterministic, action: prepare_review_bundle, inputs: [patch, notes, opinion], outputs: [review_bundle], approval_required: true}
  - {id: sum, type: deterministic, action: summarize_run, outputs: [summary]}
";

/// Writes a patch without touching the workspace, then reviews it without write access.
const WRITER: &str = r#"
    if [ "$REI_STAGE" = look ]; then echo x > file && exit 5; echo "read: $(cat "$REI_INPUTS/notes")"; exit 0; fi
    printf 'diff --git a/file b/file\n--- a/file\n+++ b/file\n@@ -1 +1 @@\n-old\n+new\n' > "$REI_OUTPUTS/patch"
    echo well > "$REI_OUTPUTS/notes"; ln -s /etc/passwd "$REI_OUTPUTS/stolen""#;

#[tokio::test]
async fn artifacts_flow_and_an_operator_decides() {
    let mut world = World::new(PIPELINE, WRITER).await;
    world
        .job
        .commands
        .insert("fmt".into(), ["sh", "-c", "echo formatted > good; cat dir/deep"].map(str::to_owned).to_vec());
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+write", "+apply", "+format", "+lint", "+look", "+bundle"], "{outcome:?}");
    let RunOutcome::Paused { stage, checkpoint } = outcome else { panic!("{outcome:?}") };
    assert_eq!(stage, "bundle");
    let read = |name: &str| std::fs::read_to_string(world.run_dir().join(&checkpoint.artifacts[name].path)).unwrap();
    assert_eq!((read("notes").as_str(), read("opinion").as_str()), ("well\n", "read: well\n"));
    assert!(read("review_bundle").contains("\"good\"") && read("review_bundle").contains("+new"));
    let mut rejected = *checkpoint.clone();
    rejected.decide(&world.job.blueprint, Decision::Reject { reason: "not like this".into() });
    let (outcome, ..) = world.run_from(Some(rejected)).await;
    let outcome = outcome.unwrap();
    let matches = matches!(&outcome, RunOutcome::Failed { stage, reason, blame: Blame::Maker, .. }
        if stage == "bundle" && reason == "not like this");
    assert!(matches, "{outcome:?}");
    let mut approved = *checkpoint;
    approved.decide(&world.job.blueprint, Decision::Approve);
    let (outcome, events, _) = world.run_from(Some(approved)).await;
    assert_eq!(events.ended(), ["+sum"]);
    assert_eq!(world.changed(&outcome.unwrap()).await, ["file", "good"]);
    assert_eq!(events.summary("sum"), "6 stages completed, 0 failed");
}

#[tokio::test]
async fn a_run_continues_at_the_stage_where_it_was_interrupted() {
    let blueprint = "version: 1\nname: two\nstages:
  - {id: first, type: agent, goal: One, outputs: [patch]}
  - {id: second, type: agent, goal: Two, inputs: [patch], outputs: [patch]}\n";
    let script = r#"echo $REI_STAGE >> file; [ $REI_STAGE = first ] || [ -e $REI_WORKSPACE/good ] || { [ -n "$SLOW" ] && sleep 86531; }; exit 0"#;
    let mut world = World::new(blueprint, script).await;
    world.job.agents.get_mut("fixer").unwrap().env.insert("SLOW".into(), "1".into());
    // Interrupt it in the second stage: drop the future, as when the supervisor exits.
    let bench = Bench { mirror: &world.job.mirror, asked: RefCell::default() };
    let mut events = Events::default();
    let half = world.run_dir().join("workspace/file");
    {
        let running = run(&world.job, None, &bench, &mut events);
        let half_done = async {
            while !std::fs::read_to_string(&half).unwrap_or_default().contains("second") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            outcome = running => panic!("{outcome:?}"),
            () = half_done => {}
        }
    }
    let last = events.0.last().unwrap();
    assert_eq!((last.stage.as_str(), last.kind), ("second", StageEventKind::Started));
    let checkpoint = last.checkpoint.clone();
    world.job.agents.get_mut("fixer").unwrap().env.clear();
    let (outcome, events, _) = world.run_from(Some(checkpoint.clone())).await;
    assert_eq!(events.ended(), ["+second"], "the first stage is not repeated");
    let Ok(RunOutcome::Done { commit }) = outcome else { panic!("{outcome:?}") };
    let made = world.job.mirror.export(&commit).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(made.dir().join("file")).unwrap(),
        "old\nfirst\nsecond\n",
        "the half done work is gone"
    );
    let is_there = |name: &&str| world.run_dir().join(name).exists();
    let kept: Vec<_> =
        ["artifacts", "timeline.jsonl", "workspace", "agent", "lock"].into_iter().filter(is_there).collect();
    assert_eq!(kept, ["artifacts", "timeline.jsonl"], "a finished run leaves its evidence and no workspace");
    world.job.blueprint = built_in("repair");
    let (outcome, ..) = world.run_from(Some(checkpoint)).await;
    assert!(matches!(outcome, Err(Error::OtherBlueprint { .. })));
}

#[tokio::test]
async fn missing_agents_and_commands_are_reported_before_the_run_starts() {
    let mut world = World::new(PIPELINE, WRITER).await;
    world.job.agents.insert("other".into(), agent("true"));
    let (outcome, events, _) = world.run_from(None).await;
    let error = outcome.unwrap_err();
    let Error::Missing { problems, .. } = &error else { panic!("{error}") };
    let reported: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        reported,
        [
            "4:5: stage \"write\": there are several agents, and the stage does not choose one",
            "6:5: stage \"format\": rei.toml has no command \"fmt\"",
        ]
    );
    assert_eq!(error.hint().as_deref(), Some("write: agent: one of fixer, other"));
    assert!(events.0.is_empty());
    world.job.run_id = "../escape".into();
    assert!(matches!(world.run_from(None).await.0, Err(Error::RunId { .. })));
}

#[tokio::test]
async fn a_run_works_without_a_writable_timeline() {
    let world = World::new(ONE_AGENT, "echo new > file").await;
    std::fs::create_dir_all(world.run_dir().join("timeline.jsonl")).unwrap();
    std::fs::create_dir_all(world.run_dir().join("context_pack.json")).unwrap();
    let (outcome, _) = world.run().await;
    assert_eq!(world.changed(&outcome).await, ["file"]);
}

#[tokio::test]
async fn patches_of_files_outside_the_workspace_are_refused() {
    let blueprint = "version: 1\nname: p\nstages:
  - {id: write, type: agent, goal: Write, outputs: [patch]}
  - {id: apply, type: deterministic, action: apply_patch, inputs: [patch], retry_limit: 0}\n";
    let patch = |path: &str| {
        format!(
            "printf 'diff --git a/{path} b/{path}\\nnew file mode 100644\\n--- /dev/null\\n+++ b/{path}\\n@@ -0,0 +1 @@\\n+x\\n' > $REI_OUTPUTS/patch"
        )
    };
    for path in ["../../escape", ".git/config", ".git/hooks/post-checkout"] {
        let world = World::new(blueprint, &patch(path)).await;
        let (outcome, events) = world.run().await;
        assert_eq!(events.ended(), ["+write", "-apply"], "{path}: {outcome:?}");
        assert!(!world.state.path().join("runs/escape").exists());
    }
    let world = World::new(blueprint, "true").await;
    assert!(world.run().await.1.summary("apply").contains("the patch is empty"));
}

/// True if this machine has a Nix with which this user can evaluate.
fn nix_works() -> bool {
    let mut nix = std::process::Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command flakes", "eval", "--expr", "1"]);
    let works = nix.output().is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: no Nix that this user can evaluate with");
    }
    works
}

#[tokio::test]
async fn inputs_of_the_flake_are_updated() {
    if !nix_works() {
        return;
    }
    let blueprint = "version: 1\nname: u\nstages:
  - {id: write, type: agent, goal: Write, outputs: [patch]}
  - {id: update, type: deterministic, action: update_inputs, flake_inputs: [dep], outputs: [commit], retry_limit: 0}
  - {id: more, type: agent, goal: More, outputs: [patch]}\n";
    // The settings and links of the agent's repository must not affect the Nix that rei runs.
    let script = r#"[ $REI_STAGE = more ] && { grep -q "$NEWER" flake.lock; exit; }
        echo new > file; git config core.fsmonitor "touch $HOME/ran"; ln -s /etc/hostname .git/flake.lock; exit 0"#;
    let mut world = World::new(blueprint, script).await;
    let dep = Repository::new();
    let older = dep.commit(&[("flake.nix", "{ outputs = _: { x = 1; }; }")], "dep");
    let flake =
        format!("{{ inputs.dep.url = \"git+file://{}\"; outputs = {{ dep, ... }}: {{ x = dep.x; }}; }}", dep.path());
    let lock = format!(
        r#"{{"nodes": {{"dep": {{"locked": {{"narHash": "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "lastModified": 1700000000,
        "ref": "refs/heads/main", "rev": "{older}", "revCount": 1, "type": "git", "url": "file://{0}"}},
        "original": {{"type": "git", "url": "file://{0}"}}}}, "root": {{"inputs": {{"dep": "dep"}}}}}}, "root": "root", "version": 7}}"#,
        dep.path()
    );
    world.repository.commit(&[("flake.nix", &flake), ("flake.lock", &lock)], "a flake");
    world.job.active = world.job.mirror.fetch().await.unwrap();
    let newer = dep.commit(&[("flake.nix", "{ outputs = _: { x = 2; }; }")], "dep 2");
    world.job.agents.get_mut("fixer").unwrap().env.insert("NEWER".into(), newer);
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+write", "+update", "+more"], "{outcome:?}");
    assert_eq!(world.changed(&outcome).await, ["file", "flake.lock"]);
    let mut again = world.job.clone();
    again.active = match outcome {
        RunOutcome::Done { commit } => commit,
        other => panic!("{other:?}"),
    };
    again.run_id = "run_0002".into();
    world.job = again;
    let (outcome, _) = world.run().await;
    assert!(
        matches!(&outcome, RunOutcome::Failed { reason, .. } if reason.contains("no newer version")),
        "{outcome:?}"
    );
}
