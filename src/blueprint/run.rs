//! The runner: asks the machine for the next stage, runs it, and records the result.
//!
//! Each event is in the journal before the next stage starts. It contains the checkpoint from which a restarted
//! supervisor continues. A stage that was interrupted is repeated with the files that it started with.

use std::time::{Duration, Instant};

use serde_json::json;

use super::actions::agent::PATCH;
use super::actions::revise::recreate_workspace;
use super::actions::{ActionContext, Failure, Made};
use super::fields::is_name;
use super::job::{
    AgentRun, Blame, Checker, Checkpoint, FailedCheck, Job, Journal, LastFailure, RunOutcome, StageEvent,
    StageEventKind, missing,
};
use super::machine::{Event, Position};
use super::parse::Problems;
use super::schema::{Action, Sandbox, Stage, Work};
use super::store::{ARTIFACT_BYTES_MAX, Artifact, Store, clear_run, now};
use crate::redact::{Redactor, Secrets};
use crate::source::{self, Author, Taken, Workspace};
use crate::time::millis;

/// Why a run cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id of the run is not a valid directory name.
    #[error("{run_id:?} is not a valid id of a run")]
    RunId {
        /// The id.
        run_id: String,
    },
    /// The blueprint uses agents or commands that rei.toml does not have.
    #[error("the blueprint {name:?} cannot run here")]
    Missing {
        /// The name of the blueprint.
        name: String,
        /// What is missing.
        #[source]
        problems: Problems,
    },
    /// The blueprint has changed since the run started.
    #[error("the blueprint {name:?} has changed since this run started")]
    OtherBlueprint {
        /// The name of the blueprint.
        name: String,
    },
    /// An error of the repository or the workspace.
    #[error("cannot prepare the workspace of run {run_id}")]
    Source {
        /// The id of the run.
        run_id: String,
        /// The error.
        #[source]
        source: source::Error,
    },
    /// The run's directory cannot be written.
    #[error("cannot write the directory of run {run_id}")]
    Store {
        /// The id of the run.
        run_id: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What caused the error.
    pub fn blame(&self) -> Blame {
        match self {
            Self::RunId { .. } | Self::Missing { .. } | Self::OtherBlueprint { .. } => Blame::Maker,
            Self::Source { source, .. } => Blame::of_source(source),
            Self::Store { .. } => Blame::Machine,
        }
    }

    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { problems, .. } => problems.0.first().map(|problem| problem.hint.clone()),
            Self::OtherBlueprint { .. } => Some("start a new evolution: rei evolve".into()),
            Self::Source { source, .. } => source.hint(),
            Self::RunId { .. } | Self::Store { .. } => None,
        }
    }
}

/// Runs a blueprint to its end, or to the next decision of an operator; continues from `checkpoint` if there is one.
///
/// Dropping the future cancels the run: all its processes are killed, and the last checkpoint in the journal stays
/// valid.
///
/// # Errors
/// If the run cannot start. The failure of a stage is handled by the blueprint and is an [`RunOutcome`].
pub async fn run<W: Checker, J: Journal>(
    job: &Job,
    checkpoint: Option<Checkpoint>,
    checker: &W,
    journal: &mut J,
) -> Result<RunOutcome, Error> {
    let mut runner = Runner::begin(job, checkpoint, checker, journal).await?;
    let event = if runner.resumed { "run_resumed" } else { "run_started" };
    runner.store.note(event, now(), json!({"blueprint": job.blueprint.name, "base": runner.checkpoint.base}));
    let dir = runner.store.dir().to_owned();
    let outcome = runner.stages().await;
    if let Err(error) = clear_run(&dir).await {
        tracing::warn!(%error, run = job.run_id, "cannot remove the directories of a finished run");
    }
    outcome
}

struct Runner<'a, W, J> {
    job: &'a Job,
    checker: &'a W,
    journal: &'a mut J,
    store: Store,
    workspace: Workspace,
    checkpoint: Checkpoint,
    resumed: bool,
    /// Set if the run must end whatever its routes are: the stage, the reason, and the cause.
    stopped: Option<(String, String, Blame)>,
    /// The agent's run in the current stage.
    agent_ran: Option<AgentRun>,
    /// Time spent before this call, and the start of this call.
    earlier: Duration,
    began: Instant,
}

