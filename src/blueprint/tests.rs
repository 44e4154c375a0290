//! Tests of blueprint files, valid and invalid, and of the machine that runs them.

use proptest::prelude::*;

use super::machine::{Event, Machine, Position};
use super::*;

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// A blueprint with these stages.
fn with(stages: &str) -> String {
    format!("version: 1\nname: x\nstages:\n{stages}")
}

const DET: &str = "type: deterministic, action: run_tests";

/// The example in OpenExec's documents, with the stage added that it leaves out.
const EXAMPLE: &str = "
version: 1
name: backend_bugfix
description: Fix a backend issue with deterministic validation stages

defaults:
  toolset: coding_backend
  sandbox: workspace_write
  max_step_retries: 2
  approval_mode: on_risky_actions

stages:
  - id: gather_context
    type: deterministic
    action: build_context_pack
    outputs:
      - context_pack
  - id: implement
    type: agent
    goal: Implement requested changes using the context pack
    inputs: [context_pack]
    outputs: [patch]
    on_success: run_linters
    on_failure: fail
  - id: run_linters
    type: deterministic
    action: run_linters
    inputs: [patch]
    outputs: [lint_report]
    on_success: run_tests
    on_failure: fix_lints
  - id: fix_lints
    type: agent
    goal: Fix lint errors without changing unrelated behavior
    inputs: [patch, lint_report]
    outputs: [patch]
    retry_limit: 2
    on_success: run_linters
    on_failure: fail
  - {id: run_tests, type: deterministic, action: run_tests, on_success: done}
";

#[test]
fn openexecs_own_example_loads() {
    let blueprint = parse(EXAMPLE).unwrap();
    assert_eq!(blueprint.stages.len(), 5);
    assert_eq!(blueprint.stages[0].on_success, Target::Stage(1), "the next stage by default");
    assert_eq!(blueprint.stages[0].on_failure, Target::Fail);
    assert_eq!(blueprint.stages[2].on_failure, Target::Stage(3));
    assert_eq!(blueprint.stages[2].retry_limit, 2);
    assert_eq!(blueprint.stages[0].toolset.as_deref(), Some("coding_backend"));
    let without_tests = EXAMPLE.replace("on_success: run_tests", "on_success: run_test");
    let dead = problems(&without_tests);
    assert_eq!(dead, ["30:17: \"on_success\" leads to \"run_test\", but there is no such stage"]);
}

#[test]
fn the_repair_blueprint_of_the_documents_loads() {
    let text = r"
version: 1
name: runtime_repair
defaults: {toolset: coding_backend, sandbox: workspace_write, max_step_retries: 2, approval_mode: on_risky_actions}
stages:
  - {id: gather_context, type: deterministic, action: build_context_pack, outputs: [context_pack]}
  - {id: repair, type: agent, goal: Fix the cause, inputs: [context_pack], outputs: [patch], on_failure: fail}
  - {id: apply, type: deterministic, action: apply_patch, inputs: [patch], outputs: [patch_applied], retry_limit: 0, on_failure: repair}
  - {id: build, type: deterministic, action: nix_build, inputs: [patch_applied], outputs: [candidate, build_log], retry_limit: 0, on_failure: repair}
  - {id: tests, type: deterministic, action: run_tests, inputs: [candidate], outputs: [test_report], retry_limit: 0, on_failure: repair}
  - {id: bundle, type: deterministic, action: prepare_review_bundle, inputs: [patch, test_report], outputs: [review_bundle], approval_required: true, on_success: done}
";
    assert!(parse(text).unwrap().stages[5].approval_required);
}

