//! What a run is given, what it tells, and what it leaves for a supervisor that is started again.

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

/// One run of a blueprint.
#[derive(Clone, Debug)]
pub struct Job {
    /// Names the run and its directory: letters, digits, `_`, `-`.
    pub run_id: String,
    /// The recipe.
    pub blueprint: Blueprint,
    /// The runtime's repository.
    pub mirror: Mirror,
    /// Under whose ref commits are kept.
    pub candidate: CandidateId,
    /// Active's commit, from which the work begins.
    pub active: ObjectId,
    /// The commit of the followed ref, for `checkout`; in the mirror.
    pub followed: Option<ObjectId>,
    /// The evidence folder with its `context.json`, or that file; `None` for an upgrade.
    pub context: Option<PathBuf>,
    /// The message of the commits.
    pub message: String,
    /// The date of the commits: a run that is repeated makes the same ones.
    pub at: Timestamp,
    /// The directory of the flake inside the repository; empty for its root.
    pub flake_dir: String,
    /// `[agents]`.
    pub agents: BTreeMap<String, Agent>,
    /// `[commands]`.
    pub commands: BTreeMap<String, Vec<String>>,
    /// Where `runs/RUN` is made. Hidden from agents, but for their own directories.
    pub state_dir: PathBuf,
    /// What must not be stored or handed on, whoever prints it.
    pub secrets: Secrets,
    /// Digests of the facts that the context tells, without what differs each time it is collected.
    pub facts: Vec<String>,
    /// What agents were asked in earlier evolutions. It is not asked again, unless there is a fact that was not known.
    pub asked_before: Vec<Earlier>,
    /// Why earlier repairs of the same incident were refused, oldest first.
    pub refused_before: Vec<(EvolutionId, String)>,
    /// Why content is in quarantine, by its git tree.
    pub quarantine: BTreeMap<String, String>,
    /// The bound of the whole run, over all restarts of the supervisor.
    pub timeout: Duration,
}

/// An earlier evolution.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Its id.
    pub evolution: EvolutionId,
    /// Digests of the tasks that its agents were given.
    pub tasks: Vec<String>,
    /// Digests of the facts that its context told them.
    pub facts: BTreeSet<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a commit, kept in the mirror as the candidate's.
    Done {
        /// The commit; never Active's.
        commit: ObjectId,
    },
    /// There is none to be had: the files are those of Active.
    Unchanged {
        /// The commit that has them.
        commit: ObjectId,
    },
    /// There is none.
    Failed {
        /// The stage that led here.
        stage: String,
        /// Why, for a person.
        reason: String,
        /// Whose failure it is.
        blame: Blame,
        /// The commit of the workspace's files at the end.
        commit: ObjectId,
    },
    /// An operator decides: [`Checkpoint::decide`], then [`super::run()`] again.
    Paused {
        /// The stage whose result, or failure, is in question.
        stage: String,
        /// The state to go on from.
        checkpoint: Box<Checkpoint>,
    },
}

/// What an operator says about a paused run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Approve,
    /// Not so.
    Reject {
        /// Why.
        reason: String,
    },
}

/// A beginning or end of a stage, for the journal.
#[derive(Clone, Debug, Serialize)]
pub struct StageEvent {
    /// The run.
    pub run_id: String,
    /// The stage.
    pub stage: String,
    /// Counts the attempts of the stage in this run from 1.
    pub attempt: u32,
    /// What happened.
    pub kind: StageEventKind,
    /// One line for a person.
    pub summary: String,
    /// When.
    pub at: Timestamp,
    /// The run of an agent that has ended with it; `None` where none was started.
    pub agent: Option<AgentRun>,
    /// From here a run goes on after a restart.
    pub checkpoint: Checkpoint,
}

/// A run of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentRun {
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// A digest of the task that it was given; `None` where it gave no answer.
    pub asked: Option<String>,
}

/// What happened to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageEventKind {
    /// It begins.
    Started,
    /// It reached what it should.
    Completed,
    /// It did not.
    Failed,
}

/// Takes stage events. The runner waits until an event is recorded before it does anything else.
pub trait Journal {
    /// Records one event.
    fn record(&mut self, event: StageEvent) -> impl Future<Output = ()>;
}