impl<'a, W: Checker, J: Journal> Runner<'a, W, J> {
    async fn begin(
        job: &'a Job,
        checkpoint: Option<Checkpoint>,
        checker: &'a W,
        journal: &'a mut J,
    ) -> Result<Self, Error> {
        let (run_id, name) = (job.run_id.clone(), job.blueprint.name.clone());
        if !is_name(&run_id) {
            return Err(Error::RunId { run_id });
        }
        let problems = missing(&job.blueprint, &job.agents, &job.commands);
        if !problems.is_empty() {
            return Err(Error::Missing { name, problems: Problems(problems) });
        }
        let resumed = checkpoint.is_some();
        let checkpoint = checkpoint.unwrap_or_else(|| Checkpoint::start(job));
        if checkpoint.blueprint_digest != job.blueprint.digest {
            return Err(Error::OtherBlueprint { name });
        }
        let store = Store::open(&job.state_dir, &run_id, &job.secrets)
            .map_err(|source| Error::Store { run_id: run_id.clone(), source })?;
        let failed = |source| Error::Source { run_id: run_id.clone(), source };
        let (base, head) = (&checkpoint.base, checkpoint.head.as_ref());
        let workspace = recreate_workspace(&job.mirror, &store.workspace(), base, head).await.map_err(failed)?;
        job.mirror.keep_candidate(&job.candidate, checkpoint.commit()).await.map_err(failed)?;
        let earlier = Duration::from_millis(checkpoint.elapsed_ms);
        let began = Instant::now();
        Ok(Self {
            job,
            checker,
            journal,
            store,
            workspace,
            checkpoint,
            resumed,
            stopped: None,
            agent_ran: None,
            earlier,
            began,
        })
    }

    /// Runs stage after stage, to the end of the run.
    async fn stages(mut self) -> Result<RunOutcome, Error> {
        let job = self.job;
        loop {
            let index = match self.checkpoint.machine.next().clone() {
                Position::Run { stage } => stage,
                position => return self.end(position).await,
            };
            let Some(stage) = job.blueprint.stage(index) else {
                let reason = "the checkpoint does not belong to this blueprint".into();
                return self.failed(format!("stage {index}"), reason, Blame::Maker);
            };
            if self.time_left().is_zero() {
                // If there are agents, they probably used up the time; without agents, only the machine can be too
                // slow.
                let agents = job.blueprint.stages.iter().any(|stage| matches!(stage.work, Work::Agent { .. }));
                let blame = if agents { Blame::Maker } else { Blame::Machine };
                return self.failed(stage.id.clone(), format!("the run took longer than {:?}", job.timeout), blame);
            }
            self.stage(index, stage).await;
            if let Some((stage, reason, blame)) = self.stopped.take() {
                return self.failed(stage, reason, blame);
            }
        }
    }

    fn time_left(&self) -> Duration {
        self.job.timeout.saturating_sub(self.earlier + self.began.elapsed())
    }

    /// Runs one stage, and records its start and its end.
    async fn stage(&mut self, index: usize, stage: &Stage) {
        let attempt = self.checkpoint.machine.failures_of(index) + 1;
        self.record(stage, attempt, StageEventKind::Started, stage.work.name().to_owned()).await;
        let timeout = stage.timeout.unwrap_or_else(|| stage.work.timeout()).min(self.time_left());
        let known = self.known(stage).await;
        let (begun, asked) = (Instant::now(), self.checkpoint.asked.len());
        let ended = match (self.inputs(stage), &known) {
            (_, Some(known)) => Ok(Err(Failure::new(known.reason.clone()).caused_by(Blame::Content))),
            (Ok(inputs), None) => tokio::time::timeout(timeout, self.work(stage, inputs)).await,
            (Err(failure), None) => Ok(Err(failure)),
        };
        let was_asked = !matches!(&ended, Ok(Err(failure)) if failure.not_asked);
        self.agent_ran = (was_asked && matches!(stage.work, Work::Agent { .. }))
            .then(|| AgentRun { took_ms: millis(begun.elapsed()), asked: self.checkpoint.asked.get(asked).cloned() });
        let late = ended.is_err();
        let blame = if matches!(stage.work, Work::Agent { .. }) { Blame::Maker } else { Blame::Machine };
        let too_late = || Failure::new(format!("took longer than {timeout:?}")).caused_by(blame);
        let done = ended.unwrap_or_else(|_| Err(too_late()));
        let ended = match self.store_result(stage, done).await {
            Ok(summary) => Ok(summary),
            Err(failure) => Err(clean_failure(&self.job.secrets, failure).await),
        };
        self.remove_agent_dirs().await;
        let (event, kind, summary) = match ended {
            Ok(summary) => (Event::Succeeded, StageEventKind::Completed, summary),
            Err(Failure { reason, log, blame, not_asked }) => {
                let log = log.and_then(|log| self.store.keep(&log).ok()).or(known.and_then(|known| known.log));
                if matches!(blame, Blame::Machine | Blame::Repeat) {
                    // A second attempt now would fail in the same way. The whole run may be repeated later.
                    self.stopped = Some((stage.id.clone(), reason.clone(), blame));
                } else if not_asked && let Some(last) = &self.checkpoint.failure {
                    // The agent was not started, so there is no new answer to the last failure. If a check has refused
                    // the current files, that is the verdict about them.
                    let refused = self.checkpoint.failed_checks.iter().any(|it| it.commit == *self.checkpoint.commit());
                    let blame = if refused { Blame::Content } else { blame };
                    self.stopped = Some((last.stage.clone(), format!("{} ({reason})", last.reason), blame));
                }
                self.note_failed_check(stage, &reason, log.as_ref(), blame);
                self.checkpoint.failure =
                    Some(LastFailure { stage: stage.id.clone(), reason: reason.clone(), log, blame });
                let event = if late { Event::TimedOut } else { Event::Failed { reason: reason.clone() } };
                (event, StageEventKind::Failed, reason)
            }
        };
        self.checkpoint.machine.step(&self.job.blueprint, event);
        self.record(stage, attempt, kind, summary).await;
    }

