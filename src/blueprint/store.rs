//! The directory of a run, with the layout of OpenExec's documents.
//!
//! ```text
//! runs/RUN/timeline.jsonl      the events, one JSON object per line (best effort)
//!          context_pack.json   the context that the agent got
//!          artifacts/SHA256    the outputs of the stages
//!          workspace/          the source files that are changed
//!          agent/              the inputs of the agent, and its private directories
//! ```
//!
//! The last two are removed at the end of the run.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::digest;
use crate::redact::Secrets;
use crate::source;
use crate::time::{Timestamp, millis};

/// Maximum size of an artifact, in bytes. A larger patch or log would not be useful.
pub const ARTIFACT_BYTES_MAX: usize = 16 << 20;
/// Maximum size of a timeline, in bytes. A run has a few hundred events of less than a kilobyte.
const TIMELINE_BYTES_MAX: u64 = 16 << 20;

/// An output of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `sha256:` and the digest of its content.
    pub artifact_id: String,
    /// The path, relative to the run's directory.
    pub path: String,
    /// The size, in bytes.
    pub bytes: u64,
    /// True if it is the context or was made from it. Its ids and times differ from run to run, so the context's facts
    /// are compared instead.
    #[serde(default)]
    pub of_context: bool,
}

/// The directory of one run.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    run_id: String,
    lines: u64,
    silent: bool,
    secrets: Secrets,
}

impl Store {
    /// Opens the directory of a run. Creates it if it does not exist, accessible only to rei's user.
    pub fn open(state_dir: &Path, run_id: &str, secrets: &Secrets) -> std::io::Result<Self> {
        let dir = std::path::absolute(state_dir)?.join("runs").join(run_id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join("artifacts"))?;
        let dir = dir.canonicalize()?;
        let lines =
            std::fs::read(dir.join("timeline.jsonl")).map_or(0, |text| text.split(|b| *b == b'\n').count() as u64);
        Ok(Self {
            dir,
            run_id: run_id.to_owned(),
            lines: lines.saturating_sub(1),
            silent: false,
            secrets: secrets.clone(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn workspace(&self) -> PathBuf {
        self.dir.join("workspace")
    }

    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent")
    }

    pub fn path(&self, artifact: &Artifact) -> PathBuf {
        self.dir.join(&artifact.path)
    }

    /// Stores bytes as an artifact; equal content is stored once. Secrets of rei.toml are removed from the
    /// output of every program.
    pub fn keep(&self, bytes: &[u8]) -> std::io::Result<Artifact> {
        let bytes = self.without_secrets(bytes);
        let bytes = &bytes[..bytes.len().min(ARTIFACT_BYTES_MAX)];
        let digest = digest::sha256(bytes);
        let path = format!("artifacts/{digest}");
        write(&self.dir.join(&path), bytes)?;
        Ok(Artifact { artifact_id: format!("sha256:{digest}"), path, bytes: bytes.len() as u64, of_context: false })
    }

    pub fn read(&self, artifact: &Artifact) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.path(artifact))
    }

    /// Writes the context pack to the path in OpenExec's documents.
    pub fn write_context_pack(&mut self, bytes: &[u8]) {
        let written = write(&self.dir.join("context_pack.json"), &self.without_secrets(bytes));
        self.warn_once(written);
    }

    /// Adds an event to the timeline. A write error does not affect the run.
    pub fn note(&mut self, event: &str, at: Timestamp, fields: Value) {
        let mut line = json!({"seq": self.lines, "at": at, "event": event, "run_id": self.run_id});
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        let written = self.append(&format!("{line}\n"));
        self.lines += 1;
        self.warn_once(written);
    }

    /// The events so far, for a summary; empty if the file cannot be read.
    pub fn timeline(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("timeline.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        let path = self.dir.join("timeline.jsonl");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.len() > TIMELINE_BYTES_MAX {
            return Err(std::io::Error::other("the timeline is full"));
        }
        file.write_all(&self.without_secrets(line.as_bytes()))
    }

    fn without_secrets(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        self.secrets.remove_from(&mut bytes);
        bytes
    }

    fn warn_once(&mut self, written: std::io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.silent, true)
        {
            tracing::warn!(run = self.run_id, %error, "cannot write the timeline; the run continues without it");
        }
    }
}

/// The parts of a run's directory that are needed only while it runs. A run that continues recreates them from the
/// commit in its checkpoint.
const PASSING: [&str; 3] = ["workspace", "agent", "lock"];

/// Removes the workspace and other directories of a finished run. Its artifacts and timeline stay.
///
/// # Errors
/// If the disk fails.
pub async fn clear_run(run: &Path) -> Result<(), source::Error> {
    for name in PASSING {
        source::remove_dir(&run.join(name)).await?;
    }
    Ok(())
}

/// Writes a file atomically, so that an artifact that exists is complete.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(new, path)
}

/// The current time, for an event.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(millis(since))
}
