//! Qualifies a recording: replays it on Active in a sandbox, and reads the run that can be repeated.

use std::path::Path;

use super::execute::{Bound, Error, Means, StepOutcome, execute_steps};
use super::plan::{GoldenFact, plan_qualify};
use super::verdict::{QUALIFIED, VerdictFile};
use crate::config::Config;
use crate::golden::{self, GoldenRun};
use crate::interface::types::Version;
use crate::report::chain;

/// A recording that was replayed on Active.
#[derive(Clone, Debug, PartialEq)]
pub struct Qualified {
    /// The exchanges that can be repeated, with what may differ in them. Its header has the counts.
    pub run: GoldenRun,
    /// One line for a person.
    pub summary: String,
    /// The dropped exchanges, each with its reason.
    pub details: Vec<String>,
}

/// Replays a recording twice on fresh instances of Active, and keeps what repeats.
///
/// # Errors
/// When Nix cannot be asked. `Ok(Err(reason))` means that the recording could not be replayed.
pub async fn qualify(
    config: &Config,
    active: &Version,
    recording: &GoldenFact,
    rei: &Path,
    nonce: &str,
    means: Means<'_>,
) -> Result<Result<Qualified, String>, Error> {
    let plan = plan_qualify(config, active, recording, rei.to_owned(), nonce.to_owned());
    let now = Bound { store_path: active.store_path.clone(), active_store_path: active.store_path.clone() };
    let step = plan.steps.first().map(|step| step.id.to_string()).unwrap_or_default();
    let found = execute_steps(&plan, &now, means).await?.into_iter().next();
    Ok(match found {
        Some((Some(out), StepOutcome::Built { verdict: Some(bytes), .. })) => VerdictFile::parse(&bytes, &step)
            .and_then(|file| {
                let run = golden::read(&out.join(QUALIFIED)).map_err(|error| chain(&error))?;
                Ok(Qualified { run, summary: file.summary, details: file.details })
            }),
        Some((_, StepOutcome::Failed { log, .. })) => Err(log.join("\n")),
        _ => Err(format!("the recording cannot be replayed: see its listener, {:?}", recording.listener)),
    })
}
