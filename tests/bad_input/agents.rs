//! Wrong blueprints, and agents that misbehave.

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Supervisor, agent};

/// Three stages in a cycle, and one stage that no route reaches.
const LOOP: &str = "version: 1\nname: ring\nstages:\n  - id: a\n    type: deterministic\n    action: run_tests\n    \
                    on_success: b\n  - id: b\n    type: deterministic\n    action: run_tests\n    on_success: a\n  - id: c\n    \
                    type: deterministic\n    action: run_tests\n    on_success: done\n";

/// A dead route, an unknown action, and a stage that no route reaches.
const WRONG: &str = "version: 1\nname: wrong\nstages:\n  - id: a\n    type: deterministic\n    action: nix_biuld\n    \
                     on_success: b\n    on_failure: nowhere\n  - id: b\n    type: deterministic\n    action: run_tests\n    \
                     on_success: a\n  - id: c\n    type: deterministic\n    action: run_tests\n    on_success: done\n";

fn write(lab: &Lab, name: &str, text: &str) {
    std::fs::create_dir_all(lab.path("blueprints")).unwrap();
    std::fs::write(lab.path(&format!("blueprints/{name}.yaml")), text).unwrap();
}

#[test]
fn a_wrong_blueprint_is_reported_before_anything_starts() {
    let Some(lab) = Lab::new() else { return };
    write(&lab, "wrong", WRONG);
    lab.configure("[blueprints]\ndirectory = \"blueprints\"\nupgrade = \"wrong\"\nincident = \"absent\"");
    let output = lab.refused();
    println!("{output}");
    for word in ["wrong.yaml", "nix_biuld", "nix_build", "nowhere", "absent", " 6:13: ", "hint: "] {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
}

#[test]
fn a_blueprint_with_a_cycle_is_reported_before_anything_starts() {
    let Some(lab) = Lab::new() else { return };
    write(&lab, "ring", LOOP);
    lab.configure("[blueprints]\ndirectory = \"blueprints\"\nupgrade = \"ring\"");
    let output = lab.refused();
    println!("{output}");
    for word in ["ring.yaml", "loop", "\"c\"", "hint: "] {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
}

#[test]
fn a_blueprint_that_became_wrong_is_reported_when_it_is_used() {
    let Some(lab) = Lab::new() else { return };
    write(
        &lab,
        "mine",
        &std::fs::read_to_string("src/blueprint/builtin/upgrade.yaml").unwrap().replace("upgrade", "mine"),
    );
    lab.configure("[blueprints]\ndirectory = \"blueprints\"\nupgrade = \"mine\"");
    let mut supervisor = lab.serving();
    write(&lab, "mine", &WRONG.replace("wrong", "mine"));
    let rev = lab.commit("well 2");
    let end = supervisor.verdict_on(&rev);
    println!("{}", end.summary);
    assert_eq!(end.action, Some(MaintenanceAction::Rejected));
    for word in ["mine.yaml", "nix_biuld", "nowhere"] {
        assert!(end.summary.contains(word), "{word:?} is not in:\n{}", end.summary);
    }
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    assert_eq!(supervisor.stop(), Some(0));
}

/// Gives an incident to an agent that does this; the evolution must be rejected with these words, and no process is left.
fn agent_that(does: &str, words: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    let program = agent();
    lab.configure(&format!(
        "[blueprints]\nincident = \"repair\"\n[evolution]\nbudget = {{ per_incident = 1, per_hour = 6 }}\n\
         [agents.fixer]\ncommand = [\"{0}\", \"agent\", \"{does}\"]\nread = [\"{1}\"]\ntimeout = \"2s\"\n",
        program.display(),
        program.parent().unwrap().display(),
    ));
    let mut supervisor = lab.serving();
    for _ in 0..2 {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    let load = lab.load();
    let end = ended(&mut supervisor, MaintenanceAction::Rejected);
    println!("{}\n{}", end, supervisor.output());
    for word in words {
        assert!(end.contains(word), "{word:?} is not in:\n{end}");
    }
    load.none_lost();
    assert!(!processes().iter().any(|line| line.contains("unruly\0agent") && line.contains(does)), "the agent is left");
    let status = supervisor.status().unwrap();
    assert!(status.attention.is_some_and(|text| text.contains("budget")), "an operator is needed");
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn an_agent_that_prints_its_keys() {
    let Some(lab) = Lab::new() else { return };
    let (program, file, keys) = (agent(), lab.path("agent.token"), ["sesame-0pen-4711", "sesame-0pen-4712"]);
    std::fs::write(&file, keys[1]).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    lab.configure(&format!(
        "[blueprints]\nincident = \"repair\"\n[evolution]\nbudget = {{ per_incident = 1, per_hour = 6 }}\n\
         [agents.fixer]\ncommand = [\"{0}\", \"agent\", \"tells\"]\nread = [\"{1}\", \"{2}\"]\ntimeout = \"20s\"\n\
         env = {{ API_KEY = \"{3}\", KEY_FILE = \"{2}\" }}\n",
        program.display(),
        program.parent().unwrap().display(),
        file.display(),
        keys[0],
    ));
    let mut supervisor = lab.serving();
    for _ in 0..2 {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    // It failed at once, which is no verdict. Its output is still kept and given to the next agent.
    let end = ended(&mut supervisor, MaintenanceAction::Deferred);
    let state = crate::lab::texts_below(&lab.path("state"));
    assert!(
        state.contains("API_KEY=[redacted]") && state.contains("the key is [redacted]"),
        "the rest of its output is kept"
    );
    for key in keys {
        for (what, text) in [("state", &state), ("history", &end), ("log", &supervisor.raw_output())] {
            assert!(!text.contains(key), "{key} is in the {what}");
        }
    }
    assert_eq!(supervisor.stop(), Some(0));
}

/// Waits for the end of the repair; returns its reason.
fn ended(supervisor: &mut Supervisor, action: MaintenanceAction) -> String {
    let mut summary = String::new();
    supervisor.until("the end of the repair", |it| {
        let history =
            it.operator(async |client| client.history(Some(20)).await.unwrap_or_default()).unwrap_or_default();
        let end = history.into_iter().find(|entry| entry.action == Some(action));
        summary = end.map(|entry| entry.summary).unwrap_or_default();
        !summary.is_empty()
    });
    summary
}

/// The command lines of all processes.
fn processes() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok()).collect()
}

#[test]
fn an_agent_that_hangs() {
    agent_that("hangs", &["stage repair", "2s"]);
}

#[test]
fn an_agent_that_floods() {
    agent_that("floods", &["stage repair", "agent \"fixer\""]);
}

#[test]
fn an_agent_that_crashes() {
    agent_that("crashes", &["stage repair", "SIGABRT"]);
}

#[test]
fn an_agent_that_does_nothing() {
    agent_that("nothing", &["stage commit", "nothing was changed"]);
}

/// A service with an incident, and an agent that does this; rei tries the repair again and again without a pause.
fn repaired_by(does: &str) -> Option<(Lab, Supervisor)> {
    let lab = Lab::new()?;
    let program = agent();
    lab.configure(&format!(
        "[blueprints]\nincident = \"repair\"\n[evolution]\nbudget = {{ per_incident = 60, per_hour = 60 }}\n\
         retry = {{ pause = \"100ms\", pause_max = \"100ms\" }}\n[incidents]\ncrash = {{ restarts = 60, within = \"60s\" }}\n\
         [agents.fixer]\ncommand = [\"{0}\", \"agent\", \"{does}\"]\nread = [\"{1}\"]\ntimeout = \"20s\"\n",
        program.display(),
        program.parent().unwrap().display(),
    ));
    let supervisor = lab.serving();
    for _ in 0..2 {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    Some((lab, supervisor))
}

#[test]
fn an_agent_gets_the_reason_of_a_refused_repair_and_is_asked_once_more() {
    let Some((lab, mut supervisor)) = repaired_by("worsens") else { return };
    for n in [1, 2] {
        let end = nth_end(&mut supervisor, n);
        println!("{end}");
        assert!(end.contains("stage tests") && end.contains("right"), "{end}");
    }
    let runs = runs_of_agents(&lab);
    // The second reason is the same as the first, so the agent is not asked again.
    let end = nth_end(&mut supervisor, 3);
    println!("{end}");
    assert!(end.contains("\"fixer\" was not started") && end.contains("in evo_0003"), "{end}");
    assert_eq!(runs_of_agents(&lab), runs);
    let quarantine = supervisor.operator(async |client| client.quarantine().await.unwrap()).unwrap();
    let trees: std::collections::BTreeSet<_> = quarantine.iter().map(|entry| &entry.tree).collect();
    assert_eq!(trees.len(), 2, "with the reason it made another change: {quarantine:#?}");
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn an_agent_without_effect_is_asked_once_also_by_later_evolutions_and_supervisors() {
    let Some((lab, mut supervisor)) = repaired_by("nothing") else { return };
    // Its stage may ask it twice: the second time its input says that it changed nothing. After that, no new input is left.
    let first = nth_end(&mut supervisor, 1);
    assert!(first.contains("nothing was changed"), "{first}");
    assert_eq!(runs_of_agents(&lab), 2);
    // The fault happens again and again, and later evolutions and supervisors know the earlier questions.
    for ends in [3, 5] {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
        let end = nth_end(&mut supervisor, ends);
        println!("{end}");
        assert!(end.contains("\"fixer\" was not started") && end.contains("in evo_0002"), "{end}");
        let attention = supervisor.status().and_then(|status| status.attention).unwrap_or_default();
        assert!(attention.contains("rei evolve"), "an operator is needed: {attention}");
        assert_eq!(supervisor.stop(), Some(0));
        supervisor = lab.run();
        supervisor.until("the next supervisor", |it| it.status().is_some_and(|it| it.active.is_some()));
    }
    assert_eq!(runs_of_agents(&lab), 2);
    // An operator may still request a repair.
    supervisor.until("an evolution by the operator", |it| {
        it.operator(async |client| client.evolve(None, None).await.is_ok()).unwrap_or_default()
    });
    supervisor.until("the agent to be asked again", |_| runs_of_agents(&lab) > 2);
    assert_eq!(supervisor.stop(), Some(0));
}

/// Waits for the end of the `n`th rejected repair; returns its reason.
fn nth_end(supervisor: &mut Supervisor, n: usize) -> String {
    let mut summary = None;
    supervisor.until(&format!("the end of repair {n}"), |it| {
        let history = it.operator(async |client| client.history(Some(100)).await.unwrap_or_default());
        let repairs = history.unwrap_or_default().into_iter().rev().filter(|entry| entry.incident_id.is_some());
        let mut ends = repairs.filter(|entry| entry.action == Some(MaintenanceAction::Rejected));
        summary = ends.nth(n - 1).map(|entry| entry.summary);
        summary.is_some()
    });
    summary.unwrap()
}

/// The number of agent runs, from the records of the runs.
fn runs_of_agents(lab: &Lab) -> usize {
    let runs = std::fs::read_dir(lab.path("state/runs")).into_iter().flatten().flatten();
    let timelines = runs.filter_map(|run| std::fs::read_to_string(run.path().join("timeline.jsonl")).ok());
    timelines.map(|text| text.matches("\"event\":\"agent_ended\"").count()).sum()
}

#[test]
fn an_agent_that_fails_at_once_spends_no_budget_and_is_asked_again_later() {
    let Some(lab) = Lab::new() else { return };
    lab.configure(
        "[blueprints]\nincident = \"repair\"\n\
         [agents.fixer]\ncommand = [\"/bin/sh\", \"-c\", \"echo no network >&2; exit 1\"]\n",
    );
    let mut supervisor = lab.serving();
    for _ in 0..2 {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    let load = lab.load();
    let mut seen = None;
    supervisor.until("a wait for the next try", |it| {
        seen = it.status().and_then(|status| Some((status.waits_for?, status.deadline?, status.budget, status.phase)));
        seen.as_ref().is_some_and(|(waits_for, ..)| waits_for.contains("again"))
    });
    let (waits_for, _, budget, phase) = seen.unwrap();
    println!("{waits_for}");
    assert!(waits_for.contains("exited with 1"), "{waits_for}");
    assert_eq!((phase, budget.left), (Phase::Steady, budget.per_hour));
    assert!(budget.spent_fingerprints.is_empty());
    let history = supervisor.operator(async |client| client.history(Some(20)).await.unwrap()).unwrap();
    let tries: Vec<_> = history.iter().filter(|entry| entry.incident_id.is_some()).collect();
    assert_eq!(tries.len(), 1, "{tries:#?}");
    assert_eq!(tries[0].action, Some(MaintenanceAction::Deferred), "{}", tries[0].summary);
    load.none_lost();
    assert_eq!(supervisor.stop(), Some(0));
}
