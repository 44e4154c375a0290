//! Carries a plan out: one evaluation, one realisation, one look at what is there. Nothing is decided here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::derive::derive;
use super::plan::{Built, GoldenFact, Plan, Work, plan_reproduction};
use super::step::StepId;
use super::verdict::{FILE, VERDICT_BYTES_MAX, VerdictFile};
use crate::config::Config;
use crate::interface::types::{ReproductionRun, Version};
use crate::nix::{self, Derivation, Failure, Nix, Progress, RealiseOptions};
use crate::report::chain;

/// What Nix gets beyond the bound of the checks, to end them itself and to say so.
const REALISE_GRACE: Duration = Duration::from_secs(30);

/// The lines of a log that are kept, and the bytes that they are looked for in.
const LOG_LINES_MAX: usize = 30;
const LOG_BYTES_MAX: usize = 16 << 10;

/// The versions that are Active and candidate at this moment: a plan for others is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The candidate's store path.
    pub store_path: String,
    /// Active's store path.
    pub active_store_path: String,
}

/// What was found of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Its derivation has an output.
    Built {
        /// The derivation.
        drv: String,
        /// The bytes of its `verdict.json`, if there is one.
        verdict: Option<Vec<u8>>,
        /// Whether it was there before.
        reused: bool,
    },
    /// Its derivation has none.
    Failed {
        /// The derivation.
        drv: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// Nothing was to be built.
    None,
}

/// Why a plan was not executed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The candidate or Active has changed since the plan was made.
    #[error("the plan judges {} against {}, but now these are {} and {}", planned.store_path, planned.active_store_path, now.store_path, now.active_store_path)]
    Stale {
        /// What it was made for.
        planned: Bound,
        /// What they are now.
        now: Bound,
    },
    /// Nix did not answer.
    #[error("the checks could not be run")]
    Nix(#[source] nix::Error),
}

impl Error {
    /// The next step for an operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stale { .. } => Some("ask for a new evolution: rei evolve".into()),
            Self::Nix(error) => error.hint().or_else(|| Some("look at the machine: rei check".into())),
        }
    }
}

/// What the execution of a plan needs.
pub struct Means<'a> {
    /// Nix.
    pub nix: &'a Nix,
    /// Builds at once.
    pub jobs: usize,
    /// Receives what is being built.
    pub progress: Option<Sender<Progress>>,
}

/// Carries the plan out; the findings are in the order of its steps.
///
/// # Errors
/// When the plan is stale or Nix cannot be asked. A check that fails is a finding.
pub async fn execute(plan: &Plan, now: &Bound, means: Means<'_>) -> Result<Vec<StepOutcome>, Error> {
    Ok(execute_steps(plan, now, means).await?.into_iter().map(|(_, outcome)| outcome).collect())
}

/// The same, with the path of each output that is there.
pub(super) async fn execute_steps(
    plan: &Plan,
    now: &Bound,
    means: Means<'_>,
) -> Result<Vec<(Option<PathBuf>, StepOutcome)>, Error> {
    let planned = Bound { store_path: plan.store_path.clone(), active_store_path: plan.active_store_path.clone() };
    if planned != *now {
        return Err(Error::Stale { planned, now: now.clone() });
    }
    let nix = means.nix;
    let mut sandboxed = derive(plan, nix).await.map_err(Error::Nix)?.into_iter();
    let builds = plan.steps.iter().map(|step| match &step.work {
        Work::Decided { .. } => None,
        Work::Build(built) => Some(built.clone()),
        Work::Sandboxed { .. } => sandboxed.next(),
    });
    let builds: Vec<Option<Built>> = builds.collect();
    let all: Vec<Derivation> = builds.iter().flatten().map(Derivation::from).collect();
    let missing = nix.invalid(all.iter().map(|one| &one.out)).await.map_err(Error::Nix)?;
    let timeout = Duration::from_millis(plan.timeout_ms);
    let options =
        RealiseOptions { jobs: means.jobs, timeout, silence: timeout, total: timeout + REALISE_GRACE, root: None };
    let realised = nix.realise(&all, &options, means.progress).await.map_err(Error::Nix)?;
    let mut outcomes = realised.outcomes.into_iter();
    let mut findings = Vec::with_capacity(builds.len());
    for built in builds {
        let Some((Built { drv, out }, outcome)) = built.and_then(|built| Some((built, outcomes.next()?))) else {
            findings.push((None, StepOutcome::None));
            continue;
        };
        findings.push(match outcome.failure {
            Some(failure) => (None, StepOutcome::Failed { log: log_tail(nix, &drv, failure).await, drv }),
            None => {
                let out = PathBuf::from(out);
                let verdict = read_bounded(&out.join(FILE));
                let reused = !missing.contains(&out);
                (Some(out), StepOutcome::Built { drv, verdict, reused })
            }
        });
    }
    Ok(findings)
}

/// The end of a failed derivation's log; if there is none, what Nix said about the failure.
async fn log_tail(nix: &Nix, drv: &str, failure: Failure) -> Vec<String> {
    let log = match nix.log(Path::new(drv), LOG_BYTES_MAX).await {
        Ok(Some(log)) => String::from_utf8_lossy(&log).into_owned(),
        Ok(None) => failure.message,
        Err(error) => format!("{}; {}", failure.message, chain(&error)),
    };
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..].iter().map(|&line| line.to_owned()).collect()
}

/// A small file of the store; what is larger than a verdict can be is cut, and then no verdict.
fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(VERDICT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Replays an incident's exchanges against Active in a sandbox, to see whether it fails every time.
///
/// # Errors
/// When Nix cannot be asked. A run that could not be made is named in the result.
pub async fn reproduce(
    config: &Config,
    active: &Version,
    run: &GoldenFact,
    rei: &Path,
    nonce: &str,
    means: Means<'_>,
) -> Result<ReproductionRun, Error> {
    let plan = plan_reproduction(config, active, run, rei.to_owned(), nonce.to_owned());
    let now = Bound { store_path: active.store_path.clone(), active_store_path: active.store_path.clone() };
    let mut run_result = ReproductionRun { path: run.path.display().to_string(), ..ReproductionRun::default() };
    let found = match execute(&plan, &now, means).await?.into_iter().next() {
        Some(StepOutcome::Built { verdict: Some(bytes), .. }) => {
            VerdictFile::parse(&bytes, &StepId::Reproduction.to_string())
        }
        Some(StepOutcome::Failed { log, .. }) => Err(log.join("\n")),
        _ => Err("the run cannot be replayed: see its listener".to_owned()),
    };
    match found {
        Ok(file) => {
            let figure = |name: &str| file.figures.get(name).copied().unwrap_or(0);
            (run_result.tries, run_result.failures) = (figure("tries"), figure("failures"));
            run_result.reproduces = (run_result.tries > 0).then_some(run_result.failures == run_result.tries);
            run_result.detail = file.summary;
        }
        Err(reason) => run_result.detail = reason,
    }
    Ok(run_result)
}