#[test]
fn all_problems_are_reported_at_once_with_their_positions() {
    let text = "version: '1'
name: a b
colour: red
stages:
  - {id: a, type: agent}
  - {id: a, type: deterministic, action: teleport, on_failure: nowhere}
  - {id: done, type: deterministic, goal: x, action: run_tests, inputs: [ghost, ghost]}
  - {id: r, type: deterministic, action: run, retry_limit: 99, command: x, agent: y}
  - {id: s, type: deterministic, commands: [rm -rf /], approval_required: maybe, sandbox: danger_full_access}
  - {type: magic, outputs: one, timeout_class: eternal}
  - 7
";
    let reported = problems(text);
    for expected in [
        "1:10: this version of the DSL is not supported",
        "2:7: \"a b\" is not a valid name in \"name\"",
        "3:1: unknown key \"colour\" in the blueprint",
        "5:5: a stage has no \"goal\"",
        "6:42: unknown action \"teleport\"",
        "7:43: a deterministic stage must not have \"goal\"",
        "7:81: \"ghost\" is listed twice",
        "8:60: \"retry_limit\" must be a whole number from 0 to 10",
        "8:83: \"agent\" is allowed only for stages of type agent",
        "9:34: shell commands are not allowed in a blueprint",
        "9:75: \"approval_required\" must be true or false",
        "9:91: full access is not allowed",
        "10:5: a stage has no \"id\"",
        "10:12: \"type\" has an unknown value",
        "10:28: \"outputs\" must be a list",
        "10:48: \"timeout_class\" has an unknown value",
        "11:5: a stage must be a map",
    ] {
        assert!(reported.iter().any(|line| line == expected), "not reported: {expected}\nreported: {reported:#?}");
    }
    assert!(parse(text).unwrap_err().0.iter().all(|problem| !problem.hint.is_empty()));
    assert!(reported.windows(2).all(|pair| line(&pair[0]) <= line(&pair[1])), "in the file's order");
}

fn line(problem: &str) -> usize {
    problem.split(':').next().unwrap().parse().unwrap()
}

#[test]
fn routes_are_checked_as_a_whole() {
    let duplicate = with(&format!("  - {{id: a, {DET}}}\n  - {{id: a, {DET}}}\n"));
    assert!(problems(&duplicate)[0].contains("5:10: stage \"a\" is defined twice, first in line 4"));
    let reserved = with(&format!("  - {{id: paused, {DET}}}\n"));
    assert!(problems(&reserved)[0].contains("reserved for an end"));
    let unreached = with(&format!("  - {{id: a, {DET}, on_success: done}}\n  - {{id: b, {DET}}}\n"));
    assert_eq!(problems(&unreached), ["5:5: stage \"b\" is never reached"]);
    let endless = with(&format!("  - {{id: a, {DET}}}\n  - {{id: b, {DET}, on_success: a, on_failure: done}}\n"));
    assert_eq!(problems(&endless), ["5:5: a loop without a retry limit: a -> b -> a"]);
    let itself = with(&format!("  - {{id: a, {DET}, on_success: a, on_failure: done}}\n"));
    assert_eq!(problems(&itself), ["4:5: a loop without a retry limit: a -> a"]);
    let tail = with(&format!(
        "  - {{id: s, {DET}}}\n  - {{id: a, {DET}}}\n  - {{id: b, {DET}, on_success: a, on_failure: done}}\n"
    ));
    assert_eq!(problems(&tail), ["6:5: a loop without a retry limit: a -> b -> a"]);
    let no_end = with(&format!("  - {{id: a, {DET}, on_success: fail}}\n"));
    assert_eq!(problems(&no_end), ["4:5: no route leads to done"]);
    let repaired =
        with(&format!("  - {{id: a, {DET}, on_success: done, on_failure: b}}\n  - {{id: b, {DET}, on_success: a}}\n"));
    assert!(parse(&repaired).is_ok(), "a loop with a failure in it is limited");
}

#[test]
fn inputs_must_come_from_an_earlier_stage() {
    let later = with(&format!("  - {{id: a, {DET}, inputs: [x]}}\n  - {{id: b, {DET}, outputs: [x]}}\n"));
    assert_eq!(problems(&later), ["4:62: no earlier stage makes the input \"x\""]);
    let own = with(&format!("  - {{id: a, {DET}, inputs: [x], outputs: [x], on_failure: a}}\n"));
    assert!(problems(&own)[0].contains("no earlier stage makes"));
    let back = with(&format!(
        "  - {{id: a, {DET}, inputs: [x], on_success: done, on_failure: b}}\n  - {{id: b, {DET}, outputs: [x], on_success: a}}\n"
    ));
    assert!(parse(&back).is_ok(), "a route leads from b to a");
    let given = with(&format!("  - {{id: a, {DET}, inputs: [context]}}\n"));
    assert!(parse(&given).is_ok());
    let bare = with("  - {id: a, type: deterministic, action: apply_patch}\n");
    assert!(problems(&bare)[0].contains("no patch to apply"));
}

