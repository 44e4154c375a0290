//! Agent stages: a program of the operator gets a goal and changes the workspace.
//!
//! On standard input, and in every argument that is `{goal}`, it gets the goal, the places of the context and the
//! inputs, and the last failure. Its environment has: `REI_GOAL`; `REI_WORKSPACE` (also its working directory);
//! `REI_CONTEXT` (the file `context.json`, with its evidence files beside it; absent for an upgrade); `REI_INPUTS` (a
//! directory with a file for each input); `REI_OUTPUTS` (a directory for named outputs); `REI_FAILURE` (a file with the
//! last failure; absent at first); `REI_REFUSED` (a file with the reasons why repairs of earlier evolutions were
//! refused; absent if there were none); `REI_STAGE`; `REI_ATTEMPT`; and `HOME` and `TMPDIR`, which are private and new
//! for every attempt.
//!
//! Its output is stored without the secrets of rei.toml and without text that looks like a secret. The contents of
//! `HOME` and `REI_OUTPUTS`, and everything in its workspace that is not part of a commit, are removed after the
//! attempt.
//!
//! Exit code 0 means success. Of its declared outputs, `patch` is the diff of its changes, unless it wrote a file
//! `$REI_OUTPUTS/patch`. Any other output is the file with that name there, or else its standard output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::context::context_file;
use super::{ActionContext, Failure, Made};
use crate::blueprint::confine::{self, Confined, give_to_agent};
use crate::blueprint::job::{Blame, Job, choose_agent};
use crate::blueprint::schema::{Sandbox, Stage};
use crate::blueprint::store::now;
use crate::config::types::Agent;
use crate::interface::types::EvolutionId;
use crate::redact::{Redactor, Secrets};

/// The name of the output with an agent's changes.
pub(in crate::blueprint) const PATCH: &str = "patch";

/// An agent that exits with a failure sooner than this has not really started: a model needs longer for its first
/// answer.
const START_MAX: Duration = Duration::from_secs(2);
/// Exit codes above this mean that a signal killed the program.
const EXIT_BY_SIGNAL: i32 = 128;

/// Limits of the evidence that is copied for the agent: files, bytes, and directory depth.
const EVIDENCE_FILES_MAX: usize = 1000;
const EVIDENCE_BYTES_MAX: u64 = 64 << 20;
const EVIDENCE_DEPTH_MAX: usize = 4;
/// Maximum size of one evidence file, in bytes. It is read into memory to remove secrets.
const EVIDENCE_FILE_BYTES_MAX: u64 = 16 << 20;

pub(super) async fn run<W>(ctx: &mut ActionContext<'_, W>, goal: &str, name: Option<&str>) -> Result<Made, Failure> {
    let (name, agent) = choose_agent(name, &ctx.job.agents).map_err(|(message, _)| Failure::new(message))?;
    let (name, agent) = (name.to_owned(), agent.clone());
    let asked = digest(ctx, goal, &agent).await?;
    if let Some(evolution) = asked_in(ctx.job, &asked) {
        let reason = format!(
            "agent {name:?} was not started: it got the same task, files and context in {evolution}, and that led to no \
             lasting repair (hint: `rei evolve` starts it again)"
        );
        return Err(Failure { not_asked: true, ..Failure::new(reason).caused_by(Blame::Repeat) });
    }
    if ctx.checkpoint.asked.contains(&asked) {
        let repeated = Failure::new(format!("agent {name:?} got exactly the same task before, without success"));
        return Err(Failure { not_asked: true, ..repeated });
    }
    let dirs = AgentDirs::prepare(ctx).await?;
    let prompt = dirs.prompt(ctx, goal);
    let confined = confined(ctx, &dirs, &agent, &prompt);
    let began = Instant::now();
    let ended = confined.run().await?;
    let took = began.elapsed();
    let (code, failure) = (ended.code.as_ref().ok(), ended.failure());
    let fields =
        json!({"stage": ctx.stage.id, "agent": name, "code": code, "failure": failure, "fences": ended.fences});
    ctx.store.note("agent_ended", now(), fields);
    match failure {
        None => {
            // The number of failures in a run is limited, so this list stays short.
            ctx.checkpoint.asked.push(asked);
            let artifacts = dirs.outputs(ctx, &ended.stdout).await?;
            Ok(Made { summary: format!("agent {name:?} exited with 0"), artifacts })
        }
        Some(failure) => {
            let failed = Failure::new(format!("agent {name:?} {failure}")).with_log(ended.log());
            // It exited before it could have worked: no network, a rate limit, or no key. That says nothing about the
            // task. But an agent that printed more than is kept did work.
            let exited = matches!(code, Some(code) if *code < EXIT_BY_SIGNAL);
            let gave_up = exited && !ended.truncated && took < START_MAX;
            Err(if gave_up { failed.caused_by(Blame::Machine) } else { failed })
        }
    }
}

