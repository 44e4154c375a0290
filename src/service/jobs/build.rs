//! Runs a blueprint and builds the commit that it makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::version::{build_version, progress};
use crate::blueprint::library::Library;
use crate::blueprint::{
    self, AgentRun, Blame, CheckResult, Checkpoint, Decision, EarlierEvolution, Job, RunOutcome, StageEvent,
    StageEventKind,
};
use crate::diagnosis;
use crate::interface::types::{CandidateId, CandidateRuntime, EvolutionId, IncidentId, SCHEMA, Version};
use crate::lifecycle::{Event, Fault, Question, Tried};
use crate::nix::{Derivation, RealiseOptions, last_output};
use crate::redact::Secrets;
use crate::report::chain;
use crate::service::facts::Facts;
use crate::service::failure::{Failed, reason};
use crate::service::input::{Input, Inputs};
use crate::service::tools::Tools;
use crate::source::ObjectId;
use crate::state::objects;
use crate::state::paths::Paths;
use crate::time::Timestamp;

/// Maximum size of the end of a log that an agent gets, in bytes.
const LOG_BYTES: usize = 16 << 10;

/// Maximum number of failed checks that a summary names.
const CHECKS_NAMED: usize = 5;

/// The candidate to build, and the facts for it.
pub struct BuildOrder {
    /// The evolution that the build belongs to.
    pub evolution: EvolutionId,
    /// The candidate.
    pub candidate: CandidateId,
    /// The blueprint's name.
    pub blueprint: String,
    /// The commit to build; `None` for the commit that the blueprint makes, or for the followed ref.
    pub rev: Option<String>,
    /// The state from which the blueprint engine continues.
    pub checkpoint: Option<String>,
    /// True if an operator has approved the stage that the blueprint waits at.
    pub approved: bool,
    /// The Active version.
    pub active: Version,
    /// The incident.
    pub incident: Option<IncidentId>,
    /// Digest of the context.
    pub context_digest: Option<String>,
    /// The evidence folder.
    pub context: Option<PathBuf>,
    /// Earlier evolutions. Their questions to agents are not asked again.
    pub asked_before: Vec<Tried>,
    /// Why earlier repairs of the incident were refused.
    pub refused_before: Vec<(EvolutionId, String)>,
    /// The reasons for the quarantine of content, by its git tree.
    pub quarantine: BTreeMap<String, String>,
    /// The start of the evolution, which is the date of its commits.
    pub at: Timestamp,
    /// The message of its commits.
    pub message: String,
}

impl BuildOrder {
    /// An order for a candidate, made from facts of the state. The other fields have the values of an upgrade.
    pub fn new(evolution: EvolutionId, candidate: CandidateId, blueprint: String, facts: Facts, paths: &Paths) -> Self {
        let message = match (&facts.incident_id, &facts.incident) {
            (Some(id), Some(open)) => format!("Repair {id}: {}", open.finding.summary),
            _ => format!("Candidate {candidate}"),
        };
        Self {
            context: Some(paths.context(facts.incident_id.as_ref(), &evolution.0.replacen("evo", "ctx", 1))),
            evolution,
            candidate,
            blueprint,
            rev: None,
            checkpoint: None,
            approved: false,
            active: facts.active.unwrap_or_default(),
            incident: facts.incident_id,
            context_digest: facts.context,
            asked_before: facts.asked_before,
            refused_before: facts.refused_before,
            quarantine: facts.quarantine,
            at: facts.since,
            message,
        }
    }
}

/// Executes `Effect::Build`; the result is the event that answers it.
pub async fn build(tools: Arc<Tools>, order: BuildOrder, inputs: Inputs) -> Option<Event> {
    let host = BlueprintHost { tools: &tools, inputs: &inputs, candidate: &order.candidate, built: Mutex::default() };
    Some(match make(&host, &order).await {
        Ok(event) => event,
        Err((Failed { reason, blame }, commit)) => {
            let fault = host.fault(blame, commit.as_ref()).await;
            Event::BuildFailed { evolution: order.evolution, reason, fault }
        }
    })
}

