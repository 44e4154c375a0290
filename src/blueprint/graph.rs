//! Checks the routes: every route has a target, every stage can be reached, every loop ends, every input can exist.

use super::draft::{Draft, DraftStage};
use super::fields::Word;
use super::schema::{Action, Blueprint, PROVIDED, Stage, Target, Work};
use super::yaml::{Problem, problem};

const RESERVED: [&str; 3] = ["done", "fail", "paused"];

/// Resolves the routes and checks the whole blueprint; `None` if a stage is incomplete.
pub(super) fn resolve(draft: Draft, digest: String, problems: &mut Vec<Problem>) -> Option<Blueprint> {
    check_ids(&draft.stages, problems);
    let stages: Vec<Stage> =
        (0..draft.stages.len()).filter_map(|index| resolve_stage(&draft.stages, index, problems)).collect();
    if stages.len() < draft.stages.len() {
        return None; // without all stages, the checks below would report false problems
    }
    check_reached(&stages, problems);
    check_loops(&stages, problems);
    check_end(&stages, problems);
    check_inputs(&stages, &draft.stages, problems);
    let Draft { name, description, semantics, .. } = draft;
    Some(Blueprint { name, description, stages, retry_semantics: semantics, digest })
}

fn check_ids(stages: &[DraftStage], problems: &mut Vec<Problem>) {
    for (index, stage) in stages.iter().enumerate() {
        if RESERVED.contains(&stage.id.text.as_str()) {
            let message = format!("{:?} is reserved for an end and cannot be the id of a stage", stage.id.text);
            problems.push(problem(stage.id.place, message, "give the stage another id"));
        }
        if let Some(first) = stages[..index].iter().find(|other| other.id.text == stage.id.text) {
            let message = format!("stage {:?} is defined twice, first in line {}", stage.id.text, first.id.place.line);
            problems.push(problem(stage.id.place, message, "give one of them another id"));
        }
    }
}

fn resolve_stage(stages: &[DraftStage], index: usize, problems: &mut Vec<Problem>) -> Option<Stage> {
    let draft = &stages[index];
    let next = if index + 1 < stages.len() { Target::Stage(index + 1) } else { Target::Done };
    let mut route = |word: &Option<Word>, key: &str, absent: Target| match word {
        None => Some(absent),
        Some(word) => target(stages, word, key, problems),
    };
    let on_success = route(&draft.on_success, "on_success", next);
    let on_failure = route(&draft.on_failure, "on_failure", Target::Fail);
    let texts = |words: &[Word]| words.iter().map(|word| word.text.clone()).collect();
    Some(Stage {
        id: draft.id.text.clone(),
        work: draft.work.clone()?,
        inputs: texts(&draft.inputs),
        outputs: texts(&draft.outputs),
        retry_limit: draft.retry_limit,
        approval_required: draft.approval_required,
        on_success: on_success?,
        on_failure: on_failure?,
        timeout: draft.timeout,
        sandbox: draft.sandbox,
        toolset: draft.toolset.clone(),
        place: draft.place,
    })
}

fn target(stages: &[DraftStage], word: &Word, key: &str, problems: &mut Vec<Problem>) -> Option<Target> {
    match word.text.as_str() {
        "done" => return Some(Target::Done),
        "fail" => return Some(Target::Fail),
        "paused" => return Some(Target::Paused),
        _ => {}
    }
    let found = stages.iter().position(|stage| stage.id.text == word.text);
    if found.is_none() {
        let ids: Vec<&str> = stages.iter().map(|stage| stage.id.text.as_str()).collect();
        let message = format!("{key:?} leads to {:?}, but there is no such stage", word.text);
        problems.push(problem(word.place, message, format!("stages: {}; ends: done, fail, paused", ids.join(", "))));
    }
    found.map(Target::Stage)
}

