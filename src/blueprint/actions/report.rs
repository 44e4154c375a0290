//! `prepare_review_bundle`, `summarize_run`: results for people.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{ActionContext, Failure, Made};
use crate::interface::types::SCHEMA;

/// Maximum size of the text of one input in a bundle, in bytes. The artifact itself is complete.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// One JSON object with what a reviewer needs: the commit, what it changes, and the stage's inputs.
pub(super) async fn prepare_review_bundle<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let (commit, active) = (ctx.checkpoint.commit(), &ctx.job.active);
    let changed = ctx.job.mirror.changed(active, commit).await?;
    let changed: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
    let mut inputs = serde_json::Map::new();
    for (name, artifact) in &ctx.inputs {
        let bytes = ctx.store.read(artifact)?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(INPUT_BYTES_MAX)]).into_owned();
        inputs
            .insert(name.clone(), json!({"artifact_id": artifact.artifact_id, "bytes": artifact.bytes, "text": text}));
    }
    let bundle = json!({
        "schema": SCHEMA,
        "kind": "ReviewBundle",
        "run_id": ctx.job.run_id,
        "blueprint": ctx.job.blueprint.name,
        "message": ctx.job.message,
        "base": active,
        "commit": commit,
        "files_changed": changed,
        "inputs": inputs,
    });
    let bytes = serde_json::to_vec_pretty(&bundle).map_err(|error| Failure::of(&error, None))?;
    let summary = format!("{} changed files and {} artifacts for review", changed.len(), ctx.inputs.len());
    Ok(Made::one(summary, "review_bundle", bytes))
}

/// The run so far as text, one line a stage.
pub(super) async fn summarize_run<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let mut text = format!("run {} of blueprint {}\n", ctx.job.run_id, ctx.job.blueprint.name);
    let (mut completed, mut failed) = (0, 0);
    for event in ctx.store.timeline() {
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
