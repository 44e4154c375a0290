//! `[promotion]`, `[evolution]`, `[validation]`, `[blueprints]`, `[agents]` and `[commands]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::duration::format_duration;
use super::super::section::{At, Node, Read, Section};
use super::super::value::{Bytes, one_of};
use super::super::{
    Agent, Blueprints, CanaryStep, Evolution, Fixture, ListenAddress, OnInconclusive, Place, Promotion, PromotionMode,
    Retry, Runtime, Shadow, Strategy, Tap, Validation,
};
use super::paths;
use super::signals::at_least_one;
use crate::interface::types::IncidentClass;

/// Steps of one canary: more are a mistake.
const CANARY_STEPS_MAX: usize = 16;
/// Routes of one list: more are a mistake.
const SHADOW_ROUTES_MAX: usize = 64;
/// The longest name of an agent, a command or a blueprint.
const NAME_BYTES_MAX: usize = 64;
/// The blueprints that come with rei, with whether they need an agent.
const SHIPPED: [(&str, bool); 2] = [("repair", true), ("upgrade", false)];

impl Read for PromotionMode {
    const WHAT: &'static str = "\"automatic\" or \"approve\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("automatic", Self::Automatic), ("approve", Self::Approve)])
    }
}

impl Read for OnInconclusive {
    const WHAT: &'static str = "\"ask\", \"promote\" or \"revert\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("ask", Self::Ask), ("promote", Self::Promote), ("revert", Self::Revert)])
    }
}

