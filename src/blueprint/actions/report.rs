//! `prepare_review_bundle`, `summarize_run`: results for people.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Failure, Made, Stand};
use crate::interface::types::SCHEMA;

/// Maximum size of the text of one input in a bundle, in bytes. The artifact itself is complete.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// One JSON object with what a reviewer needs: the commit, what it changes, and the stage's inputs.
pub(super) async fn prepare_review_bundle<W>(stand: &mut Stand<'_, W>) -> Result<Made, Failure> {
    let (commit, active) = (stand.checkpoint.commit(), &stand.job.active);
    let changed = stand.job.mirror.changed(active, commit).await?;
    let changed: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
    let mut inputs = serde_json::Map::new();
    for (name, artifact) in &stand.inputs {
        let bytes = stand.store.read(artifact)?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(INPUT_BYTES_MAX)]).into_owned();
        inputs
            .insert(name.clone(), json!({"artifact_id": artifact.artifact_id, "bytes": artifact.bytes, "text": text}));
    }
    let bundle = json!({
        "schema": SCHEMA,
        "kind": "ReviewBundle",
        "run_id": stand.job.run_id,
        "blueprint": stand.job.blueprint.name,
        "message": stand.job.message,
        "base": active,
        "commit": commit,
        "files_changed": changed,
        "inputs": inputs,
    });
    let bytes = serde_json::to_vec_pretty(&bundle).map_err(|error| Failure::of(&error, None))?;
    let summary = format!("{} changed files and {} artifacts for review", changed.len(), stand.inputs.len());
    Ok(Made::one(summary, "review_bundle", bytes))
}

/// The run so far as text, one line a stage.
pub(super) async fn summarize_run<W>(stand: &mut Stand<'_, W>) -> Result<Made, Failure> {
    let mut text = format!("run {} of blueprint {}\n", stand.job.run_id, stand.job.blueprint.name);
    let (mut completed, mut failed) = (0, 0);
    for event in stand.store.timeline() {
        let word = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let sign = match event.get("event").and_then(Value::as_str) {
            Some("stage_completed") => {
                completed += 1;
                "ok"
            }
            Some("stage_failed") => {
                failed += 1;
                "failed"
            }
            _ => continue,
        };
        let _ = writeln!(text, "  {:<20} {sign:<7} {}", word("stage"), word("summary")); // cannot fail for a String
    }
    let summary = format!("{completed} stages completed, {failed} failed");
    Ok(Made::one(summary, "run_summary", text.into_bytes()))
}