/// The earlier evolution in which this task was given with all facts that are known now. A context with fewer facts
/// than before contains nothing new.
fn asked_in<'a>(job: &'a Job, task: &str) -> Option<&'a EvolutionId> {
    let mut earlier = job.asked_before.iter().filter(|it| it.tasks.iter().any(|known| known == task));
    earlier.find(|it| job.facts.iter().all(|fact| it.facts.contains(fact))).map(|it| &it.evolution)
}

/// Digest of everything that determines the work of an agent, except the context: the agent, its task, the files, and
/// the last failure. Names, paths and times of the run are left out, so that the same task in a later run has the same
/// digest. Secrets are left out, because a new key does not make a new agent.
async fn digest<W>(ctx: &ActionContext<'_, W>, goal: &str, agent: &Agent) -> Result<String, Failure> {
    let tree = ctx.job.mirror.tree(ctx.checkpoint.commit()).await?;
    let secrets = &ctx.job.secrets;
    let plain = |text: &str| if secrets.find(text.as_bytes()).is_some() { String::new() } else { text.to_owned() };
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    // If an operator changes any of these, the agent gets another attempt. So a new field of this type must be added
    // here.
    let Agent { command, env, timeout, memory_bytes, output_bytes, read, network } = agent;
    command.iter().for_each(|word| add(plain(word).as_bytes()));
    env.iter().for_each(|(name, value)| add(format!("{name}={}", plain(value)).as_bytes()));
    add(format!("{timeout:?} {memory_bytes} {output_bytes} {read:?} {network}").as_bytes());
    let Stage { id, sandbox, outputs, .. } = ctx.stage;
    let rest = format!("{sandbox:?} {outputs:?}");
    [id.as_str(), goal, &rest, tree.as_str()].iter().for_each(|part| add(part.as_bytes()));
    for (name, artifact) in &ctx.inputs {
        add(name.as_bytes());
        add(if artifact.of_context { b"context" } else { artifact.artifact_id.as_bytes() });
    }
    if let Some(failure) = &ctx.checkpoint.failure {
        add(failure.stage.as_bytes());
        add(failure.reason.as_bytes());
        add(failure.log.as_ref().map_or("", |log| &log.artifact_id).as_bytes());
    }
    Ok(crate::digest::hex(hasher.finalize()))
}

fn confined<W>(ctx: &ActionContext<'_, W>, dirs: &AgentDirs, agent: &Agent, prompt: &str) -> Confined {
    let usual = [("PATH", confine::PATH), ("LC_ALL", "C.UTF-8"), ("REI_GOAL", prompt), ("REI_STAGE", &ctx.stage.id)];
    let usual = usual.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let own = agent.env.iter().map(|(name, value)| (name.into(), value.into()));
    let word = |word: &String| OsString::from(if word == "{goal}" { prompt } else { word });
    Confined {
        program: agent.command.first().map(PathBuf::from).unwrap_or_default(),
        args: agent.command.iter().skip(1).map(word).collect(),
        env: BTreeMap::from_iter(usual.into_iter().chain(dirs.env()).chain(own)),
        dir: ctx.workspace.dir().to_owned(),
        write: dirs.write(ctx),
        read: [dirs.read(), agent.read.clone()].concat(),
        hide: ctx.job.state_dir.clone(),
        network: agent.network,
        memory_bytes: agent.memory_bytes,
        timeout: ctx.stage.timeout.map_or(agent.timeout, |timeout| timeout.min(agent.timeout)),
        output_bytes: usize::try_from(agent.output_bytes).unwrap_or(usize::MAX),
        stdin: prompt.as_bytes().to_vec(),
        secrets: ctx.job.secrets.clone(),
    }
}