/// A failure, with its commit if there is one.
type CommitFailure = (Failed, Option<ObjectId>);

async fn make(host: &BlueprintHost<'_>, order: &BuildOrder) -> Result<Event, CommitFailure> {
    let (job, checkpoint) = prepare(host, order).await.map_err(|failed| (failed, None))?;
    let mut journal =
        Checkpoints { evolution: order.evolution.clone(), facts: job.facts.clone(), inputs: host.inputs.clone() };
    let outcome = blueprint::run(&job, checkpoint, host, &mut journal).await;
    let outcome = outcome.map_err(|error| {
        let blame = error.blame();
        (Failed { reason: reason(&error, error.hint()), blame }, None)
    })?;
    match outcome {
        RunOutcome::Done { commit } => {
            let built = built(host, order, &job, &commit).await;
            built.map_err(|failed| (failed, Some(commit)))
        }
        RunOutcome::Unchanged { commit } => Ok(Event::Built {
            evolution: order.evolution.clone(),
            version: Version { rev: commit.to_string(), ..order.active.clone() },
            base_rev: order.active.rev.clone(),
            files_changed: Vec::new(),
        }),
        RunOutcome::Failed { stage, reason, blame, commit } => {
            let reason = format!("stage {stage} of the blueprint {}: {reason}", order.blueprint);
            Err((Failed { reason, blame }, Some(commit)))
        }
        RunOutcome::Paused { stage, checkpoint } => match serde_json::to_string(&*checkpoint) {
            Ok(checkpoint) => Ok(Event::BuildPaused { evolution: order.evolution.clone(), stage, checkpoint }),
            Err(error) => Err((Failed::of_machine(format!("the checkpoint cannot be written: {error}")), None)),
        },
    }
}

async fn prepare(host: &BlueprintHost<'_>, order: &BuildOrder) -> Result<(Job, Option<Checkpoint>), Failed> {
    let tools = host.tools;
    let library = Library::new(tools.config.blueprints.directory.clone());
    let (recipe, _) = library.find(&order.blueprint).map_err(|error| Failed::of_maker(reason(&error, error.hint())))?;
    let active = ObjectId::parse(&order.active.rev);
    let active = active.ok_or_else(|| Failed::of_machine(format!("{} is no commit", order.active.rev)))?;
    tools.mirror.keep_active(&active).await?;
    let followed = match &order.rev {
        Some(rev) => Some(tools.mirror.resolve(rev).await?),
        None if order.incident.is_none() => Some(tools.mirror.fetch().await?),
        None => None,
    };
    if let Some(commit) = &followed {
        let (rev, tree) = (commit.to_string(), tools.mirror.tree(commit).await?.to_string());
        let aimed = Event::Aimed { evolution: order.evolution.clone(), rev, tree };
        // Sending fails only if the event loop has ended, and then the supervisor exits.
        let _ = host.inputs.send(Input::Event(aimed)).await;
    }
    let mut checkpoint: Option<Checkpoint> = match &order.checkpoint {
        Some(text) => {
            let read = serde_json::from_str(text);
            Some(read.map_err(|error| Failed::of_machine(format!("the checkpoint is unreadable: {error}")))?)
        }
        None => None,
    };
    if let Some(checkpoint) = checkpoint.as_mut().filter(|_| order.approved) {
        checkpoint.decide(&recipe, Decision::Approve);
    }
    // The content of a key file may have changed since the start.
    let config = tools.config.clone();
    let secrets = tokio::task::spawn_blocking(move || Secrets::new(config.all_secrets())).await;
    let facts = facts(order).await;
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
        facts,
        asked_before: order.asked_before.iter().map(earlier).collect(),
        refused_before: order.refused_before.clone(),
        quarantine: order.quarantine.clone(),
        timeout: tools.config.blueprints.timeout,
    };
    Ok((job, checkpoint))
}

fn earlier(tried: &Tried) -> EarlierEvolution {
    let facts = tried.facts.iter().cloned().collect();
    EarlierEvolution { evolution: tried.evolution.clone(), tasks: tried.tasks.clone(), facts }
}