impl Read for CanaryStep {
    const WHAT: &'static str = "{ share = 0.05, for = \"30s\" }";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let mut section = Section::element(&node)?;
        let share = section.required::<f64>("share", "0.05");
        let r#for = section.required("for", "\"30s\"");
        if let Some(at) = share.as_ref().filter(|at| !(at.value > 0.0 && at.value < 1.0)) {
            let message = format!("a share of {} is no canary", at.value);
            section.impossible("share", &at.span, message, "above 0 and below 1; all traffic follows by itself");
        }
        section.close();
        Some(Self { share: share?.value, r#for: r#for?.value })
    }
}

pub(super) fn promotion(mut section: Section<'_>, runtime: Option<&Runtime>, tap: Option<Tap>) -> Option<Promotion> {
    let mode = section.value("mode");
    let shadow = section.optional_section("shadow").map(|section| shadow(section, runtime, tap));
    let canary = section.value::<Vec<At<CanaryStep>>>("canary");
    let canary = canary.map(|at| steps(&section, at, runtime));
    let (observe, hold) = (section.value("observe"), section.value("hold"));
    let on_inconclusive = section.value("on_inconclusive");
    let keep_generations = section.value::<u64>("keep_generations");
    section.close();
    Some(Promotion {
        mode: mode?.value,
        shadow: shadow.map_or(Some(None), |shadow| shadow.map(Some))?,
        canary: canary?,
        observe: observe?.value,
        on_inconclusive: on_inconclusive?.value,
        hold: hold?.value,
        keep_generations: keep_generations?.value,
    })
}

fn shadow(mut section: Section<'_>, runtime: Option<&Runtime>, tap: Option<Tap>) -> Option<Shadow> {
    let share = section.required::<f64>("share", "0.05");
    let r#for = section.required::<Duration>("for", "\"30s\"");
    let (routes, except) = (shadow_routes(&mut section, "routes"), shadow_routes(&mut section, "except"));
    if let Some(at) = share.as_ref().filter(|at| !(at.value > 0.0 && at.value <= 1.0)) {
        let message = format!("{} is no share of the requests", at.value);
        section.impossible("share", &at.span, message, "above 0, and at most 1");
    }
    let obstacle = match (runtime, tap) {
        (None, _) | (_, None) => None,
        (Some(runtime), _) if runtime.strategy == Strategy::Recreate => Some((
            "with strategy \"recreate\" only one instance runs",
            "remove `shadow`, or write `strategy = \"overlap\"`",
        )),
        (Some(runtime), Some(tap)) if !runtime.listen.iter().any(|listen| tap.takes(listen)) => Some((
            "no listener has a tap, so no request is seen",
            "`traffic.tap` says which listeners have one: TCP on loopback, others with `listeners = \"all\"`",
        )),
        (Some(_), Some(_)) => None,
    };
    if let Some((obstacle, hint)) = obstacle {
        let span = section.span();
        section.impossible("share", &span, format!("no shadow is possible: {obstacle}"), hint);
    }
    section.close();
    Some(Shadow { share: share?.value, r#for: r#for?.value, routes: routes?, except: except? })
}

/// Routes by method and path: `POST /search`.
fn shadow_routes(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let routes = section.value::<Vec<At<String>>>(key)?;
    if routes.value.len() > SHADOW_ROUTES_MAX {
        let message = format!("{} routes are more than {SHADOW_ROUTES_MAX}", routes.value.len());
        section.impossible(key, &routes.span, message, "name fewer routes");
    }
    for At { value, span, .. } in &routes.value {
        let is_method = |method: &str| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
        let is_route = value.split_once(' ').is_some_and(|(method, path)| {
            is_method(method) && path.starts_with('/') && !path.contains(char::is_whitespace) && !path.contains('?')
        });
        if !is_route {
            let message = format!("`{value}` is no route");
            section.impossible(key, span, message, "a method and a path without a query: \"POST /orders/{}/price\"");
        }
    }
    Some(routes.value.into_iter().map(|at| at.value).collect())
}

fn steps(section: &Section<'_>, at: At<Vec<At<CanaryStep>>>, runtime: Option<&Runtime>) -> Vec<CanaryStep> {
    let shareable = |runtime: &Runtime| runtime.listen.iter().any(|l| !matches!(l.address, ListenAddress::Unix(_)));
    let obstacle = match runtime {
        None => None,
        Some(runtime) if runtime.strategy == Strategy::Recreate => {
            Some("with strategy \"recreate\" only one instance runs")
        }
        Some(runtime) if !shareable(runtime) => Some("connections can be shared on TCP and UDP listeners only"),
        Some(_) => None,
    };
    if !at.given && obstacle.is_some() {
        return Vec::new();
    }
    if let Some(obstacle) = obstacle.filter(|_| !at.value.is_empty()) {
        section.impossible("canary", &at.span, format!("no canary is possible: {obstacle}"), "write `canary = []`");
    }
    if at.value.len() > CANARY_STEPS_MAX {
        let message = format!("{} canary steps are more than {CANARY_STEPS_MAX}", at.value.len());
        section.impossible("canary", &at.span, message, "take fewer, larger steps");
    }
    for pair in at.value.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.value.share <= before.value.share {
            let message = format!("the share {} does not rise above {}", after.value.share, before.value.share);
            section.impossible("canary", &after.span, message, "each step takes more than the one before");
        }
    }
    at.value.into_iter().map(|step| step.value).collect()
}

pub(super) fn evolution(mut section: Section<'_>) -> Option<Evolution> {
    let mut budget = section.section("budget");
    let (per_incident, per_hour) = (at_least_one(&mut budget, "per_incident"), at_least_one(&mut budget, "per_hour"));
    let (agent_runs, agent_time) = (at_least_one(&mut budget, "agent_runs"), budget.value("agent_time"));
    budget.close();
    let retry = retry(section.section("retry"));
    section.close();
    let (agent_time, retry) = (agent_time?.value, retry?);
    Some(Evolution { per_incident: per_incident?, per_hour: per_hour?, agent_runs: agent_runs?, agent_time, retry })
}

fn retry(mut section: Section<'_>) -> Option<Retry> {
    let (pause, pause_max) = (section.value::<Duration>("pause"), section.value::<Duration>("pause_max"));
    let tries = at_least_one(&mut section, "tries");
    let (pause, pause_max) = (pause?, pause_max?);
    if pause_max.value < pause.value {
        let (span, key) = if pause_max.given { (&pause_max.span, "pause_max") } else { (&pause.span, "pause") };
        let (longest, first) = (format_duration(pause_max.value), format_duration(pause.value));
        let message = format!("the longest pause, {longest}, is shorter than the first, {first}");
        section.impossible(key, span, message, "set `pause_max` to at least `pause`");
    }
    section.close();
    let tries = u32::try_from(tries?).unwrap_or(u32::MAX);
    Some(Retry { pause: pause.value, pause_max: pause_max.value, tries })
}

pub(super) fn validation(mut section: Section<'_>, place: &Place) -> Option<Validation> {
    let golden = section.value::<Vec<String>>("golden");
    let protected = section.value::<Vec<At<String>>>("protected");
    for at in protected.iter().flat_map(|globs| &globs.value) {
        let (glob, key) = (&at.value, "protected");
        if let Err(error) = globset::Glob::new(glob) {
            section.impossible(key, &at.span, format!("`{glob}` is no glob: {}", error.kind()), "as in \"tests/**\"");
        } else if glob.is_empty() || glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
            let message = format!("`{glob}` matches nothing inside the repository");
            section.impossible(key, &at.span, message, "write it from the repository's root: \"tests/**\"");
        }
    }
    let timeout = section.value("timeout");
    let import = section.value("allow_import_from_derivation");
    let state = section.optional_section("state").map(|section| fixture(section, place));
    section.close();
    Some(Validation {
        golden: golden?.value.iter().map(|path| paths::resolved(path, place)).collect(),
        protected: protected?.value.into_iter().map(|at| at.value).collect(),
        timeout: timeout?.value,
        allow_import_from_derivation: import?.value,
        state: state.map_or(Some(None), |fixture| fixture.map(Some))?,
    })
}

fn fixture(mut section: Section<'_>, place: &Place) -> Option<Fixture> {
    let fixture = section.required::<DirectoryOrCommand>("fixture", "\"fixture\"");
    let fixture = fixture.map(|At { value, span, .. }| match value {
        DirectoryOrCommand::Directory(path) => Fixture::Directory(paths::resolved(&path, place)),
        DirectoryOrCommand::Command(command) => {
            let program = command.first().map_or("", String::as_str);
            if program.is_empty() || !paths::is_inner(program) {
                let message = format!("`{program}` is not a program inside the store path");
                section.impossible("fixture", &span, message, "write it from the package's root: [\"bin/NAME\"]");
            }
            Fixture::Command(command)
        }
    });
    section.close();
    fixture
}

/// A directory, or a program with its arguments.
enum DirectoryOrCommand {
    Directory(String),
    Command(Vec<String>),
}

impl Read for DirectoryOrCommand {
    const WHAT: &'static str = "a directory, or a program with its arguments";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        if node.elements().is_some() {
            return Vec::read(node).map(Self::Command);
        }
        String::read(node).map(Self::Directory)
    }
}

