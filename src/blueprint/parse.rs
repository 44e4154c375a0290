//! Reads a blueprint file into a checked blueprint, or reports all its errors at once.

use std::time::Duration;

use super::convert;
use super::draft::{Draft, DraftStage, simple_action};
use super::fields::Fields;
use super::graph;
use super::schema::{Action, Blueprint, RETRY_LIMIT_MAX, RetrySemantics, STAGES_MAX, Sandbox, Work};
use super::yaml::{self, Node, Problem, Value, problem};

/// Default `retry_limit` of a stage if neither the stage nor `defaults` sets one. OpenExec has the same default.
const MAX_STEP_RETRIES: u32 = 2;

/// All problems of a blueprint, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct Problems(pub Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem} (hint: {})", problem.hint)).collect::<Vec<_>>().join("\n")
}

/// Reads a blueprint in OpenExec's DSL v1 or in the dialect of its 0.8 releases, and checks all of it.
///
/// # Errors
/// All problems, each with its position and a hint.
pub fn parse(text: &str) -> Result<Blueprint, Problems> {
    let root = yaml::read(text).map_err(Problems)?;
    let mut problems = Vec::new();
    let draft = if convert::is_openexec_08(&root) {
        convert::convert(&root, &mut problems)
    } else {
        read_v1(&root, &mut problems)
    };
    let digest = format!("sha256:{}", crate::digest::sha256(text));
    let blueprint = draft.and_then(|draft| graph::resolve(draft, digest, &mut problems));
    match blueprint {
        Some(blueprint) if problems.is_empty() => Ok(blueprint),
        _ => {
            problems.sort();
            problems.dedup();
            Err(Problems(problems))
        }
    }
}

/// The values of `defaults`.
struct Defaults {
    toolset: Option<String>,
    sandbox: Sandbox,
    max_step_retries: u32,
    approve_all: bool,
}

const SANDBOXES: [(&str, Option<Sandbox>); 3] = [
    ("read_only", Some(Sandbox::ReadOnly)),
    ("workspace_write", Some(Sandbox::WorkspaceWrite)),
    ("danger_full_access", None),
];

/// OpenExec names classes of timeouts instead of durations.
const TIMEOUT_CLASSES: [(&str, Duration); 3] =
    [("fast", Duration::from_secs(60)), ("medium", Duration::from_secs(600)), ("long", Duration::from_secs(3600))];

fn read_v1(root: &Node, problems: &mut Vec<Problem>) -> Option<Draft> {
    let fields =
        Fields::of(root, "the blueprint", &["version", "name", "description", "defaults", "stages"], problems)?;
    if let Some(node) = fields.require("version", "begin with: version: 1", problems)
        && !matches!(&node.value, Value::Scalar { text, plain: true } if text == "1")
    {
        problems.push(problem(node.place, "this version of the DSL is not supported".into(), "write: version: 1"));
    }
    fields.require("name", "write: name: my_blueprint", problems);
    let name = fields.name("name", problems);
    let description = fields.text("description", problems).map(|word| word.text).unwrap_or_default();
    let defaults = read_defaults(&fields, problems);
    let stages = fields.require("stages", "write: stages: and a list", problems)?;
    let Value::List(items) = &stages.value else {
        problems.push(problem(stages.place, "\"stages\" must be a list".into(), "begin each stage with: - id: NAME"));
        return None;
    };
    if items.is_empty() || items.len() > STAGES_MAX {
        let message = format!("a blueprint has 1 to {STAGES_MAX} stages, but this one has {}", items.len());
        problems.push(problem(stages.place, message, "begin each stage with: - id: NAME"));
        return None;
    }
    let stages = items.iter().filter_map(|item| read_stage(item, &defaults, problems)).collect();
    Some(Draft { name: name?.text, description, semantics: RetrySemantics::V1, stages })
}