    /// The known verdict about the current files, before a check is run: an earlier failure of the same check, which
    /// could pass by chance in a second run, or the quarantine.
    async fn known(&self, stage: &Stage) -> Option<FailedCheck> {
        let (action, commit) = (stage.work.name().to_owned(), self.checkpoint.commit());
        if let Some(known) = self.failed_check(stage).cloned() {
            return Some(known);
        }
        if !stage.work.is_check() || self.job.quarantine.is_empty() {
            return None;
        }
        // If the tree cannot be read, the check itself will fail for the same reason.
        let tree = self.job.mirror.tree(commit).await.ok()?;
        let reason = self.job.quarantine.get(tree.as_str())?.clone();
        Some(FailedCheck { action, commit: commit.clone(), reason, log: None })
    }

    fn failed_check(&self, stage: &Stage) -> Option<&FailedCheck> {
        let (action, commit) = (stage.work.name(), self.checkpoint.commit());
        self.checkpoint.failed_checks.iter().find(|known| known.action == action && known.commit == *commit)
    }

    fn note_failed_check(&mut self, stage: &Stage, reason: &str, log: Option<&Artifact>, blame: Blame) {
        if !stage.work.is_check() || blame != Blame::Content || self.failed_check(stage).is_some() {
            return;
        }
        let (action, commit) = (stage.work.name().to_owned(), self.checkpoint.commit().clone());
        // The number of failures in a run is limited, so this list stays short.
        self.checkpoint.failed_checks.push(FailedCheck {
            action,
            commit,
            reason: reason.to_owned(),
            log: log.cloned(),
        });
    }

    async fn work(&mut self, stage: &Stage, inputs: Vec<(String, Artifact)>) -> Result<Made, Failure> {
        let mut ctx = ActionContext {
            job: self.job,
            checker: self.checker,
            store: &mut self.store,
            checkpoint: &mut self.checkpoint,
            workspace: &mut self.workspace,
            stage,
            inputs,
        };
        let envelope = ctx.envelope();
        ctx.store.note("action_called", now(), json!({"stage": stage.id, "envelope": envelope}));
        ctx.work().await
    }

    /// Commits the current files of the workspace, and stores the outputs of the stage. Returns its summary.
    async fn store_result(&mut self, stage: &Stage, done: Result<Made, Failure>) -> Result<String, Failure> {
        let taken = if stage.work.may_change_files() { self.take(stage).await } else { Ok(()) };
        let made = done?;
        // If the files of a stage cannot be committed, the stage itself is the cause.
        taken.map_err(|error| Failure::from(error).caused_by(Blame::Maker))?;
        let mut made = clean(&self.job.secrets, made).await?;
        let is_agent = matches!(stage.work, Work::Agent { .. });
        let has = |name: &str| made.artifacts.iter().any(|(known, _)| known == name);
        if is_agent && stage.outputs.iter().any(|output| output == PATCH) && !has(PATCH) {
            let (base, commit) = (&self.checkpoint.base, self.checkpoint.commit());
            let patch = self.job.mirror.patch(base, commit, ARTIFACT_BYTES_MAX).await?;
            made.artifacts.push((PATCH.to_owned(), patch));
        }
        for (name, bytes) in name_outputs(&stage.outputs, &made) {
            let mut artifact = self.store.keep(&bytes)?;
            artifact.of_context = matches!(stage.work, Work::Action(Action::BuildContextPack));
            let fields =
                json!({"stage": stage.id, "name": name, "artifact_id": artifact.artifact_id, "bytes": artifact.bytes});
            self.store.note("artifact_created", now(), fields);
            self.checkpoint.artifacts.insert(name, artifact);
        }
        Ok(made.summary)
    }

