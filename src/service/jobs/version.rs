//! Builds a commit, and reports the progress.

use crate::blueprint::Blame;
use crate::interface::types::Version;
use crate::nix::{Derivation, Progress, RealiseOptions, last_output, plain_log};
use crate::preflight;
use crate::report::chain;
use crate::service::failure::{Failed, HINT};
use crate::service::input::{Input, Inputs};
use crate::service::tools::Tools;
use crate::service::versions;
use crate::source::{Gap, ObjectId, with_gaps};

/// Maximum number of progress events that wait; more are dropped.
const PROGRESS_MAX: usize = 64;
/// Size of the end of a build's log that an agent gets, in bytes.
const LOG_TAIL_BYTES: usize = 4 << 10;

/// Evaluates and builds the package of a commit, with the garbage collector root `root`.
pub(super) async fn build_version(
    tools: &Tools,
    commit: &ObjectId,
    root: &str,
    inputs: &Inputs,
) -> Result<Version, Failed> {
    let flake = tools.flake(commit).await?;
    let drv_root = tools.roots.path(&format!("{root}-drv"))?;
    let package = &tools.config.runtime.package;
    let with_hint = |error: crate::nix::Error| {
        let hint = preflight::evaluation_hint(&tools.config, commit, &error);
        let gaps = if error.is_of_the_flake() { flake.gaps() } else { &[] };
        let (line, hint) = with_gaps(&chain(&error), &hint, gaps);
        Failed { reason: format!("{line}{HINT}{hint}"), ..Failed::of_nix(&error, None) }
    };
    let driver = tools.nix().await?;
    let derivation = driver.evaluate_package(&flake, package, Some(&drv_root)).await.map_err(with_hint)?;
    realise(tools, &derivation, flake.gaps(), root, inputs).await?;
    // The journal record of this version is synced to disk at once. So the store path must be on disk before it.
    driver.sync().await?;
    let tree = tools.mirror.tree(commit).await?;
    let version = Version {
        store_path: derivation.out.display().to_string(),
        rev: commit.to_string(),
        tree: tree.to_string(),
        drv: derivation.drv.display().to_string(),
    };
    versions::keep(&tools.paths, &version).await;
    Ok(version)
}

/// Builds one derivation and reports the progress. If it fails, the reason has the end of the log.
async fn realise(
    tools: &Tools,
    derivation: &Derivation,
    gaps: &[Gap],
    root: &str,
    inputs: &Inputs,
) -> Result<(), Failed> {
    let options = RealiseOptions {
        jobs: Tools::jobs(),
        timeout: tools.config.blueprints.timeout,
        silence: tools.config.blueprints.timeout,
        total: tools.config.blueprints.timeout,
        root: Some(tools.roots.path(root)?),
    };
    let driver = tools.nix().await?;
    let realised = driver.realise(std::slice::from_ref(derivation), &options, Some(progress(inputs))).await?;
    let Some(failure) = realised.outcomes.into_iter().find_map(|outcome| outcome.failure) else { return Ok(()) };
    let log = driver.log(&derivation.drv, LOG_TAIL_BYTES).await.ok().flatten().unwrap_or_default();
    let output = last_output(&log);
    let hint = preflight::build_hint(&failure, &derivation.drv);
    let gaps = if failure.is_of_the_build() { gaps } else { &[] };
    let (line, hint) = with_gaps(&format!("{}{output}", failure.message), &hint, gaps);
    // The first line is for a person. An agent that repairs it also gets the end of the log.
    let reason = format!("{line}{HINT}{hint}\n{}", plain_log(&log).trim_end());
    Err(Failed { reason, blame: if failure.is_of_the_build() { Blame::Content } else { Blame::Machine } })
}

/// Sends progress to the event loop, which sends it to the connected clients.
pub(super) fn progress(inputs: &Inputs) -> tokio::sync::mpsc::Sender<Progress> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(PROGRESS_MAX);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        while let Some(progress) = receiver.recv().await {
            let name = |drv: &std::path::Path| {
                let file = drv.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let name = file.split_once('-').map_or(file.as_str(), |(_, name)| name);
                name.trim_end_matches(".drv").to_owned()
            };
            let (text, done) = match &progress {
                Progress::Started { drv } => (format!("building {}", name(drv)), None),
                Progress::Ended { drv } => (format!("built {}", name(drv)), None),
                Progress::Counts { done, expected, .. } => {
                    (format!("{done} of {expected} builds"), Some((*done, *expected)))
                }
                Progress::Line { .. } | Progress::Phase { .. } => continue,
            };
            if inputs.send(Input::Progress { text, done }).await.is_err() {
                return;
            }
        }
    });
    sender
}