/// The supervisor's own builder and judge, as a blueprint's stages may ask them: advice to the agent, not a verdict.
pub trait Workbench {
    /// Builds the package of a commit, which the mirror keeps under the candidate's ref.
    fn build(&self, commit: &ObjectId) -> impl Future<Output = Finding>;
    /// Runs the flake's checks on a commit.
    fn test(&self, commit: &ObjectId) -> impl Future<Output = Finding>;
    /// Runs those of the flake's checks that are linters on a commit; passes where there are none.
    fn lint(&self, commit: &ObjectId) -> impl Future<Output = Finding>;
}

/// Whose failure it is that a stage did not reach what it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The content's own: the commit does not evaluate or build, or a check says no. The same files are not asked twice.
    Content,
    /// The blueprint's, its agent's or its command's: it did not make what it should.
    #[default]
    Maker,
    /// The machine's, or of what it needs: no network, no Nix daemon, no space, no time.
    Machine,
    /// Nobody's: its agent was given the same in an earlier evolution, so it was not asked.
    Repeat,
}

impl Blame {
    /// Whose failure an error of the repository or workspace is: a ref that is not there was named wrongly, and what a
    /// workspace may not hold was put there.
    pub fn of_source(error: &source::Error) -> Self {
        match error {
            // No place and no time makes such files fit.
            source::Error::UnfitTree { .. } | source::Error::LargeTree { .. } => Self::Content,
            error if error.is_of_what_was_given() => Self::Maker,
            _ => Self::Machine,
        }
    }
}

/// What builder or judge found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Whether it holds.
    pub ok: bool,
    /// One line for a person.
    pub summary: String,
    /// What an agent needs to cure it: the end of a build log, failing tests.
    pub log: String,
    /// The store path, for a build that holds.
    pub product: Option<String>,
    /// Whose failure it is, where it does not hold.
    pub blame: Blame,
}

/// The state between two stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The shape of this object.
    pub schema: String,
    /// The blueprint that it belongs to.
    pub blueprint_digest: String,
    /// Which stage is next.
    pub machine: Machine,
    /// The commit that the workspace began with: Active's, or what a checkout chose.
    pub base: ObjectId,
    /// The commit of the workspace's files, once they differ from those of `base`.
    pub head: Option<ObjectId>,
    /// What the stages made, by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The last failure, which the next agent is told.
    pub failure: Option<LastFailure>,
    /// Which checks failed for which files: the same files are not asked the same again, as they could pass by chance.
    #[serde(default)]
    pub refuted: Vec<Refuted>,
    /// Digests of all that agents were given in this run: an agent is not asked exactly the same twice.
    #[serde(default)]
    pub asked: Vec<String>,
    /// Time spent so far, in milliseconds.
    pub elapsed_ms: u64,
}

/// A check that said no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuted {
    /// The action.
    pub action: String,
    /// The commit of the files.
    pub commit: ObjectId,
    /// Why.
    pub reason: String,
    /// Its log.
    pub log: Option<Artifact>,
}

/// A failure, as the next agent is told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// The stage.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// Its log.
    pub log: Option<Artifact>,
    /// Whose failure it is.
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
            refuted: Vec::new(),
            asked: Vec::new(),
            elapsed_ms: 0,
        }
    }

    /// The commit of the workspace's files.
    pub fn commit(&self) -> &ObjectId {
        self.head.as_ref().unwrap_or(&self.base)
    }

    /// Takes an operator's decision about a paused run; does nothing where none is awaited.
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

/// What a blueprint names that rei.toml does not have: agents and commands.
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

/// The agent of this name, or the only one; else what is wrong, and a hint.
pub(super) fn choose_agent<'a>(
    name: Option<&str>,
    agents: &'a BTreeMap<String, Agent>,
) -> Result<(&'a str, &'a Agent), (String, String)> {
    let known = || agents.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) => agents.get_key_value(name).ok_or_else(|| format!("rei.toml has no agent {name:?}")),
        None if agents.len() > 1 => {
            return Err((
                "there are several agents, and the stage names none".into(),
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
