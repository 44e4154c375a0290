//! Qualifies a golden run: replays it on Active in a sandbox, and keeps what Active repeats.

use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;

use crate::digest;
use crate::golden::{self, GoldenRun};
use crate::interface::operations::{GoldenQualified, OperationsError};
use crate::interface::types::Version;
use crate::report::chain;
use crate::service::failure::reason;
use crate::service::tools::Tools;
use crate::time::Timestamp;
use crate::validation::{self, GoldenFact};

/// One run at a time is replayed: each replay starts Active several times beside the service.
static ONE: Semaphore = Semaphore::const_new(1);

/// Answers `QualifyGolden`.
///
/// # Errors
/// If there is no such run, another one is being replayed, or it could not be replayed.
pub async fn qualify(
    tools: &Tools,
    name: &str,
    active: &Version,
    at: Timestamp,
) -> Result<GoldenQualified, OperationsError> {
    let _one = ONE
        .try_acquire()
        .map_err(|_| OperationsError::Busy { reason: "another golden run is being replayed".to_owned() })?;
    let failed = |reason: String| OperationsError::Busy { reason };
    let directories = tools.config.validation.golden.clone();
    let fact = {
        let name = name.to_owned();
        let read = tokio::task::spawn_blocking(move || fact(&directories, &name));
        read.await.map_err(|error| failed(format!("the golden runs were not read: {error}")))??
    };
    let builder = tools.builder().await.map_err(|refusal| failed(reason(&refusal, refusal.hint())))?;
    let means = tools.means(None).await.map_err(|error| failed(reason(&error, error.hint())))?;
    let nonce = format!("qualify-{}", at.as_unix_ms());
    let found = validation::qualify(&tools.config, active, &fact, builder, &nonce, means).await;
    let found = found.map_err(|error| failed(reason(&error, error.hint())))?.map_err(failed)?;
    let recorded = found.run.header.recording.clone().unwrap_or_default();
    let kept = found.run.exchanges.len() as u64;
    let path = tools.paths.qualified(name);
    let file = path.clone();
    let written = tokio::task::spawn_blocking(move || write_run(&file, found.run)).await;
    written.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
    Ok(GoldenQualified {
        path: path.display().to_string(),
        kept,
        dropped: recorded.dropped.values().sum(),
        summary: found.summary,
        details: found.details,
    })
}

fn fact(directories: &[PathBuf], name: &str) -> Result<GoldenFact, OperationsError> {
    let invalid = |reason: String| OperationsError::Invalid { field: "name".to_owned(), reason };
    let runs = golden::list(directories).map_err(|error| invalid(reason(&error, error.hint())))?;
    let found = runs.into_iter().find(|run| run.header.name == name);
    let golden::Listed { path, header, .. } =
        found.ok_or_else(|| OperationsError::NotFound { id: format!("golden run {name}") })?;
    golden::verify(&path).map_err(|error| invalid(reason(&error, error.hint())))?;
    let sha256 = digest::sha256_of_file(&path).map_err(|error| invalid(format!("{}: {error}", path.display())))?;
    Ok(GoldenFact {
        name: header.name,
        listener: header.listener,
        bodies: golden::directory_if_any(&path),
        path,
        sha256,
    })
}

/// Writes the run in place of an earlier one.
///
/// # Errors
/// If it cannot be written.
pub fn write_run(path: &Path, run: GoldenRun) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let files: Vec<_> = run.exchanges.iter().map(|exchange| exchange.files.clone()).collect();
    golden::write(&new, run).map_err(|error| chain(&error))?;
    // Bodies of an earlier qualification.
    golden::prune(path, files.iter()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}