fn read_defaults(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Defaults {
    let mut defaults =
        Defaults { toolset: None, sandbox: Sandbox::default(), max_step_retries: MAX_STEP_RETRIES, approve_all: false };
    let known = ["toolset", "sandbox", "max_step_retries", "approval_mode"];
    let Some(fields) = fields.get("defaults").and_then(|node| Fields::of(node, "\"defaults\"", &known, problems))
    else {
        return defaults;
    };
    defaults.toolset = fields.name("toolset", problems).map(|word| word.text);
    defaults.sandbox = read_sandbox(&fields, problems).unwrap_or_default();
    if let Some(retries) = fields.number("max_step_retries", RETRY_LIMIT_MAX, problems) {
        defaults.max_step_retries = retries;
    }
    // No action of a blueprint is risky, because it only makes a commit, which is then judged. So `on_risky_actions`
    // requires no approval.
    let modes = [("never", false), ("on_risky_actions", false), ("always", true)];
    defaults.approve_all = fields.choice("approval_mode", &modes, problems).unwrap_or(false);
    defaults
}

fn read_sandbox(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Option<Sandbox> {
    let chosen = fields.choice("sandbox", &SANDBOXES, problems)?;
    if let (None, Some(node)) = (chosen, fields.get("sandbox")) {
        let message = "full access is not allowed".into();
        problems.push(problem(node.place, message, "write: sandbox: workspace_write"));
    }
    chosen
}

fn read_stage(node: &Node, defaults: &Defaults, problems: &mut Vec<Problem>) -> Option<DraftStage> {
    const COMMON: [&str; 13] = [
        "id",
        "type",
        "action",
        "goal",
        "inputs",
        "outputs",
        "retry_limit",
        "on_success",
        "on_failure",
        "approval_required",
        "toolset",
        "sandbox",
        "timeout_class",
    ];
    const ADDED_BY_REI: [&str; 4] = ["agent", "command", "flake_inputs", "rev"];
    let fields = Fields::of(node, "a stage", &[&COMMON[..], &ADDED_BY_REI[..]].concat(), problems)?;
    fields.require("id", "write: id: some_name", problems);
    let id = fields.name("id", problems);
    let work = read_work(&fields, problems);
    let retry_limit = fields.number("retry_limit", RETRY_LIMIT_MAX, problems).unwrap_or(defaults.max_step_retries);
    let approval = fields.flag("approval_required", problems).unwrap_or(defaults.approve_all);
    Some(DraftStage {
        work,
        inputs: fields.names("inputs", problems),
        outputs: fields.names("outputs", problems),
        retry_limit,
        approval_required: approval,
        on_success: fields.name("on_success", problems),
        on_failure: fields.name("on_failure", problems),
        timeout: fields.choice("timeout_class", &TIMEOUT_CLASSES, problems),
        sandbox: match fields.get("sandbox") {
            Some(_) => read_sandbox(&fields, problems).unwrap_or_default(),
            None => defaults.sandbox,
        },
        toolset: fields.name("toolset", problems).map(|word| word.text).or_else(|| defaults.toolset.clone()),
        place: node.place,
        id: id?,
    })
}

fn read_work(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Option<Work> {
    let hint = "write: type: deterministic, or: type: agent";
    fields.require("type", hint, problems)?;
    let agent = fields.choice("type", &[("deterministic", false), ("agent", true)], problems)?;
    let (wanted, other) = if agent { ("goal", "action") } else { ("action", "goal") };
    if let Some(node) = fields.get(other) {
        let kind = if agent { "an agent" } else { "a deterministic" };
        problems.push(problem(
            node.place,
            format!("{kind} stage must not have {other:?}"),
            format!("write: {wanted}: ..."),
        ));
    }
    let work = if agent {
        fields.require("goal", "write: goal: what the agent is to reach", problems)?;
        let goal = fields.text("goal", problems)?.text;
        Work::Agent { goal, agent: fields.name("agent", problems).map(|word| word.text) }
    } else {
        fields.require("action", &format!("one of: {}", Action::NAMES.join(", ")), problems)?;
        Work::Action(read_action(fields, problems)?)
    };
    let owned = match &work {
        Work::Agent { .. } => Some("agent"),
        Work::Action(Action::Run { .. }) => Some("command"),
        Work::Action(Action::UpdateInputs { .. }) => Some("flake_inputs"),
        Work::Action(Action::Checkout { .. }) => Some("rev"),
        Work::Action(_) => None,
    };
    for (key, owner) in [
        ("agent", "stages of type agent"),
        ("command", "the action run"),
        ("flake_inputs", "the action update_inputs"),
        ("rev", "the action checkout"),
    ] {
        if let Some(node) = fields.get(key).filter(|_| owned != Some(key)) {
            problems.push(problem(node.place, format!("{key:?} is allowed only for {owner}"), format!("remove {key}")));
        }
    }
    Some(work)
}

fn read_action(fields: &Fields<'_>, problems: &mut Vec<Problem>) -> Option<Action> {
    let word = fields.text("action", problems)?;
    match word.text.as_str() {
        "run" => {
            fields.require("command", "write: command: NAME, a key of [commands] in rei.toml", problems)?;
            return Some(Action::Run { command: fields.name("command", problems)?.text });
        }
        "update_inputs" => {
            fields.require("flake_inputs", "write: flake_inputs: [nixpkgs]", problems)?;
            let names = fields.names("flake_inputs", problems);
            return Some(Action::UpdateInputs { names: names.into_iter().map(|word| word.text).collect() });
        }
        "checkout" => return Some(Action::Checkout { rev: fields.text("rev", problems).map(|word| word.text) }),
        _ => {}
    }
    let action = simple_action(&word.text);
    if action.is_none() {
        let message = format!("unknown action {:?}", word.text);
        problems.push(problem(word.place, message, format!("known actions: {}", Action::NAMES.join(", "))));
    }
    action
}
