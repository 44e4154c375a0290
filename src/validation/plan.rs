//! Every decision of the judge: from configuration and facts to an immutable plan, bound to one store path. Pure.
//!
//! The plan says what it was made from. It leaves the executor nothing to choose, and it can be printed, compared and
//! stored.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::checks::{CheckSpec, GoldenSpec, InputName, Kind, ReproductionSpec, stays_inside};
use super::step::StepId;
use crate::config::{Config, Fixture};
use crate::digest;
use crate::interface::types::{Verdict, Version};
use crate::time::millis;

/// The version of a stored plan.
pub const SCHEMA: &str = "rei-plan/1.0";

/// A derivation and its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// `/nix/store/HASH-NAME.drv`.
    pub drv: String,
    /// `/nix/store/HASH-NAME`.
    pub out: String,
}

/// The checks of a flake by name; `None` for one that does not evaluate.
pub type FlakeChecks = BTreeMap<String, Option<Built>>;

/// A file of a git tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Relative to the root of the tree.
    pub path: String,
    /// What the tree says of it: mode and object id, compared as they are.
    pub object: String,
}

/// A golden run that is to be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenFact {
    /// Its name.
    pub name: String,
    /// The listener that it asks.
    pub listener: String,
    /// Its file on this machine.
    pub path: PathBuf,
    /// SHA-256 of the file in hex: a file that has changed since is refused.
    pub sha256: String,
    /// The directory with its large bodies, if it has some. The run names each by its SHA-256, so one that has changed is
    /// refused too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bodies: Option<PathBuf>,
}

/// Everything that a plan is made from, besides the configuration.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is judged.
    pub candidate: Version,
    /// What it is compared with.
    pub active: Version,
    /// The checks of Active's flake, or why they are not known.
    pub active_checks: Result<FlakeChecks, String>,
    /// The checks of the candidate's flake, or why they are not known.
    pub candidate_checks: Result<FlakeChecks, String>,
    /// The files of Active's tree.
    pub active_files: Vec<TreeFile>,
    /// The files of the candidate's tree.
    pub candidate_files: Vec<TreeFile>,
    /// The operator's golden runs.
    pub golden: Vec<GoldenFact>,
    /// The exchanges that led to the incident, if there is one and they were recorded.
    pub reproduction: Option<GoldenFact>,
    /// The rei program: a file in the store, or one that is copied there.
    pub rei: PathBuf,
    /// Another value makes Nix build the checks again instead of reusing an earlier verdict.
    pub nonce: String,
}

/// What a plan was made from, in short: if one of these has changed, the plan is stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFrom {
    /// The candidate's commit.
    pub candidate_rev: String,
    /// Active's commit.
    pub active_rev: String,
    /// SHA-256, in hex, of the configuration and of all facts.
    pub digest: String,
}

/// An immutable list of checks for one store path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// The only store path that it judges.
    pub store_path: String,
    /// The store path of Active that it is compared with.
    pub active_store_path: String,
    /// Where it comes from.
    pub made_from: MadeFrom,
    /// The rei program that builds the sandboxed checks.
    pub rei: PathBuf,
    /// Distinguishes repetitions.
    pub nonce: String,
    /// The bound of all checks together, in milliseconds.
    pub timeout_ms: u64,
    /// The checks, in the order of the report.
    pub steps: Vec<Step>,
}

/// One check of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which check it is.
    #[serde(rename = "name")]
    pub id: StepId,
    /// How it comes to its verdict.
    pub work: Work,
}

/// How a check comes to its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// The facts decide it.
    Decided {
        /// Its verdict.
        verdict: Verdict,
        /// One line for a person.
        summary: String,
        /// Findings, most telling first.
        details: Vec<String>,
    },
    /// It passes if and only if this derivation builds.
    Build(Built),
    /// Its verdict is the `verdict.json` of a derivation whose builder is the rei program.
    Sandboxed {
        /// What the builder is asked.
        spec: Box<CheckSpec>,
        /// What it can read.
        inputs: Inputs,
    },
}

/// What a sandboxed check reads, by name.
pub type Inputs = BTreeMap<InputName, Input>;

/// Something that a sandboxed check reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// A version: its store path.
    StorePath(String),
    /// A golden run.
    Run(GoldenFact),
    /// The files of a directory.
    Directory {
        /// The directory on this machine.
        directory: PathBuf,
    },
}

impl Input {
    fn version(version: &Version) -> Self {
        Self::StorePath(version.store_path.clone())
    }

    fn run(run: &GoldenFact) -> Self {
        Self::Run(run.clone())
    }
}

impl Step {
    fn decided(id: StepId, verdict: Verdict, summary: impl Into<String>, details: Vec<String>) -> Self {
        Self { id, work: Work::Decided { verdict, summary: summary.into(), details } }
    }

