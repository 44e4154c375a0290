//! Slow work of an evolution: each runs beside the loop and answers with one event.
//!
//! Whatever fails here becomes a reason in the answer; nothing here decides what follows.

mod build;
mod diagnose;
mod generation;
mod install;
mod judge;

pub use build::{BuildOrder, build};
pub use diagnose::{DiagnosisFacts, diagnose, diagnose_now};
pub use generation::{prepare_generation, prune};
pub use install::install;
pub use judge::{ValidationOrder, judge, validate};

use super::input::{Input, Inputs};
use super::tools::Tools;
use crate::interface::types::Version;
use crate::nix::{Derivation, Progress, RealiseOptions};
use crate::report::chain;
use crate::source::ObjectId;

/// Progress events that may wait; more are dropped.
const PROGRESS_MAX: usize = 64;
/// The last lines of a build's log that an agent is told.
const LOG_TAIL_BYTES: usize = 4 << 10;
/// Lines and characters of them that a reason tells: the error, not the way to it.
const WORDS_LINES: usize = 2;
const WORDS_CHARS: usize = 300;

/// Stands between what failed and the next step, in a reason of one line.
pub const HINT: &str = "; hint: ";

/// Why work failed, for a person, with the next step where there is one.
pub fn reason(error: &(dyn std::error::Error + 'static), hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{}{HINT}{hint}", chain(error)),
        None => chain(error),
    }
}

/// Evaluates and builds the package of a commit, rooted as `root`.
async fn build_version(
    tools: &Tools,
    commit: &ObjectId,
    reference: &str,
    root: &str,
    inputs: &Inputs,
) -> Result<Version, String> {
    let nix = |error: crate::nix::Error| reason(&error, error.hint());
    let flake = tools.flake(commit, reference).map_err(nix)?;
    let drv_root = tools.roots.path(&format!("{root}-drv")).map_err(nix)?;
    let package = &tools.config.runtime.package;
    let by_hand = |error: crate::nix::Error| {
        let hint = error.hint().unwrap_or_else(|| {
            let source = &tools.config.runtime.source;
            format!("see it in full: git -C {source} checkout --detach {commit}, and there: nix build .#{package}")
        });
        reason(&error, Some(hint))
    };
    let driver = tools.nix().await.map_err(nix)?;
    let derivation = driver.evaluate_package(&flake, package, Some(&drv_root)).await.map_err(by_hand)?;
    realise(tools, &derivation, root, inputs).await?;
    let tree = tools.mirror.tree(commit).await.map_err(|error| reason(&error, error.hint()))?;
    Ok(Version {
        store_path: derivation.out.display().to_string(),
        rev: commit.to_string(),
        tree: tree.to_string(),
        drv: derivation.drv.display().to_string(),
    })
}

/// Builds one derivation, with its progress told and its log in the reason of a failure.
async fn realise(tools: &Tools, derivation: &Derivation, root: &str, inputs: &Inputs) -> Result<(), String> {
    let nix = |error: crate::nix::Error| reason(&error, error.hint());
    let options = RealiseOptions {
        jobs: Tools::jobs(),
        timeout: tools.config.blueprints.timeout,
        silence: tools.config.blueprints.timeout,
        total: tools.config.blueprints.timeout,
        root: Some(tools.roots.path(root).map_err(nix)?),
    };
    let driver = tools.nix().await.map_err(nix)?;
    let realised =
        driver.realise(std::slice::from_ref(derivation), &options, Some(progress(inputs))).await.map_err(nix)?;
    let Some(failure) = realised.outcomes.into_iter().find_map(|outcome| outcome.failure) else { return Ok(()) };
    let log = driver.log(&derivation.drv, LOG_TAIL_BYTES).await.ok().flatten().unwrap_or_default();
    let said = last_words(&log);
    let hint = failure.hint(&derivation.drv).unwrap_or_else(|| format!("nix log {}", derivation.drv.display()));
    // One line for a person; whoever repairs it is told the end of the log too.
    Err(format!("{}{said}{HINT}{hint}\n{}", failure.message, String::from_utf8_lossy(&log).trim_end()))
}

/// The end of what a build or check printed, to stand behind the sentence that it failed.
pub(super) fn last_words(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(WORDS_LINES)..].join(" / ");
    let last: String = last.chars().filter(|c| !c.is_control()).take(WORDS_CHARS).collect();
    if last.is_empty() { last } else { format!("; it said: {last}") }
}

/// Tells progress to the loop, which tells whoever listens.
fn progress(inputs: &Inputs) -> tokio::sync::mpsc::Sender<Progress> {
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
