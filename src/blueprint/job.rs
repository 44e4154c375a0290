//! The input, the events and the checkpoint of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{Event, Machine, Position};
use super::schema::{Action, Blueprint, Work};
use super::store::Artifact;
use super::yaml::{Problem, problem};
use crate::config::types::Agent;
use crate::interface::types::{CandidateId, EvolutionId, SCHEMA};
use crate::redact::Secrets;
use crate::source::{self, Mirror, ObjectId};
use crate::time::Timestamp;

/// A run of a blueprint.
#[derive(Clone, Debug)]
pub struct Job {
    /// The id of the run and the name of its directory: letters, digits, `_`, `-`.
    pub run_id: String,
    /// The blueprint.
    pub blueprint: Blueprint,
    /// The mirror of the runtime's repository.
    pub mirror: Mirror,
    /// The candidate under whose ref commits are kept.
    pub candidate: CandidateId,
    /// Active's commit, where the work starts.
    pub active: ObjectId,
    /// The commit of the followed ref, for `checkout`. It is in the mirror.
    pub followed: Option<ObjectId>,
    /// The evidence directory with `context.json`, or that file; `None` for an upgrade.
    pub context: Option<PathBuf>,
    /// The commit message.
    pub message: String,
    /// The date of the commits. It is fixed so that a repeated run makes the same commits.
    pub at: Timestamp,
    /// The directory of the flake in the repository; empty for the root.
    pub flake_dir: String,
    /// `[agents]`.
    pub agents: BTreeMap<String, Agent>,
    /// `[commands]`.
    pub commands: BTreeMap<String, Vec<String>>,
    /// The state directory, where `runs/RUN` is created. Agents do not see it, except their own directories.
    pub state_dir: PathBuf,
    /// The secrets that are removed from all output before it is stored or passed on.
    pub secrets: Secrets,
    /// Digests of the facts in the context, without values that differ each time it is collected.
    pub facts: Vec<String>,
    /// The tasks that agents were given in earlier evolutions. The same task is not given again unless there is a new
    /// fact.
    pub asked_before: Vec<EarlierEvolution>,
    /// The reasons why earlier repairs of the same incident were refused, oldest first.
    pub refused_before: Vec<(EvolutionId, String)>,
    /// The reasons why trees are in quarantine, by git tree.
    pub quarantine: BTreeMap<String, String>,
    /// The timeout of the whole run, including time before restarts of the supervisor.
    pub timeout: Duration,
}

/// An earlier evolution.
#[derive(Clone, Debug)]
pub struct EarlierEvolution {
    /// The id of the evolution.
    pub evolution: EvolutionId,
    /// Digests of the tasks that its agents were given.
    pub tasks: Vec<String>,
    /// Digests of the facts in the contexts that its agents were given.
    pub facts: BTreeSet<String>,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The run made a commit, which the mirror keeps under the candidate's ref.
    Done {
        /// The commit; never Active's.
        commit: ObjectId,
    },
    /// The run made no change: the files are the same as Active's.
    Unchanged {
        /// The commit with these files.
        commit: ObjectId,
    },
    /// The run failed.
    Failed {
        /// The stage that led to the failure.
        stage: String,
        /// The reason, as text.
        reason: String,
        /// What caused the failure.
        blame: Blame,
        /// The commit of the workspace's files at the end.
        commit: ObjectId,
    },
    /// The run waits for an operator: call [`Checkpoint::decide`], then [`super::run()`] again.
    Paused {
        /// The stage whose result or failure the operator decides about.
        stage: String,
        /// The state from which the run continues.
        checkpoint: Box<Checkpoint>,
    },
}

/// An operator's decision about a paused run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Continue.
    Approve,
    /// Reject the result.
    Reject {
        /// The reason.
        reason: String,
    },
}

/// The start or end of a stage, for the journal.
#[derive(Clone, Debug, Serialize)]
pub struct StageEvent {
    /// The id of the run.
    pub run_id: String,
    /// The id of the stage.
    pub stage: String,
    /// The number of the attempt of this stage in this run, counted from 1.
    pub attempt: u32,
    /// What happened.
    pub kind: StageEventKind,
    /// A summary in one line.
    pub summary: String,
    /// The time.
    pub at: Timestamp,
    /// The agent's run that ended with this event; `None` if no agent was started.
    pub agent: Option<AgentRun>,
    /// The state from which a run continues after a restart.
    pub checkpoint: Checkpoint,
}

/// A run of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentRun {
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The digest of its task; `None` if it gave no answer.
    pub asked: Option<String>,
}

/// The kind of a stage event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageEventKind {
    /// The stage has started.
    Started,
    /// The stage has succeeded.
    Completed,
    /// The stage has failed.
    Failed,
}

/// Records stage events. The runner waits until an event is recorded before it continues.
pub trait Journal {
    /// Records one event.
    fn record(&mut self, event: StageEvent) -> impl Future<Output = ()>;
}

/// The supervisor's builder and judge, for use by a blueprint's stages. Their results are advice for the agent, not a
/// verdict.
pub trait Checker {
    /// Builds the package of a commit that the mirror keeps under the candidate's ref.
    fn build(&self, commit: &ObjectId) -> impl Future<Output = CheckResult>;
    /// Runs the flake's checks on a commit.
    fn test(&self, commit: &ObjectId) -> impl Future<Output = CheckResult>;
    /// Runs those checks of the flake that are linters on a commit; succeeds if there are none.
    fn lint(&self, commit: &ObjectId) -> impl Future<Output = CheckResult>;
}