pub(super) fn agents(section: &Section<'_>, place: &Place) -> Option<BTreeMap<String, Agent>> {
    let mut agents = BTreeMap::new();
    let mut whole = true;
    for (name, mut agent) in section.named_sections() {
        named(section, &name, &agent.span());
        match self::agent(&mut agent, place) {
            Some(read) => drop(agents.insert(name, read)),
            None => whole = false,
        }
        agent.close();
    }
    whole.then_some(agents)
}

fn agent(section: &mut Section<'_>, place: &Place) -> Option<Agent> {
    let command = section.required::<Vec<String>>("command", "[\"/usr/bin/some-agent\"]");
    paths::command_is_there(section, command.as_ref());
    let env = paths::environment(section.section("env"));
    let (timeout, network) = (section.value("timeout"), section.value("network"));
    let (memory, output) = (section.value::<Bytes>("memory"), section.value::<Bytes>("output"));
    let read = paths::absolute(section, "read");
    Some(Agent {
        command: paths::program(command?.value, place),
        env,
        timeout: timeout?.value,
        memory_bytes: memory?.value.0,
        output_bytes: output?.value.0,
        read: read?,
        network: network?.value,
    })
}

pub(super) fn commands(section: &Section<'_>, place: &Place) -> Option<BTreeMap<String, Vec<String>>> {
    let mut commands = BTreeMap::new();
    for (name, at) in section.named_values::<Vec<String>>() {
        named(section, &name, &at.span);
        if at.value.first().is_none_or(String::is_empty) {
            section.impossible(
                &name,
                &at.span,
                format!("`commands.{name}` names no program"),
                "[\"/usr/bin/make\", \"fmt\"]",
            );
        }
        commands.insert(name, paths::program(at.value, place));
    }
    Some(commands)
}