const OLD: &str = "
id: quick_fix
name: Quick Fix
version: '1.0'
initial_stage: gather
stages:
  test: {name: test, type: deterministic, action: run_gates, on_success: complete, on_failure: implement, max_retries: 1}
  gather: {name: gather, type: deterministic, action: build_context, on_success: implement, create_checkpoint: true}
  implement: {name: implement, type: agentic, prompt: Do it, max_retries: 2, timeout: 10m, on_success: test}
";

#[test]
fn the_old_dialect_is_converted() {
    let blueprint = parse(OLD).unwrap();
    assert_eq!(blueprint.retry_semantics, RetrySemantics::OpenExec08);
    assert_eq!(blueprint.name, "quick_fix");
    let ids: Vec<&str> = blueprint.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(ids, ["gather", "test", "implement"]);
    assert_eq!(blueprint.stages[0].work, Work::Action(Action::BuildContextPack));
    assert_eq!(blueprint.stages[2].work, Work::Agent { goal: "Do it".into(), agent: None });
    assert_eq!(blueprint.stages[2].timeout, Some(std::time::Duration::from_secs(600)));
    assert_eq!(blueprint.stages[1].on_success, Target::Done);
    let shell = OLD.replace("action: run_gates", "commands: ['make test']");
    assert_eq!(problems(&shell), ["7:43: shell commands are not allowed in a blueprint"]);
    let integer = OLD.replace("timeout: 10m", "timeout: 10");
    assert_eq!(problems(&integer), ["9:87: \"10\" is not a duration"]);
    let dead = OLD.replace("on_success: test}", "on_success: tests}");
    assert!(problems(&dead)[0].contains("leads to \"tests\""));
    assert!(problems(&OLD.replace("initial_stage: gather", "initial_stage: x"))[0].contains("there is no such stage"));
}

fn failed() -> Event {
    Event::Failed { reason: "no".into() }
}

fn run(stage: usize) -> Position {
    Position::Run { stage }
}

fn after(blueprint: &Blueprint, events: &[Event]) -> Position {
    let mut machine = Machine::default();
    for event in events {
        machine.step(blueprint, event.clone());
        // The machine itself is the checkpoint.
        machine = serde_json::from_str(&serde_json::to_string(&machine).unwrap()).unwrap();
    }
    machine.next().clone()
}

#[test]
fn attempts_are_counted_as_in_the_documents() {
    let blueprint = parse(&with(&format!(
        "  - {{id: a, {DET}, retry_limit: 3, on_failure: b, on_success: done}}\n  - {{id: b, {DET}, on_success: a}}\n"
    )))
    .unwrap();
    let ok = Event::Succeeded;
    assert_eq!(after(&blueprint, &[failed(), Event::TimedOut]), run(0), "2 attempts are fewer than 3");
    assert_eq!(after(&blueprint, &[failed(), failed(), failed()]), run(1));
    // The number of failures never decreases: the next failure leads to b at once.
    assert_eq!(after(&blueprint, &[failed(), failed(), failed(), ok.clone(), failed()]), run(1));
    let mut all = vec![failed(), failed(), failed()];
    for _ in 0..6 {
        all.extend([ok.clone(), failed()]);
    }
    assert_eq!(after(&blueprint, &all), run(1), "9 failures");
    all.extend([ok, failed()]);
    assert!(matches!(after(&blueprint, &all), Position::Failed { stage: 0, .. }), "10 failures end a run");
}

#[test]
fn the_old_dialect_keeps_its_retry_rule() {
    let blueprint = parse(OLD).unwrap();
    let ok = Event::Succeeded;
    let to_test = [ok.clone(), ok.clone()];
    assert_eq!(after(&blueprint, &to_test), run(1));
    let once = [&to_test[..], &[failed()]].concat();
    assert_eq!(after(&blueprint, &once), run(2), "the first failure follows on_failure");
    let twice = [&once[..], &[ok, failed()]].concat();
    assert!(matches!(after(&blueprint, &twice), Position::Failed { stage: 1, .. }), "the second ends the run");
    assert!(matches!(after(&blueprint, &[failed()]), Position::Failed { stage: 0, .. }));
}