/// The private directories of an agent besides the workspace, new for every attempt.
pub(super) struct AgentDirs {
    dir: PathBuf,
    workspace: PathBuf,
    context: bool,
    failure: bool,
    refused: bool,
    attempt: u32,
}

impl AgentDirs {
    /// Creates the directories, copies the agent's inputs, and makes the agent the owner of the directories that it may
    /// write.
    pub async fn prepare<W>(ctx: &mut ActionContext<'_, W>) -> Result<Self, Failure> {
        let dir = ctx.store.agent();
        let job = ctx.job;
        let index = job.blueprint.stages.iter().position(|stage| stage.id == ctx.stage.id).unwrap_or(0);
        let dirs = Self {
            dir: dir.clone(),
            workspace: ctx.workspace.dir().to_owned(),
            context: job.context.is_some(),
            failure: ctx.checkpoint.failure.is_some(),
            refused: !job.refused_before.is_empty(),
            attempt: ctx.checkpoint.machine.failures_of(index) + 1,
        };
        let inputs: Vec<(String, PathBuf)> =
            ctx.inputs.iter().map(|(name, artifact)| (name.clone(), ctx.store.path(artifact))).collect();
        let failure = match &ctx.checkpoint.failure {
            None => None,
            Some(failure) => {
                let log = failure.log.as_ref().map(|log| ctx.store.read(log)).transpose()?.unwrap_or_default();
                Some([format!("stage {} failed: {}\n\n", failure.stage, failure.reason).into_bytes(), log].concat())
            }
        };
        let refused: String =
            job.refused_before.iter().map(|(evolution, why)| format!("{evolution} was refused: {why}\n\n")).collect();
        let (context, workspace) = (job.context.clone(), dirs.workspace.clone());
        let secrets = job.secrets.clone();
        // Copying and changing owners takes time in proportion to the workspace, so do it off the event loop.
        let prepared = tokio::task::spawn_blocking(move || {
            make(&dir, context.as_deref(), &inputs, failure.as_deref(), &secrets)?;
            if !refused.is_empty() {
                std::fs::write(dir.join("given/refused.txt"), Redactor::knowing(&secrets).text(&refused))?;
            }
            give_to_agent(&dir.join("home"))?;
            give_to_agent(&dir.join("outputs"))?;
            give_to_agent(&workspace)
        });
        prepared.await.unwrap_or_else(|lost| Err(std::io::Error::other(lost)))?;
        Ok(dirs)
    }

    pub fn write<W>(&self, ctx: &ActionContext<'_, W>) -> Vec<PathBuf> {
        let mut write = vec![self.dir.join("home"), self.dir.join("outputs")];
        if ctx.stage.sandbox == Sandbox::WorkspaceWrite {
            write.push(self.workspace.clone());
        }
        write
    }

    pub fn read(&self) -> Vec<PathBuf> {
        vec![self.dir.join("given")]
    }

    pub fn env(&self) -> impl Iterator<Item = (OsString, OsString)> + use<> {
        let home = self.dir.join("home");
        let given = self.dir.join("given");
        let paths = [
            ("HOME", Some(home.clone())),
            ("TMPDIR", Some(home.join("tmp"))),
            ("REI_WORKSPACE", Some(self.workspace.clone())),
            ("REI_INPUTS", Some(given.join("inputs"))),
            ("REI_OUTPUTS", Some(self.dir.join("outputs"))),
            ("REI_CONTEXT", self.context.then(|| given.join("context/context.json"))),
            ("REI_FAILURE", self.failure.then(|| given.join("failure.txt"))),
            ("REI_REFUSED", self.refused.then(|| given.join("refused.txt"))),
        ];
        let paths = paths.into_iter().filter_map(|(name, path)| Some((name.into(), path?.into_os_string())));
        paths.chain([("REI_ATTEMPT".into(), self.attempt.to_string().into())])
    }

