//! The directory of a run, as OpenExec's documents lay it out.
//!
//! ```text
//! runs/RUN/timeline.jsonl      what happened, one JSON object a line; written as well as can be
//!          context_pack.json   what the agent was told
//!          artifacts/SHA256    what the stages made
//!          workspace/          the files that are changed
//!          agent/              what the agent is given, and where it may write besides the workspace
//! ```
//!
//! The last two are gone when the run has ended.

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

/// One artifact at most, in bytes: a patch or log that is larger helps nobody.
pub const ARTIFACT_BYTES_MAX: usize = 16 << 20;
/// A timeline at most, in bytes: a run has a few hundred events of less than a kilobyte.
const TIMELINE_BYTES_MAX: u64 = 16 << 20;

/// Something that a stage made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `sha256:` and the digest of its content.
    pub artifact_id: String,
    /// Relative to the run's directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it is the context, or was made of it: its ids and times differ from run to run, and what it tells are the
    /// context's facts.
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
    /// Opens the directory of a run, made where it is missing, for rei's eyes only.
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

    /// Keeps some bytes; those of equal content are kept once. The secrets of rei.toml are in no file of the run, whoever
    /// made it.
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

    /// Writes the context pack where the documents have it.
    pub fn write_context_pack(&mut self, bytes: &[u8]) {
        let written = write(&self.dir.join("context_pack.json"), &self.without_secrets(bytes));
        self.tell_once(written);
    }

    /// Adds an event to the timeline. That it cannot be written changes nothing for the run.
    pub fn note(&mut self, event: &str, at: Timestamp, fields: Value) {
        let mut line = json!({"seq": self.lines, "at": at, "event": event, "run_id": self.run_id});
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        let written = self.append(&format!("{line}\n"));
        self.lines += 1;
        self.tell_once(written);
    }

    /// The timeline so far, for a summary; empty where it cannot be read.
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
        self.secrets.take_out(&mut bytes);
        bytes
    }

    fn tell_once(&mut self, written: std::io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.silent, true)
        {
            tracing::warn!(run = self.run_id, %error, "cannot write the timeline; the run goes on without");
        }
    }
}

/// What of a run's directory is needed only while a blueprint works in it. Even a run that goes on makes it anew, from the
/// commit that its checkpoint names.
const PASSING: [&str; 3] = ["workspace", "agent", "lock"];

/// Removes what a run no longer needs once nobody works in it: its trees. What it made and told stays.
///
/// # Errors
/// When the disk fails.
pub async fn clear_run(run: &Path) -> Result<(), source::Error> {
    for name in PASSING {
        source::remove_dir(&run.join(name)).await?;
    }
    Ok(())
}

/// Whole or not at all, so that an artifact that is there is right.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(new, path)
}

/// The time of an event.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(millis(since))
}
