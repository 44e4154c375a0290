//! Runs a blueprint and builds its commit.

use std::path::PathBuf;
use std::sync::Arc;

use super::version::{build_version, progress};
use super::words::{last_words, reason};
use crate::blueprint::library::Library;
use crate::blueprint::{self, Checkpoint, Decision, Finding, Job, Outcome, StageEvent, StageEventKind};
use crate::interface::types::{CandidateId, CandidateRuntime, EvolutionId, IncidentId, SCHEMA, Version};
use crate::lifecycle::Event;
use crate::nix::{Derivation, RealiseOptions};
use crate::redact::Secrets;
use crate::source::ObjectId;
use crate::supervisor::input::{Input, Inputs};
use crate::supervisor::objects;
use crate::supervisor::tools::Tools;
use crate::time::Timestamp;

/// The end of a log that an agent is told.
const LOG_BYTES: usize = 16 << 10;

/// Checks that fail and are named in one line.
const CHECKS_TOLD: usize = 5;

/// What is to be made.
pub struct BuildOrder {
    /// For this evolution.
    pub evolution: EvolutionId,
    /// The candidate.
    pub candidate: CandidateId,
    /// The blueprint's name.
    pub blueprint: String,
    /// The commit to become; `None` for what the blueprint makes, or the followed ref.
    pub rev: Option<String>,
    /// The engine's state to go on from.
    pub checkpoint: Option<String>,
    /// Whether an operator has approved what it waits for.
    pub approved: bool,
    /// Active.
    pub active: Version,
    /// The incident.
    pub incident: Option<IncidentId>,
    /// Digest of the context.
    pub context_digest: Option<String>,
    /// The evidence folder.
    pub context: Option<PathBuf>,
    /// When the evolution began: the date of its commits.
    pub at: Timestamp,
    /// The message of its commits.
    pub message: String,
}

/// Answers `Effect::Build`.
pub async fn build(tools: Arc<Tools>, order: BuildOrder, inputs: Inputs) -> Option<Event> {
    let evolution = order.evolution.clone();
    Some(match make(&tools, &order, &inputs).await {
        Ok(event) => event,
        Err(reason) => Event::BuildFailed { evolution, reason },
    })
}

async fn make(tools: &Tools, order: &BuildOrder, inputs: &Inputs) -> Result<Event, String> {
    let source = |error: crate::source::Error| reason(&error, error.hint());
    let library = Library::new(tools.config.blueprints.directory.clone());
    let (recipe, _) = library.find(&order.blueprint).map_err(|error| reason(&error, error.hint()))?;
    let active = ObjectId::parse(&order.active.rev).ok_or_else(|| format!("{} is no commit", order.active.rev))?;
    tools.mirror.keep_active(&active).await.map_err(source)?;
    let followed = match &order.rev {
        Some(rev) => Some(tools.mirror.resolve(rev).await.map_err(source)?),
        None if order.incident.is_none() => Some(tools.mirror.fetch().await.map_err(source)?),
        None => None,
    };
    let mut checkpoint: Option<Checkpoint> = match &order.checkpoint {
        Some(text) => {
            Some(serde_json::from_str(text).map_err(|error| format!("the checkpoint is unreadable: {error}"))?)
        }
        None => None,
    };
    if let Some(checkpoint) = checkpoint.as_mut().filter(|_| order.approved) {
        checkpoint.decide(&recipe, Decision::Approve);
    }
    // A key in a file may be a new one by now.
    let config = tools.config.clone();
    let secrets = tokio::task::spawn_blocking(move || Secrets::new(config.all_secrets())).await;
    let job = Job {
        run_id: format!("{}-{}", order.evolution, order.candidate),
        blueprint: recipe,
        mirror: tools.mirror.clone(),
        candidate: order.candidate.clone(),
        active,
        followed,
        context: order.context.clone(),
        message: order.message.clone(),
        at: order.at,
        flake_dir: tools.config.runtime.dir.clone(),
        agents: tools.config.agents.clone(),
        commands: tools.config.commands.clone(),
        state_dir: tools.paths.state().to_owned(),
        secrets: secrets.unwrap_or_else(|_| tools.secrets.clone()),
        timeout: tools.config.blueprints.timeout,
    };
    let bench = Bench { tools, inputs, candidate: &order.candidate };
    let mut journal = Checkpoints { evolution: order.evolution.clone(), inputs: inputs.clone() };
    let outcome = blueprint::run(&job, checkpoint, &bench, &mut journal).await;
    match outcome.map_err(|error| reason(&error, error.hint()))? {
        Outcome::Done { commit } => built(tools, order, &job, &commit, inputs).await,
        Outcome::Failed { stage, reason } => {
            Err(format!("stage {stage} of the blueprint {}: {reason}", order.blueprint))
        }
        Outcome::Paused { stage, checkpoint } => Ok(Event::BuildPaused {
            evolution: order.evolution.clone(),
            stage,
            checkpoint: serde_json::to_string(&*checkpoint).map_err(|error| error.to_string())?,
        }),
    }
}

async fn built(
    tools: &Tools,
    order: &BuildOrder,
    job: &Job,
    commit: &ObjectId,
    inputs: &Inputs,
) -> Result<Event, String> {
    let version = build_version(tools, commit, &order.candidate.0, inputs).await?;
    let changed = tools.mirror.changed(&job.active, commit).await.map_err(|error| reason(&error, error.hint()))?;
    let files_changed: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
    let candidate = CandidateRuntime {
        schema: SCHEMA.to_owned(),
        id: order.candidate.clone(),
        evolution_id: order.evolution.clone(),
        incident_id: order.incident.clone(),
        context_digest: order.context_digest.clone(),
        version: version.clone(),
        parent: order.active.store_path.clone(),
        base_rev: order.active.rev.clone(),
        files_changed: files_changed.clone(),
        blueprint: order.blueprint.clone(),
        created_at: order.at,
    };
    objects::keep(&tools.paths, &order.candidate.0, &candidate).await;
    let (evolution, base_rev) = (order.evolution.clone(), order.active.rev.clone());
    Ok(Event::Built { evolution, version, base_rev, files_changed })
}