/// The stages that may directly follow a stage.
fn followers(stages: &[Stage], index: usize) -> Vec<usize> {
    let stage = &stages[index];
    let after = |target: Target, paused: usize| match target {
        Target::Stage(next) => Some(next),
        Target::Paused => Some(paused).filter(|next| *next < stages.len()),
        Target::Done | Target::Fail => None,
    };
    [after(stage.on_success, index + 1), after(stage.on_failure, index)].into_iter().flatten().collect()
}

/// The stages that may follow `from` at any later time; `from` itself only if a route leads back to it.
fn reachable(stages: &[Stage], from: usize) -> Vec<bool> {
    let (mut seen, mut open) = (vec![false; stages.len()], followers(stages, from));
    while let Some(index) = open.pop() {
        if !std::mem::replace(&mut seen[index], true) {
            open.extend(followers(stages, index));
        }
    }
    seen
}

fn check_reached(stages: &[Stage], problems: &mut Vec<Problem>) {
    let seen = reachable(stages, 0);
    for (stage, _) in stages.iter().zip(seen).skip(1).filter(|(_, seen)| !seen) {
        let message = format!("stage {:?} is never reached", stage.id);
        problems.push(problem(
            stage.place,
            message,
            format!("remove it, or add a route to it: on_success: {}", stage.id),
        ));
    }
}

/// A loop of successes has no limit. A loop that contains a failure ends at the maximum number of failures.
fn check_loops(stages: &[Stage], problems: &mut Vec<Problem>) {
    let mut reported = vec![false; stages.len()];
    for start in 0..stages.len() {
        let (mut index, mut path) = (start, Vec::new());
        while !path.contains(&index) {
            path.push(index);
            match stages[index].on_success {
                Target::Stage(next) => index = next,
                Target::Paused if index + 1 < stages.len() => index += 1,
                _ => break,
            }
        }
        let closes = match stages[path[path.len() - 1]].on_success {
            Target::Stage(next) => next == start,
            _ => false,
        };
        if closes && !path.iter().any(|index| reported[*index]) {
            path.iter().for_each(|index| reported[*index] = true);
            let mut names: Vec<&str> = path.iter().map(|index| stages[*index].id.as_str()).collect();
            names.push(&stages[start].id);
            let message = format!("a loop without a retry limit: {}", names.join(" -> "));
            let hint = "lead back by on_failure, which retries limit, or use on_success: done";
            problems.push(problem(stages[path[path.len() - 1]].place, message, hint));
        }
    }
}

fn check_end(stages: &[Stage], problems: &mut Vec<Problem>) {
    let ends = |stage: &Stage, index: usize| {
        stage.on_success == Target::Done
            || stage.on_failure == Target::Done
            || (stage.on_success == Target::Paused && index + 1 == stages.len())
    };
    let seen = reachable(stages, 0);
    if !stages.iter().enumerate().any(|(index, stage)| (index == 0 || seen[index]) && ends(stage, index)) {
        let place = stages.first().map(|stage| stage.place).unwrap_or_default();
        problems.push(problem(
            place,
            "no route leads to done".into(),
            "end the last good stage with: on_success: done",
        ));
    }
}

fn check_inputs(stages: &[Stage], drafts: &[DraftStage], problems: &mut Vec<Problem>) {
    let after: Vec<Vec<bool>> = (0..stages.len()).map(|index| reachable(stages, index)).collect();
    for (index, draft) in drafts.iter().enumerate() {
        if matches!(stages[index].work, Work::Action(Action::ApplyPatch)) && draft.inputs.is_empty() {
            let message = format!("stage {:?} has no patch to apply", stages[index].id);
            problems.push(problem(draft.place, message, "write: inputs: [patch]"));
        }
        for input in draft.inputs.iter().filter(|input| !PROVIDED.contains(&input.text.as_str())) {
            let made =
                |maker: usize| maker != index && after[maker][index] && stages[maker].outputs.contains(&input.text);
            if !(0..stages.len()).any(made) {
                let message = format!("no earlier stage makes the input {:?}", input.text);
                let hint = format!("add it to an earlier stage: outputs: [{}]", input.text);
                problems.push(problem(input.place, message, hint));
            }
        }
    }
}