#[test]
fn operators_decide_about_results() {
    let blueprint = parse(&with(&format!(
        "  - {{id: a, {DET}, approval_required: true, on_failure: c}}\n  - {{id: b, {DET}, on_success: paused, on_failure: paused, retry_limit: 0}}\n  - {{id: c, {DET}}}\n"
    )))
    .unwrap();
    let (ok, yes, no) = (Event::Succeeded, Event::Approved, Event::Rejected { reason: "not so".into() });
    assert!(matches!(after(&blueprint, std::slice::from_ref(&ok)), Position::Paused { stage: 0, .. }));
    assert_eq!(after(&blueprint, &[ok.clone(), yes.clone()]), run(1));
    assert_eq!(after(&blueprint, &[ok.clone(), no.clone()]), run(2));
    assert_eq!(after(&blueprint, &[ok.clone(), yes.clone(), ok.clone(), yes.clone()]), run(2));
    assert_eq!(after(&blueprint, &[ok.clone(), yes.clone(), failed(), yes.clone()]), run(1), "the same stage again");
    let rejected = after(&blueprint, &[ok.clone(), yes.clone(), failed(), no]);
    assert_eq!(rejected, Position::Failed { stage: 1, reason: "not so".into() });
    assert_eq!(
        after(&blueprint, std::slice::from_ref(&yes)),
        run(0),
        "an answer that nobody asked for changes nothing"
    );
    assert_eq!(
        after(&blueprint, &[ok.clone(), yes, ok.clone(), ok]),
        after(&blueprint, &[Event::Succeeded, Event::Approved, Event::Succeeded])
    );
}

/// Stages with arbitrary routes, limits and approvals. Many are refused; the valid ones must end.
fn any_blueprint() -> impl Strategy<Value = String> {
    let stage = (0..9_usize, 0..9_usize, 0..4_u32, any::<bool>());
    proptest::collection::vec(stage, 1..6).prop_map(|stages| {
        let count = stages.len();
        let target = |n: usize| match n.checked_sub(count.min(6)) {
            None => format!("s{n}"),
            Some(0) => "done".into(),
            Some(1) => "fail".into(),
            Some(_) => "paused".into(),
        };
        let lines = stages.iter().enumerate().map(|(index, (good, bad, limit, ask))| {
            let (good, bad) = (target(*good), target(*bad));
            format!("  - {{id: s{index}, {DET}, on_success: {good}, on_failure: {bad}, retry_limit: {limit}, approval_required: {ask}}}\n")
        });
        with(&lines.collect::<String>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// For all events, a run has a bounded number of stages: each failure costs one of ten, and between two failures no
    /// stage runs twice.
    #[test]
    fn every_run_ends(text in any_blueprint(), luck in proptest::collection::vec(0..5_u8, 1..20)) {
        let Ok(blueprint) = parse(&text) else { return Ok(()) };
        let bound = (FAILURES_MAX as usize + 1) * blueprint.stages.len();
        let (mut machine, mut stages) = (Machine::default(), 0);
        let mut luck = luck.into_iter().cycle();
        loop {
            let event = match (machine.next(), luck.next().unwrap()) {
                (Position::Done | Position::Failed { .. }, _) => break,
                (Position::Paused { .. }, 0..=2) => Event::Approved,
                (Position::Paused { .. }, _) => Event::Rejected { reason: "no".into() },
                (Position::Run { stage }, n) => {
                    prop_assert!(blueprint.stage(*stage).is_some());
                    stages += 1;
                    prop_assert!(stages <= bound, "{stages} stages of {bound}");
                    match n { 0..=1 => Event::Succeeded, 2 => Event::TimedOut, _ => Event::Failed { reason: "no".into() } }
                }
            };
            machine.step(&blueprint, event);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(version|name|stages|id|type|agent|: |- |\\{|\\}|\\[|\\]|\n|  |,|1|a|'|\"){0,60}") {
        let _ = parse(&text);
    }
}
