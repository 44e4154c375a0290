//! Carries a plan out: one evaluation, one realisation, one look at what is there. Nothing is decided here.

use std::path::Path;
use std::time::Duration;

use super::nix::{Nix, NixError};
use super::plan::{Built, GoldenFact, Plan, Work, plan_reproduction};
use super::verdict::{FILE, VERDICT_BYTES_MAX, VerdictFile};
use crate::config::Config;
use crate::interface::types::{ReproductionRun, Version};

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
pub enum Finding {
    /// Its derivation has an output.
    Built {
        /// The derivation.
        drv: String,
        /// The bytes of its `verdict.json`, where there is one.
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

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was made for another moment.
    #[error("the plan judges {} against {}, but now these are {} and {}", planned.store_path, planned.active_store_path, now.store_path, now.active_store_path)]
    Stale {
        /// What it was made for.
        planned: Bound,
        /// What is.
        now: Bound,
    },
    /// Nix could not be asked.
    #[error("the checks could not be run")]
    Nix(#[source] NixError),
}

impl Error {
    /// The next step for an operator, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stale { .. } => Some("ask for a new evolution: rei evolve".into()),
            Self::Nix(error) => error.hint(),
        }
    }
}

/// Carries the plan out; the findings are in the order of its steps.
///
/// # Errors
/// When the plan is stale or Nix cannot be asked. A check that fails is a finding.
pub async fn execute(plan: &Plan, now: &Bound, nix: &impl Nix) -> Result<Vec<Finding>, Error> {
    let planned = Bound { store_path: plan.store_path.clone(), active_store_path: plan.active_store_path.clone() };
    if planned != *now {
        return Err(Error::Stale { planned, now: now.clone() });
    }
    let mut sandboxed = nix.instantiate(plan).await.map_err(Error::Nix)?.into_iter();
    let builds = plan.steps.iter().map(|step| match &step.work {
        Work::Decided { .. } => None,
        Work::Build(built) => Some(built.clone()),
        Work::Sandboxed { .. } => sandboxed.next(),
    });
    let builds: Vec<Option<Built>> = builds.collect();
    let outs: Vec<String> = builds.iter().flatten().map(|built| built.out.clone()).collect();
    let drvs: Vec<String> = builds.iter().flatten().map(|built| built.drv.clone()).collect();
    let missing = nix.invalid(&outs).await.map_err(Error::Nix)?;
    nix.realise(&drvs, Duration::from_millis(plan.timeout_ms)).await.map_err(Error::Nix)?;
    let invalid = nix.invalid(&outs).await.map_err(Error::Nix)?;
    let mut findings = Vec::with_capacity(builds.len());
    for built in builds {
        findings.push(match built {
            None => Finding::None,
            Some(Built { drv, out }) if invalid.contains(&out) => {
                Finding::Failed { log: nix.log_tail(&drv).await, drv }
            }
            Some(Built { drv, out }) => {
                let verdict = read_bounded(&Path::new(&out).join(FILE));
                Finding::Built { drv, verdict, reused: !missing.contains(&out) }
            }
        });
    }
    Ok(findings)
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
/// When Nix cannot be asked. A run that could not be made is told in the result.
pub async fn reproduce(
    config: &Config,
    active: &Version,
    run: &GoldenFact,
    rei: &Path,
    nonce: &str,
    nix: &impl Nix,
) -> Result<ReproductionRun, Error> {
    let plan = plan_reproduction(config, active, run, rei.to_owned(), nonce.to_owned());
    let now = Bound { store_path: active.store_path.clone(), active_store_path: active.store_path.clone() };
    let mut told = ReproductionRun { path: run.path.display().to_string(), ..ReproductionRun::default() };
    let found = match execute(&plan, &now, nix).await?.into_iter().next() {
        Some(Finding::Built { verdict: Some(bytes), .. }) => VerdictFile::parse(&bytes, "reproduction"),
        Some(Finding::Failed { log, .. }) => Err(log.join("\n")),
        _ => Err("the run cannot be replayed: see its listener".to_owned()),
    };
    match found {
        Ok(file) => {
            let figure = |name: &str| file.figures.get(name).copied().unwrap_or(0);
            (told.tries, told.failures) = (figure("tries"), figure("failures"));
            told.reproduces = (told.tries > 0).then_some(told.failures == told.tries);
            told.detail = file.summary;
        }
        Err(reason) => told.detail = reason,
    }
    Ok(told)
}