    fn sandboxed(id: StepId, kind: Kind, mut inputs: Inputs, config: &Config) -> Self {
        let is_started = inputs.keys().any(|name| name.is_version());
        if let Some(Fixture::Directory(directory)) = config.validation.state.as_ref().filter(|_| is_started) {
            inputs.insert(InputName::State, Input::Directory { directory: directory.clone() });
        }
        let spec = Box::new(CheckSpec::new(&id, kind, config));
        Self { id, work: Work::Sandboxed { spec, inputs } }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "judge    {}", self.store_path)?;
        writeln!(f, "against  {}", self.active_store_path)?;
        let MadeFrom { candidate_rev, active_rev, digest } = &self.made_from;
        writeln!(f, "made of  {candidate_rev} and {active_rev}, facts {}", digest::short(digest))?;
        for (index, step) in self.steps.iter().enumerate() {
            write!(f, "{:>3}. {:<24} ", index + 1, step.id)?;
            match &step.work {
                Work::Decided { verdict, summary, .. } => writeln!(f, "{verdict:?}: {summary}")?,
                Work::Build(built) => writeln!(f, "builds {}", built.drv)?,
                Work::Sandboxed { inputs, .. } => match inputs.get(&InputName::Golden) {
                    Some(Input::Run(run)) => writeln!(f, "replays {}", run.path.display())?,
                    Some(Input::StorePath(_) | Input::Directory { .. }) | None => writeln!(f, "runs in a sandbox")?,
                },
            }
        }
        Ok(())
    }
}

/// Makes the plan.
pub fn plan(config: &Config, facts: &Facts) -> Plan {
    let mut steps = vec![Step::sandboxed(StepId::Control, Kind::Control, Inputs::new(), config)];
    steps.push(protected(&config.validation.protected, facts));
    steps.extend(units(facts));
    steps.push(boot(config, facts));
    steps.extend(facts.golden.iter().map(|run| golden(config, facts, run)));
    steps.extend(facts.reproduction.iter().map(|run| {
        let candidate = (InputName::Candidate, Input::version(&facts.candidate));
        reproduction(config, &facts.active, run, Some(candidate))
    }));
    with_steps(config, facts, steps)
}

/// A plan that replays a run against Active alone, as the diagnosis of an incident does.
pub fn plan_reproduction(config: &Config, active: &Version, run: &GoldenFact, rei: PathBuf, nonce: String) -> Plan {
    plan_on_active(config, active, run, rei, nonce, reproduction(config, active, run, None))
}

/// A plan that finds which exchanges of a recording Active repeats.
pub fn plan_qualify(config: &Config, active: &Version, run: &GoldenFact, rei: PathBuf, nonce: String) -> Plan {
    let inputs = Inputs::from([(InputName::Active, Input::version(active)), (InputName::Golden, Input::run(run))]);
    let kind = Kind::Qualify(GoldenSpec::default());
    let step = replayed(StepId::Qualify(run.name.clone()), kind, run, inputs, config);
    plan_on_active(config, active, run, rei, nonce, step)
}

fn plan_on_active(
    config: &Config,
    active: &Version,
    run: &GoldenFact,
    rei: PathBuf,
    nonce: String,
    step: Step,
) -> Plan {
    let facts = Facts {
        candidate: active.clone(),
        active: active.clone(),
        active_checks: Ok(FlakeChecks::new()),
        candidate_checks: Ok(FlakeChecks::new()),
        active_files: Vec::new(),
        candidate_files: Vec::new(),
        golden: Vec::new(),
        reproduction: Some(run.clone()),
        rei,
        nonce,
    };
    with_steps(config, &facts, vec![step])
}

fn with_steps(config: &Config, facts: &Facts, steps: Vec<Step>) -> Plan {
    Plan {
        schema: SCHEMA.into(),
        store_path: facts.candidate.store_path.clone(),
        active_store_path: facts.active.store_path.clone(),
        made_from: made_from(config, facts),
        rei: facts.rei.clone(),
        nonce: facts.nonce.clone(),
        timeout_ms: millis(config.validation.timeout),
        steps,
    }
}

fn boot(config: &Config, facts: &Facts) -> Step {
    if config.runtime.command.first().is_some_and(|program| stays_inside(program)) {
        let inputs = Inputs::from([(InputName::Candidate, Input::version(&facts.candidate))]);
        Step::sandboxed(StepId::Boot, Kind::Boot, inputs, config)
    } else {
        let summary = "runtime.command does not name a program inside the store path";
        Step::decided(StepId::Boot, Verdict::Fail, summary, Vec::new())
    }
}

fn golden(config: &Config, facts: &Facts, run: &GoldenFact) -> Step {
    let inputs = Inputs::from([
        (InputName::Candidate, Input::version(&facts.candidate)),
        (InputName::Active, Input::version(&facts.active)),
        (InputName::Golden, Input::run(run)),
    ]);
    replayed(StepId::Golden(run.name.clone()), Kind::Golden(GoldenSpec::default()), run, inputs, config)
}

fn reproduction(config: &Config, active: &Version, run: &GoldenFact, candidate: Option<(InputName, Input)>) -> Step {
    let mut inputs = Inputs::from([(InputName::Active, Input::version(active)), (InputName::Golden, Input::run(run))]);
    inputs.extend(candidate);
    replayed(StepId::Reproduction, Kind::Reproduction(ReproductionSpec::default()), run, inputs, config)
}