/// What caused the failure of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The content: the commit does not evaluate or build, or a check failed. The same files are not checked again.
    Content,
    /// The blueprint, its agent or its command: it did not produce the required result.
    #[default]
    Maker,
    /// The machine or something that it needs: network, Nix daemon, disk space, time.
    Machine,
    /// No failure: the agent was not started, because it got the same task in an earlier evolution.
    Repeat,
}

impl Blame {
    /// The cause of an error of the repository or workspace. A missing ref was named wrongly, and a forbidden file in a
    /// workspace was put there, so both are the maker's.
    pub fn of_source(error: &source::Error) -> Self {
        match error {
            // Such files do not fit on any machine at any time.
            source::Error::UnfitTree { .. }
            | source::Error::UnfitSubmodule { .. }
            | source::Error::LargeTree { .. } => Self::Content,
            error if error.is_of_what_was_given() => Self::Maker,
            _ => Self::Machine,
        }
    }
}

/// The result of the builder or the judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// True if it succeeded.
    pub ok: bool,
    /// A summary in one line.
    pub summary: String,
    /// The text that an agent needs for a correction: the end of a build log, failed tests.
    pub log: String,
    /// The store path of a successful build.
    pub product: Option<String>,
    /// What caused the failure, if it failed.
    pub blame: Blame,
}

/// The state of a run between two stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The version of this format.
    pub schema: String,
    /// The digest of the blueprint to which it belongs.
    pub blueprint_digest: String,
    /// The state of the machine.
    pub machine: Machine,
    /// The commit with which the workspace started: Active's, or one that a checkout chose.
    pub base: ObjectId,
    /// The commit of the workspace's files, if they differ from those of `base`.
    pub head: Option<ObjectId>,
    /// The artifacts of all stages, by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The last failure, which the next agent is told.
    pub failure: Option<LastFailure>,
    /// Checks that failed, with the files. The same check is not run again for the same files, because it could pass by
    /// chance.
    #[serde(default, rename = "refuted")]
    pub failed_checks: Vec<FailedCheck>,
    /// Digests of all tasks that agents were given in this run. An agent does not get exactly the same task twice.
    #[serde(default)]
    pub asked: Vec<String>,
    /// Time spent so far, in milliseconds.
    pub elapsed_ms: u64,
}

/// A failed check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// The name of the action.
    pub action: String,
    /// The commit of the files.
    pub commit: ObjectId,
    /// The reason.
    pub reason: String,
    /// Its log.
    pub log: Option<Artifact>,
}

/// A failure, as the next agent gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// The id of the stage.
    pub stage: String,
    /// The reason.
    pub reason: String,
    /// Its log.
    pub log: Option<Artifact>,
    /// What caused the failure.
    #[serde(default)]
    pub blame: Blame,
}

impl Checkpoint {
    /// The state before the first stage.
    pub fn start(job: &Job) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            blueprint_digest: job.blueprint.digest.clone(),
            machine: Machine::default(),
            base: job.active.clone(),
            head: None,
            artifacts: BTreeMap::new(),
            failure: None,
            failed_checks: Vec::new(),
            asked: Vec::new(),
            elapsed_ms: 0,
        }
    }

    /// The commit of the workspace's files.
    pub fn commit(&self) -> &ObjectId {
        self.head.as_ref().unwrap_or(&self.base)
    }

    /// Applies an operator's decision to a paused run; does nothing if the run is not paused.
    pub fn decide(&mut self, blueprint: &Blueprint, decision: Decision) {
        let event = match decision {
            Decision::Approve => Event::Approved,
            Decision::Reject { reason } => Event::Rejected { reason },
        };
        if let Position::Paused { .. } = self.machine.next() {
            self.machine.step(blueprint, event);
        }
    }
}

/// The agents and commands that a blueprint uses and rei.toml does not have.
pub fn missing(
    blueprint: &Blueprint,
    agents: &BTreeMap<String, Agent>,
    commands: &BTreeMap<String, Vec<String>>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for stage in &blueprint.stages {
        match &stage.work {
            Work::Agent { agent, .. } => {
                if let Err((message, hint)) = choose_agent(agent.as_deref(), agents) {
                    problems.push(problem(stage.place, format!("stage {:?}: {message}", stage.id), hint));
                }
            }
            Work::Action(Action::Run { command }) if commands.get(command).is_none_or(Vec::is_empty) => {
                let message = format!("stage {:?}: rei.toml has no command {command:?}", stage.id);
                problems.push(problem(stage.place, message, format!("[commands] {command} = [\"/path/to/program\"]")));
            }
            Work::Action(_) => {}
        }
    }
    problems
}

/// The agent with this name, or the only one; otherwise an error message and a hint.
pub(super) fn choose_agent<'a>(
    name: Option<&str>,
    agents: &'a BTreeMap<String, Agent>,
) -> Result<(&'a str, &'a Agent), (String, String)> {
    let known = || agents.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) => agents.get_key_value(name).ok_or_else(|| format!("rei.toml has no agent {name:?}")),
        None if agents.len() > 1 => {
            return Err((
                "there are several agents, and the stage does not choose one".into(),
                format!("write: agent: one of {}", known()),
            ));
        }
        None => agents.first_key_value().ok_or_else(|| "rei.toml has no agent".to_owned()),
    };
    let hint = || "[agents.NAME] command = [\"/path/to/agent\"]".to_owned();
    let (name, agent) = found.map_err(|message| (message, hint()))?;
    if agent.command.is_empty() {
        return Err((format!("the command of agent {name:?} is empty"), hint()));
    }
    Ok((name, agent))
}
