//! Reads blueprints of OpenExec 0.8, and keeps the meaning that its engine gives them.
//!
//! There, stages are a map, the first one is `initial_stage`, and a stage without `on_success` ends the run. Retries
//! limit how often `on_failure` is followed. Features that rei cannot keep (shell commands in the file, quality gates
//! inside a stage) are refused, not silently dropped.

use std::time::Duration;

use super::draft::{Draft, DraftStage, simple_action};
use super::fields::{Fields, Word};
use super::schema::{Action, RETRY_LIMIT_MAX, RetrySemantics, STAGES_MAX, Sandbox, Work};
use super::yaml::{Key, Node, Problem, Value, problem};

/// The name of the artifact with an agent's changes; OpenExec 0.8 has no names for artifacts.
const PATCH: &str = "patch";

/// True if the file uses that dialect: its stages are a map, or it has `initial_stage`.
pub(super) fn is_openexec_08(root: &Node) -> bool {
    let Value::Map(entries) = &root.value else { return false };
    entries
        .iter()
        .any(|(key, node)| key.name == "initial_stage" || (key.name == "stages" && matches!(node.value, Value::Map(_))))
}

pub(super) fn convert(root: &Node, problems: &mut Vec<Problem>) -> Option<Draft> {
    let known = ["id", "name", "description", "initial_stage", "version", "stages"];
    let fields = Fields::of(root, "the blueprint", &known, problems)?;
    let name = match fields.get("id") {
        Some(_) => fields.name("id", problems),
        None => {
            fields.require("name", "write: name: my_blueprint", problems);
            fields.name("name", problems)
        }
    };
    let description = fields.text("description", problems).map(|word| word.text).unwrap_or_default();
    fields.require("initial_stage", "write: initial_stage: NAME", problems);
    let initial = fields.name("initial_stage", problems);
    let stages = fields.require("stages", "write: stages: and a map", problems)?;
    let Value::Map(entries) = &stages.value else {
        problems.push(problem(stages.place, "\"stages\" must be a map here".into(), "or remove initial_stage"));
        return None;
    };
    if entries.is_empty() || entries.len() > STAGES_MAX {
        let message = format!("a blueprint has 1 to {STAGES_MAX} stages, but this one has {}", entries.len());
        problems.push(problem(stages.place, message, "write each stage as: NAME: and a map"));
        return None;
    }
    let mut stages: Vec<DraftStage> =
        entries.iter().filter_map(|(key, node)| convert_stage(key, node, problems)).collect();
    let initial = initial?;
    match stages.iter().position(|stage| stage.id.text == initial.text) {
        Some(first) => stages[..=first].rotate_right(1),
        None => {
            let message = format!("\"initial_stage\" is {:?}, but there is no such stage", initial.text);
            problems.push(problem(initial.place, message, "name one of the stages"));
        }
    }
    Some(Draft { name: name?.text, description, semantics: RetrySemantics::OpenExec08, stages })
}

fn convert_stage(key: &Key, node: &Node, problems: &mut Vec<Problem>) -> Option<DraftStage> {
    let known = [
        "name",
        "description",
        "type",
        "toolset",
        "action",
        "prompt",
        "max_retries",
        "timeout",
        "on_success",
        "on_failure",
        "create_checkpoint",
        "run_quality_gates",
    ];
    let fields = Fields::of(node, "a stage", &known, problems)?;
    if fields.flag("run_quality_gates", problems) == Some(true) {
        let hint = "add a stage after it: type: deterministic, action: run_gates";
        problems.push(problem(node.place, "quality gates inside a stage are not supported".into(), hint));
    }
    fields.flag("create_checkpoint", problems); // rei makes a checkpoint after every stage
    let work = convert_work(&fields, problems);
    let word = |text: &str| vec![Word { text: text.to_owned(), place: node.place }];
    let (inputs, outputs) = match work {
        Some(Work::Agent { .. }) => (Vec::new(), word(PATCH)),
        Some(Work::Action(Action::ApplyPatch)) => (word(PATCH), Vec::new()),
        _ => (Vec::new(), Vec::new()),
    };
    let end = |word: Option<Word>| {
        word.map(|word| if word.text == "complete" { Word { text: "done".into(), ..word } } else { word })
    };
    let done = Word { text: "done".into(), place: node.place };
    Some(DraftStage {
        id: Word { text: key.name.clone(), place: key.place },
        work,
        inputs,
        outputs,
        retry_limit: fields.number("max_retries", RETRY_LIMIT_MAX, problems).unwrap_or(0),
        approval_required: false,
        on_success: end(fields.name("on_success", problems)).or(Some(done)),
        on_failure: end(fields.name("on_failure", problems)),
        timeout: convert_timeout(&fields, problems),
        sandbox: Sandbox::default(),
        toolset: fields.name("toolset", problems).map(|word| word.text),
        place: key.place,
    })
}

fn convert_work(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Option<Work> {
    fields.require("type", "write: type: deterministic, or: type: agentic", problems)?;
    let types = [("deterministic", false), ("agentic", true), ("agent", true)];
    if fields.choice("type", &types, problems)? {
        fields.require("prompt", "write: prompt: what the agent is to reach", problems)?;
        return Some(Work::Agent { goal: fields.text("prompt", problems)?.text, agent: None });
    }
    if fields.get("commands").is_some() {
        return None; // reported as a shell command already
    }
    // OpenExec's engine skips a stage without an action. Here such a stage would be a check that checks nothing, so it
    // is refused.
    fields.require("action", "write: action: build_context, run_gates or apply_patch", problems)?;
    let word = fields.text("action", problems)?;
    let action = if word.text == "run_gates" { Some(Action::RunTests) } else { simple_action(&word.text) };
    if action.is_none() {
        let message = format!("unknown action {:?}", word.text);
        problems.push(problem(word.place, message, format!("known actions: run_gates, {}", Action::NAMES.join(", "))));
    }
    action.map(Work::Action)
}

/// Parses a duration as Go writes it, of whole hours, minutes and seconds: `10m`, `1h30m`.
fn convert_timeout(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Option<Duration> {
    let word = fields.text("timeout", problems)?;
    let mut seconds = Some(0_u64);
    let mut digits = String::new();
    for c in word.text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => 0,
        };
        let number: Option<u64> = std::mem::take(&mut digits).parse().ok().filter(|_| unit > 0);
        seconds = seconds.zip(number).and_then(|(sum, number)| number.checked_mul(unit)?.checked_add(sum));
    }
    let seconds = seconds.filter(|seconds| digits.is_empty() && *seconds > 0);
    if seconds.is_none() {
        let message = format!("{:?} is not a duration", word.text);
        problems.push(problem(word.place, message, "write: timeout: 10m"));
    }
    seconds.map(Duration::from_secs)
}