fn named(section: &Section<'_>, name: &str, span: &std::ops::Range<usize>) {
    if !paths::is_name(name, NAME_BYTES_MAX) {
        section.impossible(name, span, format!("`{name}` is no name"), "letters, digits, - and _");
    }
}

/// The classes of incidents by the words that the file uses.
const CLASSES: [(&str, IncidentClass); 5] = [
    ("runtime_failure", IncidentClass::RuntimeFailure),
    ("behavioral_degradation", IncidentClass::BehavioralDegradation),
    ("policy_violation", IncidentClass::PolicyViolation),
    ("observability_signal", IncidentClass::ObservabilitySignal),
    ("upgrade_request", IncidentClass::UpgradeRequest),
];

/// Names of blueprints, and where they are written.
struct ByIncident {
    default: Option<At<String>>,
    by_class: BTreeMap<IncidentClass, At<String>>,
}

impl Read for ByIncident {
    const WHAT: &'static str = "a blueprint, or a table of them by incident class";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        if node.table().is_none() {
            return Some(Self { default: Some(At::read(node)?), by_class: BTreeMap::new() });
        }
        let mut section = Section::element(&node)?;
        let default = section.optional("default");
        let read = CLASSES.into_iter().filter_map(|(word, class)| Some((class, section.optional(word)?)));
        let by_class = read.collect();
        section.close();
        Some(Self { default, by_class })
    }
}

pub(super) fn blueprints(
    mut section: Section<'_>,
    agents: Option<&BTreeMap<String, Agent>>,
    place: &Place,
) -> Option<Blueprints> {
    let directory = section.optional::<String>("directory").map(|at| paths::resolved(&at.value, place));
    let incident = section.optional::<ByIncident>("incident").map(|at| at.value);
    let (upgrade, timeout) = (section.value::<String>("upgrade"), section.value("timeout"));
    let of_incidents = incident.iter().flat_map(|i| i.default.iter().chain(i.by_class.values()));
    for (key, at) in of_incidents.map(|at| ("incident", at)).chain(upgrade.as_ref().map(|at| ("upgrade", at))) {
        if let Some((message, hint)) = blueprint_fault(&at.value, directory.is_some(), agents) {
            section.impossible(key, &at.span, message, hint);
        }
    }
    section.close();
    let (default, by_class) = incident.map_or((None, BTreeMap::new()), |i| (i.default, i.by_class));
    Some(Blueprints {
        directory,
        incident: default.map(|at| at.value),
        by_class: by_class.into_iter().map(|(class, at)| (class, at.value)).collect(),
        upgrade: upgrade?.value,
        timeout: timeout?.value,
    })
}

/// What can be known without reading the blueprints (a directory of the operator's may hold any), and a hint.
fn blueprint_fault(name: &str, own: bool, agents: Option<&BTreeMap<String, Agent>>) -> Option<(String, &'static str)> {
    let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
    if !paths::is_name(name, NAME_BYTES_MAX) {
        Some((format!("`{name}` is no name of a blueprint"), "its file's name without .yaml"))
    } else if shipped.is_none() && !own {
        let hint = "set `blueprints.directory`, or use `repair` or `upgrade`";
        Some((format!("no blueprint `{name}` comes with rei"), hint))
    } else if shipped.is_some_and(|(_, needs_agent)| *needs_agent) && !own && agents.is_some_and(BTreeMap::is_empty) {
        let hint = "add [agents.NAME] with command = [\"/usr/bin/some-agent\"]";
        Some((format!("the blueprint `{name}` needs an agent, and none is set"), hint))
    } else {
        None
    }
}