    /// Removes the agent's private directories after an attempt: its key may be in them.
    async fn remove_agent_dirs(&self) {
        let dir = self.store.agent();
        let removed = tokio::task::spawn_blocking(move || {
            for name in ["home", "outputs"] {
                // The rest is removed before the next attempt.
                let _ = std::fs::remove_dir_all(dir.join(name));
            }
        });
        let _ = removed.await;
    }

    /// Commits the workspace's files in the mirror. The rest of what an agent left in the workspace is removed with the
    /// workspace: files that git ignores, and objects of the agent's repository. Its key may be there in any form. No
    /// stage may depend on such files, because a run that continues after a restart does not have them either.
    async fn take(&mut self, stage: &Stage) -> Result<(), source::Error> {
        let (mirror, candidate) = (&self.job.mirror, &self.job.candidate);
        let (parent, secrets) = (&self.checkpoint.base, &self.job.secrets);
        let author = Author { parent, message: &self.job.message, at: self.job.at, secrets };
        let taken = match self.workspace.take(mirror, candidate, author).await {
            Ok(Taken::Commit(commit)) => {
                self.checkpoint.head = Some(commit);
                Ok(())
            }
            Ok(Taken::Unchanged) => {
                self.checkpoint.head = None;
                mirror.keep_candidate(candidate, &self.checkpoint.base).await
            }
            Err(error) => Err(error),
        };
        let by_agent = matches!(stage.work, Work::Agent { .. }) && stage.sandbox == Sandbox::WorkspaceWrite;
        if by_agent || matches!(taken, Err(source::Error::Secret { .. })) {
            let (base, head) = (&self.checkpoint.base, self.checkpoint.head.as_ref());
            self.workspace = recreate_workspace(mirror, self.workspace.dir(), base, head).await?;
        }
        taken
    }

    fn inputs(&self, stage: &Stage) -> Result<Vec<(String, Artifact)>, Failure> {
        let find = |name: &String| match self.checkpoint.artifacts.get(name) {
            Some(artifact) => Ok((name.clone(), artifact.clone())),
            None if name == "context" => self.context().map(|artifact| (name.clone(), artifact)),
            None => Err(Failure::new(format!("the input {name:?} was not made by the stages that ran so far"))),
        };
        stage.inputs.iter().map(find).collect()
    }

    fn context(&self) -> Result<Artifact, Failure> {
        let path = self.job.context.as_ref().ok_or_else(|| Failure::new("there is no evolution context"))?;
        let file = if path.is_dir() { path.join("context.json") } else { path.clone() };
        Ok(Artifact { of_context: true, ..self.store.keep(&std::fs::read(file)?)? })
    }

    async fn record(&mut self, stage: &Stage, attempt: u32, kind: StageEventKind, summary: String) {
        let elapsed = self.earlier + self.began.elapsed();
        self.checkpoint.elapsed_ms = millis(elapsed);
        let at = now();
        let name = match kind {
            StageEventKind::Started => "stage_started",
            StageEventKind::Completed => "stage_completed",
            StageEventKind::Failed => "stage_failed",
        };
        self.store.note(name, at, json!({"stage": stage.id, "attempt": attempt, "summary": summary}));
        let (run_id, stage) = (self.job.run_id.clone(), stage.id.clone());
        let checkpoint = self.checkpoint.clone();
        let agent = self.agent_ran.take();
        self.journal.record(StageEvent { run_id, stage, attempt, kind, summary, at, agent, checkpoint }).await;
    }