/// The facts of the order's context. If the context cannot be read, the only fact is the id of the evolution, which is
/// new: so the agents are asked.
async fn facts(order: &BuildOrder) -> Vec<String> {
    let Some(folder) = order.context.clone().filter(|_| order.incident.is_some()) else { return Vec::new() };
    let refused: Vec<String> = order.refused_before.iter().map(|(_, reason)| reason.clone()).collect();
    let read = tokio::task::spawn_blocking(move || read_context(&folder, &refused)).await;
    read.ok().flatten().unwrap_or_else(|| vec![order.evolution.to_string()])
}

fn read_context(folder: &Path, refused: &[String]) -> Option<Vec<String>> {
    let context = serde_json::from_slice(&std::fs::read(folder.join("context.json")).ok()?).ok()?;
    // If the log is missing, the context lists it.
    let log = std::fs::read(folder.join("log.txt")).unwrap_or_default();
    let refused = refused.iter().map(String::as_str);
    Some(diagnosis::facts(&context, &String::from_utf8_lossy(&log), refused))
}

async fn built(host: &BlueprintHost<'_>, order: &BuildOrder, job: &Job, commit: &ObjectId) -> Result<Event, Failed> {
    let tools = host.tools;
    let version = host.version(commit).await?;
    let changed = tools.mirror.changed(&job.active, commit).await?;
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

/// Locks, also after a panic: only one task writes the value, so it is consistent.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns stage events into events of the lifecycle, which are journalled.
struct Checkpoints {
    evolution: EvolutionId,
    /// The facts of the evolution's context.
    facts: Vec<String>,
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
        if let Some(AgentRun { took_ms, asked }) = event.agent {
            let asked = asked.map(|task| Question { task, facts: self.facts.clone() });
            let ran = Event::AgentRan { evolution: self.evolution.clone(), took_ms, asked };
            let _ = self.inputs.send(Input::Event(ran)).await;
        }
        let checkpoint = match serde_json::to_string(&event.checkpoint) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::error!(%error, "a checkpoint cannot be written; after a restart the blueprint begins again from its first stage");
                return;
            }
        };
        let (evolution, stage) = (self.evolution.clone(), event.stage);
        let _ = self.inputs.send(Input::Event(Event::StageReached { evolution, stage, checkpoint })).await;
    }
}

/// The supervisor's builder and test runner, for the stages of a blueprint.
struct BlueprintHost<'a> {
    tools: &'a Tools,
    inputs: &'a Inputs,
    candidate: &'a CandidateId,
    /// The commit that was built last, and its store path.
    built: Mutex<Option<(ObjectId, String)>>,
}

