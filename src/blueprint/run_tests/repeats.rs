//! An agent does not get the same task again in a later run.

use super::super::job::EarlierEvolution;
use super::*;
use crate::interface::types::EvolutionId;
use crate::redact::Secret;

/// An agent with the usual input, which must change something.
const REPAIR: &str = "version: 1
name: repair
stages:
  - {id: gather, type: deterministic, action: build_context_pack, outputs: [context_pack]}
  - {id: fix, type: agent, goal: Fix it, inputs: [context_pack, context], outputs: [patch]}
  - {id: commit, type: deterministic, action: commit, retry_limit: 0}
";

/// The tasks that the run's agents were given, as digests.
fn asked(events: &Events) -> Vec<String> {
    events.0.iter().filter_map(|event| event.agent.as_ref()?.asked.clone()).collect()
}

impl World {
    /// A later run for the same incident: another evolution at another time, with a newly collected context.
    fn again(&mut self, number: usize) {
        let job = &mut self.job;
        job.run_id = format!("run_{number:04}");
        job.at = Timestamp::from_unix_ms(job.at.as_unix_ms() + 60_000);
        job.message = format!("repair inc_0001, the {number}th time");
        let text = format!("{{\"id\":\"ctx_{number:04}\",\"missing\":[]}}");
        std::fs::write(job.context.clone().unwrap().join("context.json"), text).unwrap();
    }
}

#[tokio::test]
async fn an_agent_does_not_get_the_task_of_an_earlier_run_again() {
    let mut world = World::new(REPAIR, "exit 0").await;
    let key =
        |value: &str| Secrets::new(vec![Secret { place: "agents.fixer.env.API_KEY".into(), value: value.into() }]);
    world.job.agents.get_mut("fixer").unwrap().env.insert("API_KEY".into(), "sesame-open-1".into());
    world.job.secrets = key("sesame-open-1");
    let (_, events) = world.run().await;
    let first = asked(&events);
    assert_eq!((first.len(), events.ended()), (1, ["+gather", "+fix", "-commit"].map(str::to_owned).to_vec()));
    let facts = ["it crashed", "by signal 6"].map(str::to_owned).into();
    world.job.asked_before = vec![EarlierEvolution { evolution: EvolutionId::numbered(7), tasks: first, facts }];
    // Another run, another time or a new key does not make it another task.
    world.again(2);
    world.job.agents.get_mut("fixer").unwrap().env.insert("API_KEY".into(), "sesame-open-2".into());
    world.job.secrets = key("sesame-open-2");
    let (outcome, events) = world.run().await;
    let RunOutcome::Failed { stage, reason, blame: Blame::Repeat, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!((stage.as_str(), events.ended()), ("fix", ["+gather", "-fix"].map(str::to_owned).to_vec()));
    assert!(reason.contains("evo_0007") && reason.contains("rei evolve"), "{reason}");
    assert!(events.0.iter().all(|event| event.agent.is_none()), "no run is counted");
    // A change of one of these does: the facts about the incident, the files, the agent, its goal.
    let changes: [&dyn Fn(&mut Job); 4] = [
        &|job| job.facts.push("it happened to another request".into()),
        &|job| job.agents.get_mut("fixer").unwrap().network = true,
        &|job| drop(job.agents.get_mut("fixer").unwrap().env.insert("MODEL".into(), "another".into())),
        &|job| job.blueprint = parse(&REPAIR.replace("Fix it", "Fix it well")).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        world.again(3 + number);
        let usual = world.job.clone();
        change(&mut world.job);
        let (outcome, events) = world.run().await;
        assert_eq!(asked(&events).len(), 1, "change {number}: {outcome:?}");
        world.job = usual;
    }
    world.again(9);
    world.repository.commit(&[("file", "newer\n")], "another base");
    world.job.active = world.job.mirror.fetch().await.unwrap();
    assert_eq!(asked(&world.run().await.1).len(), 1);
}

/// Like `REPAIR`, but a failed check leads back to the agent.
const REPAIR_WITH_CHECK: &str = "version: 1
name: checked
stages:
  - {id: fix, type: agent, goal: Fix it, outputs: [patch], retry_limit: 9}
  - {id: tests, type: deterministic, action: run_tests, retry_limit: 0, on_failure: fix}
";

#[tokio::test]
async fn the_verdict_of_a_failed_check_stays_if_the_agent_has_no_other_answer() {
    let world = World::new(REPAIR_WITH_CHECK, "echo new > file").await;
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+fix", "-tests", "+fix", "-tests", "-fix"], "{outcome:?}");
    let RunOutcome::Failed { stage, reason, blame, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!((stage.as_str(), *blame), ("tests", Blame::Content), "{reason}");
}

#[tokio::test]
async fn files_in_quarantine_are_not_built_if_another_agent_makes_them_again() {
    let checked = REPAIR_WITH_CHECK.replace("action: run_tests", "action: nix_build");
    let mut world = World::new(&checked, "echo > good").await;
    let (outcome, _, built) = world.run_from(None).await;
    let Ok(RunOutcome::Done { commit }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(built.len(), 1);
    let tree = world.job.mirror.tree(&commit).await.unwrap().to_string();
    world.job.quarantine.insert(tree, "these files are in quarantine as cand_0007: unit".into());
    world.again(2);
    let (outcome, events, built) = world.run_from(None).await;
    let Ok(RunOutcome::Failed { reason, blame: Blame::Content, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(built.is_empty() && reason.contains("cand_0007"), "{built:?} {reason}");
    // The agent was told, and had no other answer.
    assert_eq!(events.ended(), ["+fix", "-tests", "+fix", "-tests", "-fix"]);
}

#[tokio::test]
async fn a_task_without_an_answer_does_not_count() {
    let world = World::new(REPAIR, "kill -9 $$").await;
    let (_, events) = world.run().await;
    assert!(events.0.iter().any(|event| event.agent.is_some()) && asked(&events).is_empty());
}

#[tokio::test]
async fn an_agent_gets_the_reasons_why_earlier_repairs_were_refused() {
    let script = r#"cat > "$HOME/prompt"; grep -q "$REI_REFUSED" "$HOME/prompt" || exit 5
        grep -q "evo_0007 was refused: unit: 1 of 3 checks fail" "$REI_REFUSED" || exit 6
        grep -q sesame "$REI_REFUSED" && exit 7; echo new > file"#;
    let mut world = World::new(REPAIR, script).await;
    world.job.secrets = Secrets::new(vec![Secret { place: "x".into(), value: "sesame-open-1".into() }]);
    world.job.refused_before =
        vec![(EvolutionId::numbered(7), "unit: 1 of 3 checks fail: the key is sesame-open-1".into())];
    let (outcome, _) = world.run().await;
    assert_eq!(world.changed(&outcome).await, ["file"]);
    let none = World::new(REPAIR, r#"[ -z "$REI_REFUSED" ] && echo new > file"#).await;
    assert_eq!(none.changed(&none.run().await.0).await, ["file"]);
}