    async fn end(mut self, position: Position) -> Result<RunOutcome, Error> {
        let id = |index: usize| {
            self.job.blueprint.stage(index).map_or_else(|| format!("stage {index}"), |stage| stage.id.clone())
        };
        match position {
            Position::Failed { stage, reason } => {
                let stage = id(stage);
                // A rejection by an operator also leads here; then the blueprint counts as the cause.
                let last = self.checkpoint.failure.as_ref().filter(|failure| failure.stage == stage);
                let blame = last.map_or(Blame::Maker, |failure| failure.blame);
                self.failed(stage, reason, blame)
            }
            Position::Paused { stage, .. } => {
                let stage = id(stage);
                self.store.note("run_paused", now(), json!({"stage": stage}));
                Ok(RunOutcome::Paused { stage, checkpoint: Box::new(self.checkpoint) })
            }
            Position::Run { .. } | Position::Done => self.done().await,
        }
    }

    async fn done(mut self) -> Result<RunOutcome, Error> {
        let (mirror, commit) = (&self.job.mirror, self.checkpoint.commit().clone());
        let source = |source| Error::Source { run_id: self.job.run_id.clone(), source };
        let tree = mirror.tree(&commit).await.map_err(source)?;
        if tree == mirror.tree(&self.job.active).await.map_err(source)? {
            self.store.note("run_completed", now(), json!({"commit": commit, "unchanged": true}));
            return Ok(RunOutcome::Unchanged { commit });
        }
        self.store.note("run_completed", now(), json!({"commit": commit}));
        Ok(RunOutcome::Done { commit })
    }

    fn failed(&mut self, stage: String, reason: String, blame: Blame) -> Result<RunOutcome, Error> {
        self.store.note("run_failed", now(), json!({"stage": stage, "reason": reason, "blame": blame}));
        let commit = self.checkpoint.commit().clone();
        Ok(RunOutcome::Failed { stage, reason, blame, commit })
    }
}

/// Removes secrets from the result of a stage. A patch is applied unchanged, so a patch with a secret is refused.
async fn clean(secrets: &Secrets, made: Made) -> Result<Made, Failure> {
    let is_patch =
        |name: &str, bytes: &[u8]| name == PATCH || bytes.starts_with(b"diff ") || bytes.starts_with(b"--- ");
    let patches = made.artifacts.iter().filter(|(name, bytes)| is_patch(name, bytes));
    if let Some(place) = patches.filter_map(|(_, bytes)| secrets.find(bytes)).next() {
        return Err(Failure::new(format!("the patch contains the value of {place}, a secret of rei.toml")));
    }
    let secrets = secrets.clone();
    let clean = move || {
        let mut redactor = Redactor::knowing(&secrets);
        let artifacts = made.artifacts.into_iter();
        let artifacts = artifacts
            .map(|(name, bytes)| if is_patch(&name, &bytes) { (name, bytes) } else { (name, redactor.bytes(bytes)) });
        let artifacts = artifacts.collect();
        Made { summary: redactor.text(&made.summary), artifacts }
    };
    // A large log takes longer than the event loop may be blocked.
    tokio::task::spawn_blocking(clean).await.map_err(|lost| Failure::of(&lost, None))
}

/// Removes secrets from a failure: the next agent is given its log.
async fn clean_failure(secrets: &Secrets, failure: Failure) -> Failure {
    let secrets = secrets.clone();
    let clean = move || {
        let mut redactor = Redactor::knowing(&secrets);
        let reason = redactor.text(&failure.reason);
        Failure { reason, log: failure.log.map(|log| redactor.bytes(log)), ..failure }
    };
    tokio::task::spawn_blocking(clean).await.unwrap_or_else(|lost| Failure::of(&lost, None))
}

/// The content of each declared output: the artifact with that name, else the artifact at that position, else the
/// summary.
fn name_outputs(outputs: &[String], made: &Made) -> Vec<(String, Vec<u8>)> {
    let content = |(position, name): (usize, &String)| {
        let named = made.artifacts.iter().find(|(known, _)| known == name);
        let placed = || made.artifacts.get(position).filter(|(known, _)| !outputs.contains(known));
        let bytes = named.or_else(placed).map_or_else(|| made.summary.clone().into_bytes(), |(_, bytes)| bytes.clone());
        (name.clone(), bytes)
    };
    outputs.iter().enumerate().map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_by_name_then_by_position() {
        let made = Made {
            summary: "s".into(),
            artifacts: vec![("candidate".into(), b"c".to_vec()), ("build_log".into(), b"l".to_vec())],
        };
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let named = name_outputs(&names, &made).into_iter();
            named.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect::<String>()
        };
        assert_eq!(named(&["build_log", "candidate"]), "lc");
        assert_eq!(named(&["mine", "log", "more"]), "cls");
        assert_eq!(named(&["x", "candidate"]), "sc", "the first artifact is used under its own name");
    }
}