    /// The goal, and the paths of everything that the agent gets.
    fn prompt<W>(&self, ctx: &ActionContext<'_, W>, goal: &str) -> String {
        let mut text =
            format!("{}\n\nThe source is in the current directory, {}.", goal.trim(), self.workspace.display());
        text.push_str(match ctx.stage.sandbox {
            Sandbox::WorkspaceWrite => " Change the files there; there is no need to commit.\n",
            Sandbox::ReadOnly => " It cannot be changed in this stage.\n",
        });
        let given = self.dir.join("given");
        let mut tell = |what: &str, path: PathBuf| {
            let _ = writeln!(text, "{what}: {}", path.display()); // cannot fail for a String
        };
        if self.context {
            tell("Context of the incident", given.join("context/context.json"));
        }
        if self.refused {
            tell("Why earlier repairs of this incident were refused", given.join("refused.txt"));
        }
        for (name, _) in &ctx.inputs {
            tell(&format!("Input {name}"), given.join("inputs").join(name));
        }
        if let Some(failure) = &ctx.checkpoint.failure {
            tell(
                &format!("The stage {} failed before ({}). Its log", failure.stage, failure.reason),
                given.join("failure.txt"),
            );
        }
        text
    }

    /// The content of each declared output: the file with that name, else the standard output. If there is no file for
    /// the patch, the diff is computed later.
    async fn outputs<W>(&self, ctx: &ActionContext<'_, W>, answer: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut artifacts = Vec::new();
        for name in &ctx.stage.outputs {
            match self.output(name).await? {
                Some(bytes) => artifacts.push((name.clone(), bytes)),
                None if name == PATCH => {}
                None => artifacts.push((name.clone(), answer.to_vec())),
            }
        }
        Ok(artifacts)
    }

    async fn output(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        const OUTPUT_BYTES_MAX: u64 = crate::blueprint::store::ARTIFACT_BYTES_MAX as u64;
        let (dir, name) = (self.dir.join("outputs"), PathBuf::from(name));
        let read = tokio::task::spawn_blocking(move || crate::source::read_bounded(&dir, &name, OUTPUT_BYTES_MAX));
        let read = read.await.map_err(|lost| Failure::of(&lost, None))??;
        Ok(read.map(|(bytes, _)| bytes))
    }
}

/// Creates the directories and fills `given`. It belongs to rei and is world-readable, but only the agent can reach it.
fn make(
    dir: &Path,
    context: Option<&Path>,
    inputs: &[(String, PathBuf)],
    failure: Option<&[u8]>,
    secrets: &Secrets,
) -> std::io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let open = |dir: PathBuf| std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    for name in ["home/tmp", "outputs", "given/inputs", "given/context"] {
        open(dir.join(name))?;
    }
    let given = dir.join("given");
    match context {
        Some(folder) if folder.is_dir() => copy_evidence(folder, &given.join("context"), secrets)?,
        Some(file) => copy_clean(file, &given.join("context/context.json"), secrets).map(drop)?,
        None => {}
    }
    for (name, path) in inputs {
        copy_readable(path, &given.join("inputs").join(name))?;
    }
    if let Some(failure) = failure {
        std::fs::write(given.join("failure.txt"), failure)?;
    }
    Ok(())
}

/// Copies an evidence directory, `context.json` first, up to the limits. Symbolic links are not followed.
fn copy_evidence(from: &Path, to: &Path, secrets: &Secrets) -> std::io::Result<()> {
    let first = context_file(from);
    let (mut files, mut bytes) = (1, copy_clean(&first, &to.join("context.json"), secrets)?);
    let mut open = vec![(from.to_owned(), to.to_owned(), 0)];
    while let Some((from, to, depth)) = open.pop() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let (path, target, meta) = (entry.path(), to.join(entry.file_name()), entry.metadata()?);
            if meta.is_dir() && depth < EVIDENCE_DEPTH_MAX {
                std::fs::DirBuilder::new().mode(0o755).create(&target)?;
                open.push((path, target, depth + 1));
            } else if meta.is_file()
                && path != first
                && files < EVIDENCE_FILES_MAX
                && meta.len() <= EVIDENCE_FILE_BYTES_MAX
                && bytes + meta.len() <= EVIDENCE_BYTES_MAX
            {
                files += 1;
                bytes += copy_clean(&path, &target, secrets)?;
            }
        }
    }
    Ok(())
}

/// Copies an evidence file without secrets: the runtime itself wrote some of it unfiltered.
fn copy_clean(from: &Path, to: &Path, secrets: &Secrets) -> std::io::Result<u64> {
    let clean = Redactor::knowing(secrets).bytes(std::fs::read(from)?);
    std::fs::write(to, &clean)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644))?;
    Ok(clean.len() as u64)
}

fn copy_readable(from: &Path, to: &Path) -> std::io::Result<u64> {
    let bytes = std::fs::copy(from, to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644))?;
    Ok(bytes)
}
