//! `build_context_pack`: everything known about the incident and the source, in one JSON object.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ActionContext, Failure, Made};
use crate::interface::types::SCHEMA;

/// Maximum number of listed source paths. `files_total` has the real number.
const FILES_MAX: usize = 5000;
/// Maximum size of the evolution context, in bytes.
const CONTEXT_BYTES_MAX: u64 = 16 << 20;

/// Writes the context and the list of the source's files into one JSON object, for the next stages.
pub(super) async fn build_context_pack<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let context = match &ctx.job.context {
        Some(path) => read_context(path)?,
        None => Value::Null,
    };
    let commit = ctx.checkpoint.commit().clone();
    let files = ctx.job.mirror.files(&commit).await?;
    let listed: Vec<String> = files.iter().take(FILES_MAX).map(|file| file.path.display().to_string()).collect();
    let pack = json!({
        "schema": SCHEMA,
        "kind": "ContextPack",
        "run_id": ctx.job.run_id,
        "blueprint": ctx.job.blueprint.name,
        "source": {
            "commit": commit,
            "tree": ctx.job.mirror.tree(&commit).await?,
            "files": listed,
            "files_total": files.len(),
        },
        "context": context,
    });
    let bytes = serde_json::to_vec_pretty(&pack).map_err(|error| Failure::of(&error, None))?;
    ctx.store.write_context_pack(&bytes);
    let known = if pack["context"].is_null() { "no incident" } else { "the incident's context" };
    let summary = format!("{known}, {} files of {commit}", files.len());
    Ok(Made::one(summary, "context_pack", bytes))
}

/// The file of the context: `context.json` in the path if the path is a directory, else the path itself.
pub(super) fn context_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("context.json") } else { path.to_owned() }
}

fn read_context(path: &Path) -> Result<Value, Failure> {
    let file = context_file(path);
    let failed = |what: String| Failure::new(format!("cannot read the context {}: {what}", file.display()));
    let meta = file.metadata().map_err(|error| failed(error.to_string()))?;
    if meta.len() > CONTEXT_BYTES_MAX {
        return Err(failed(format!("{} bytes are more than {CONTEXT_BYTES_MAX}", meta.len())));
    }
    let bytes = std::fs::read(&file).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