impl BlueprintHost<'_> {
    /// Evaluates and builds the package of a commit.
    async fn version(&self, commit: &ObjectId) -> Result<Version, Failed> {
        let version = build_version(self.tools, commit, &self.candidate.0, self.inputs).await?;
        *lock(&self.built) = Some((commit.clone(), version.store_path.clone()));
        Ok(version)
    }

    /// The cause of a failure, with the content if the content is the cause.
    async fn fault(&self, blame: Blame, commit: Option<&ObjectId>) -> Fault {
        let Some(commit) = commit.filter(|_| blame == Blame::Content) else {
            return match blame {
                Blame::Machine => Fault::Machine,
                Blame::Repeat => Fault::Repeat,
                Blame::Maker | Blame::Content => Fault::Maker,
            };
        };
        let built = lock(&self.built).clone().filter(|(of, _)| of == commit);
        let store_path = built.map(|(_, store_path)| store_path).unwrap_or_default();
        match self.tools.mirror.tree(commit).await {
            Ok(tree) => Fault::Content { tree: tree.to_string(), store_path },
            Err(error) => {
                tracing::warn!(error = chain(&error), %commit, "cannot find the git tree of a commit that failed; it is not quarantined");
                Fault::Machine
            }
        }
    }

    /// Builds the checks of a commit's flake for whose name `selected` returns true.
    async fn checks(&self, commit: &ObjectId, selected: impl Fn(&str) -> bool) -> CheckResult {
        let tested = async {
            let flake = self.tools.flake(commit).await?;
            let root = self.tools.roots.path(&format!("{}-tests", self.candidate))?;
            let all = self.tools.nix().await?.evaluate_checks(&flake, Some(&root)).await?;
            let (mut failed, mut drvs) = (Vec::new(), Vec::new());
            for (name, derivation) in all.into_iter().filter(|(name, _)| selected(name)) {
                match derivation {
                    Some(derivation) => drvs.push((name, derivation)),
                    None => {
                        let log = "it does not evaluate".to_owned();
                        failed.push(FailedCheck { name, log, blame: Blame::Content });
                    }
                }
            }
            let count = drvs.len() + failed.len();
            self.build_checks(&drvs, &mut failed).await?;
            Ok::<_, Failed>((count, failed))
        };
        match tested.await {
            Ok((count, failed)) if failed.is_empty() => {
                CheckResult { ok: true, summary: format!("{count} checks pass"), ..CheckResult::default() }
            }
            Ok((count, failed)) => {
                let named = failed.iter().take(CHECKS_NAMED);
                let named: Vec<String> =
                    named.map(|check| format!("{}{}", check.name, last_output(check.log.as_bytes()))).collect();
                let more = failed.len().saturating_sub(CHECKS_NAMED);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                let summary = format!("{} of {count} checks fail: {}{more}", failed.len(), named.join(", "));
                let logs = failed.iter().map(|check| format!("== {}\n{}\n", check.name, check.log));
                // One check that failed because of the content is enough.
                let is_of_content = failed.iter().any(|check| check.blame == Blame::Content);
                let blame = if is_of_content { Blame::Content } else { Blame::Machine };
                CheckResult { ok: false, summary, log: logs.collect(), product: None, blame }
            }
            Err(Failed { reason, blame }) => {
                CheckResult { ok: false, summary: reason.clone(), log: reason, product: None, blame }
            }
        }
    }

    async fn build_checks(&self, drvs: &[(String, Derivation)], failed: &mut Vec<FailedCheck>) -> Result<(), Failed> {
        if drvs.is_empty() {
            return Ok(());
        }
        let timeout = self.tools.config.validation.timeout;
        let options = RealiseOptions { jobs: Tools::jobs(), timeout, silence: timeout, total: timeout, root: None };
        let all: Vec<Derivation> = drvs.iter().map(|(_, derivation)| derivation.clone()).collect();
        let progress = Some(progress(self.inputs));
        let nix = self.tools.nix().await?;
        let realised = nix.realise(&all, &options, progress).await?;
        for ((name, derivation), outcome) in drvs.iter().zip(&realised.outcomes) {
            if let Some(failure) = &outcome.failure {
                let log = nix.log(&derivation.drv, LOG_BYTES).await.ok().flatten().unwrap_or_default();
                let log = format!("{}\n{}", failure.message, String::from_utf8_lossy(&log));
                let blame = if failure.is_of_the_build() { Blame::Content } else { Blame::Machine };
                failed.push(FailedCheck { name: name.clone(), log, blame });
            }
        }
        Ok(())
    }
}

/// A check of the flake that failed.
struct FailedCheck {
    name: String,
    log: String,
    blame: Blame,
}

impl blueprint::Checker for BlueprintHost<'_> {
    async fn build(&self, commit: &ObjectId) -> CheckResult {
        match self.version(commit).await {
            Ok(version) => CheckResult {
                ok: true,
                summary: format!("built {}", version.store_path),
                product: Some(version.store_path),
                ..CheckResult::default()
            },
            Err(Failed { reason, blame }) => {
                let summary = reason.lines().next().unwrap_or_default().to_owned();
                CheckResult { ok: false, summary, log: reason, product: None, blame }
            }
        }
    }

    async fn test(&self, commit: &ObjectId) -> CheckResult {
        self.checks(commit, |_| true).await
    }

    async fn lint(&self, commit: &ObjectId) -> CheckResult {
        self.checks(commit, |name| ["lint", "clippy", "fmt", "format"].iter().any(|word| name.contains(word))).await
    }
}