fn replayed(id: StepId, kind: Kind, run: &GoldenFact, mut inputs: Inputs, config: &Config) -> Step {
    inputs.extend(run.bodies.iter().map(|at| (InputName::Bodies, Input::Directory { directory: at.clone() })));
    let step = Step::sandboxed(id, kind, inputs, config);
    let Work::Sandboxed { spec, .. } = &step.work else { return step };
    match spec.instance.listen.iter().find(|listen| listen.name == run.listener) {
        Some(listen) if listen.kind.is_stream() => step,
        Some(_) => {
            let summary = format!(
                "it asks the listener {:?}, which is UDP, and only TCP and Unix sockets can be asked",
                run.listener
            );
            Step::decided(step.id, Verdict::Inconclusive, summary, Vec::new())
        }
        None => {
            let summary = format!("it asks the listener {:?}, which runtime.listen does not have", run.listener);
            Step::decided(step.id, Verdict::Inconclusive, summary, Vec::new())
        }
    }
}

/// The files that the operator named are as in Active: none changed, removed or added.
fn protected(globs: &[String], facts: &Facts) -> Step {
    let set = match glob_set(globs) {
        Ok(set) => set,
        Err(error) => return Step::decided(StepId::Protected, Verdict::Inconclusive, error.to_string(), Vec::new()),
    };
    let named = |files: &[TreeFile]| -> BTreeMap<String, String> {
        let named = files.iter().filter(|file| set.is_match(&file.path));
        named.map(|file| (file.path.clone(), file.object.clone())).collect()
    };
    let (active, candidate) = (named(&facts.active_files), named(&facts.candidate_files));
    let mut details = Vec::new();
    for (path, object) in &active {
        match candidate.get(path) {
            None => details.push(format!("removed: {path}")),
            Some(other) if other != object => details.push(format!("changed: {path}")),
            Some(_) => {}
        }
    }
    details.extend(candidate.keys().filter(|path| !active.contains_key(*path)).map(|path| format!("added: {path}")));
    match details.first() {
        Some(first) => {
            let summary = format!("{} of the protected files are not as in Active ({first})", details.len());
            Step::decided(StepId::Protected, Verdict::Fail, summary, details)
        }
        None => {
            let summary = format!("{} protected files are as in Active", active.len());
            Step::decided(StepId::Protected, Verdict::Pass, summary, details)
        }
    }
}

fn glob_set(globs: &[String]) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(Glob::new(glob)?);
    }
    builder.build()
}

/// Every check of Active's flake is still there and builds; so does every check that the candidate adds.
fn units(facts: &Facts) -> Vec<Step> {
    let (active, candidate) = match (&facts.active_checks, &facts.candidate_checks) {
        (Ok(active), Ok(candidate)) => (active, candidate),
        (Err(reason), _) => {
            let summary = "the checks of Active's flake are not known";
            return vec![Step::decided(StepId::Units, Verdict::Inconclusive, summary, vec![reason.clone()])];
        }
        (Ok(_), Err(reason)) => {
            let summary = "the checks of the candidate's flake do not evaluate";
            return vec![Step::decided(StepId::Units, Verdict::Fail, summary, vec![reason.clone()])];
        }
    };
    if active.is_empty() && candidate.is_empty() {
        let summary = "neither flake has checks: nothing is tested, and none fewer than on Active";
        return vec![Step::decided(StepId::Units, Verdict::Pass, summary, Vec::new())];
    }
    let gone = active.keys().filter(|name| !candidate.contains_key(*name)).map(|name| {
        let summary = format!("Active's flake has the check {name:?}, and the candidate's has not");
        Step::decided(StepId::Unit(name.clone()), Verdict::Fail, summary, Vec::new())
    });
    let there = candidate.iter().map(|(name, built)| match built {
        Some(built) => Step { id: StepId::Unit(name.clone()), work: Work::Build(built.clone()) },
        None => {
            let summary = format!("the check {name:?} of the candidate's flake does not evaluate");
            Step::decided(StepId::Unit(name.clone()), Verdict::Fail, summary, Vec::new())
        }
    });
    gone.chain(there).collect()
}

fn made_from(config: &Config, facts: &Facts) -> MadeFrom {
    // The nonce is not among them: a repetition is made from the same facts.
    let Facts { candidate, active, active_checks, candidate_checks, active_files, candidate_files, .. } = facts;
    let all = serde_json::json!({
        "config": config,
        "candidate": candidate,
        "active": active,
        "active_checks": active_checks.as_ref().ok(),
        "candidate_checks": candidate_checks.as_ref().ok(),
        "active_files": active_files,
        "candidate_files": candidate_files,
        "golden": facts.golden,
        "reproduction": facts.reproduction,
        "rei": facts.rei,
    });
    let digest = digest::sha256(all.to_string());
    MadeFrom { candidate_rev: candidate.rev.clone(), active_rev: active.rev.clone(), digest }
}