/// Stage events become journal records of the lifecycle.
struct Checkpoints {
    evolution: EvolutionId,
    inputs: Inputs,
}

impl blueprint::Journal for Checkpoints {
    async fn record(&mut self, event: StageEvent) {
        let text = match event.kind {
            StageEventKind::Started => format!("stage {} begins (attempt {})", event.stage, event.attempt),
            StageEventKind::Completed => format!("stage {} done: {}", event.stage, event.summary),
            StageEventKind::Failed => format!("stage {} failed: {}", event.stage, event.summary),
        };
        let _ = self.inputs.send(Input::Progress { text, done: None }).await;
        let checkpoint = match serde_json::to_string(&event.checkpoint) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::error!(%error, "a checkpoint cannot be written; a restart begins the blueprint anew");
                return;
            }
        };
        let (evolution, stage) = (self.evolution.clone(), event.stage);
        let _ = self.inputs.send(Input::Event(Event::StageReached { evolution, stage, checkpoint })).await;
    }
}

/// The supervisor's builder and test runner, as a blueprint's stages ask them.
struct Bench<'a> {
    tools: &'a Tools,
    inputs: &'a Inputs,
    candidate: &'a CandidateId,
}

impl Bench<'_> {
    /// Builds those checks of a commit's flake whose name `wanted` takes.
    async fn checks(&self, commit: &ObjectId, wanted: impl Fn(&str) -> bool) -> Finding {
        let tested = async {
            let nix = |error: crate::nix::Error| reason(&error, error.hint());
            let flake = self.tools.flake(commit).await?;
            let root = self.tools.roots.path(&format!("{}-tests", self.candidate)).map_err(nix)?;
            let found = self.tools.nix().await.map_err(nix)?.evaluate_checks(&flake, Some(&root)).await;
            let all = found.map_err(nix)?;
            let mut failed = Vec::new();
            let mut drvs = Vec::new();
            for (name, derivation) in all.into_iter().filter(|(name, _)| wanted(name)) {
                match derivation {
                    Some(derivation) => drvs.push((name, derivation)),
                    None => failed.push((name, "it does not evaluate".to_owned())),
                }
            }
            self.build_checks(&drvs, &mut failed).await?;
            Ok::<_, String>((drvs.len() + failed.len(), failed))
        };
        match tested.await {
            Ok((count, failed)) if failed.is_empty() => {
                Finding { ok: true, summary: format!("{count} checks pass"), ..Finding::default() }
            }
            Ok((count, failed)) => {
                let told = failed.iter().take(CHECKS_TOLD);
                let told: Vec<String> =
                    told.map(|(name, log)| format!("{name}{}", last_words(log.as_bytes()))).collect();
                let more = failed.len().saturating_sub(CHECKS_TOLD);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                let summary = format!("{} of {count} checks fail: {}{more}", failed.len(), told.join(", "));
                let logs = failed.iter().map(|(name, log)| format!("== {name}\n{log}\n"));
                Finding { ok: false, summary, log: logs.collect(), product: None }
            }
            Err(why) => Finding { ok: false, summary: why.clone(), log: why, product: None },
        }
    }

    async fn build_checks(
        &self,
        drvs: &[(String, Derivation)],
        failed: &mut Vec<(String, String)>,
    ) -> Result<(), String> {
        if drvs.is_empty() {
            return Ok(());
        }
        let timeout = self.tools.config.validation.timeout;
        let options = RealiseOptions { jobs: Tools::jobs(), timeout, silence: timeout, total: timeout, root: None };
        let all: Vec<Derivation> = drvs.iter().map(|(_, derivation)| derivation.clone()).collect();
        let progress = Some(progress(self.inputs));
        let nix = self.tools.nix().await.map_err(|error| reason(&error, error.hint()))?;
        let realised = nix.realise(&all, &options, progress).await.map_err(|error| reason(&error, error.hint()))?;
        for ((name, derivation), outcome) in drvs.iter().zip(&realised.outcomes) {
            if let Some(failure) = &outcome.failure {
                let log = nix.log(&derivation.drv, LOG_BYTES).await.ok().flatten().unwrap_or_default();
                failed.push((name.clone(), format!("{}\n{}", failure.message, String::from_utf8_lossy(&log))));
            }
        }
        Ok(())
    }
}

impl blueprint::Workbench for Bench<'_> {
    async fn build(&self, commit: &ObjectId) -> Finding {
        match build_version(self.tools, commit, &self.candidate.0, self.inputs).await {
            Ok(version) => Finding {
                ok: true,
                summary: format!("built {}", version.store_path),
                log: String::new(),
                product: Some(version.store_path),
            },
            Err(why) => {
                let summary = why.lines().next().unwrap_or_default().to_owned();
                Finding { ok: false, summary, log: why, product: None }
            }
        }
    }

    async fn test(&self, commit: &ObjectId) -> Finding {
        self.checks(commit, |_| true).await
    }

    async fn lint(&self, commit: &ObjectId) -> Finding {
        self.checks(commit, |name| ["lint", "clippy", "fmt", "format"].iter().any(|word| name.contains(word))).await
    }
}
