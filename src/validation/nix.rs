//! What the judge needs of Nix, and Nix's programs that give it.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::plan::{Built, Plan, Work};
use crate::command::{self, Command};

/// The expressions of the sandboxed checks, which the flake exports too.
const CHECKS: &str = include_str!("../../checks/default.nix");

/// The expression that makes derivations of a plan.
const PLAN: &str = include_str!("../../checks/plan.nix");

/// The bound of an evaluation of [`PLAN`]: some milliseconds a check, and copying golden runs and rei into the store.
const EVALUATE_TIMEOUT: Duration = Duration::from_secs(120);

/// The bound of a question to the store.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// What Nix gets beyond the bound of the checks, to end them itself and to say so.
const REALISE_GRACE: Duration = Duration::from_secs(30);

/// The lines of a log that are kept.
const LOG_LINES_MAX: usize = 30;

/// What the judge needs of Nix. Paths are store paths.
pub trait Nix {
    /// Makes the derivations of the plan's sandboxed steps, in their order, in one evaluation.
    fn instantiate(&self, plan: &Plan) -> impl Future<Output = Result<Vec<Built>, NixError>>;
    /// Builds what can be built; what cannot is seen by [`Nix::invalid`].
    fn realise(&self, drvs: &[String], timeout: Duration) -> impl Future<Output = Result<(), NixError>>;
    /// Those of these outputs that do not exist.
    fn invalid(&self, outs: &[String]) -> impl Future<Output = Result<Vec<String>, NixError>>;
    /// The end of a derivation's log, or why there is none.
    fn log_tail(&self, drv: &str) -> impl Future<Output = Vec<String>>;
}

/// Why Nix gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// A program could not be run.
    #[error("nix could not be asked")]
    Run(#[source] command::Error),
    /// A program refused.
    #[error("{program} refused: {said}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// The end of what it printed.
        said: String,
    },
    /// A program answered something else than was asked.
    #[error("{program} answered something unexpected")]
    Answer {
        /// Its name.
        program: &'static str,
        /// What was wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be written for Nix to read.
    #[error("cannot write {}", path.display())]
    Scratch {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl NixError {
    /// The next step for an operator, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Run(command::Error::Start { .. }) => Some("install Nix, or look at the machine: rei check".into()),
            Self::Refused { .. } => Some("look at the machine: rei check".into()),
            _ => None,
        }
    }
}

/// The programs of an installed Nix.
#[derive(Clone, Debug)]
pub struct NixPrograms {
    /// A directory of the supervisor's own, for requests; made where it is missing.
    pub scratch: PathBuf,
    /// Variables for the programs, besides those of the supervisor.
    pub env: Vec<(String, String)>,
    /// Builds at once.
    pub jobs: usize,
}

impl NixPrograms {
    fn command(&self, program: &str, timeout: Duration) -> Command {
        self.env.iter().fold(Command::new(program, timeout), |command, (name, value)| command.env(name, value))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, NixError> {
        let path = self.scratch.join(name);
        let written = std::fs::create_dir_all(&self.scratch).and_then(|()| std::fs::write(&path, text));
        written.map_err(|source| NixError::Scratch { path: path.clone(), source })?;
        Ok(path)
    }
}

/// What [`PLAN`] reads.
fn request(plan: &Plan) -> serde_json::Value {
    let checks = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Sandboxed { spec, inputs } => Some(json!({ "spec": spec, "inputs": inputs })),
        Work::Decided { .. } | Work::Build(_) => None,
    });
    let checks: Vec<serde_json::Value> = checks.collect();
    let system = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    json!({ "rei": plan.rei, "nonce": plan.nonce, "system": system, "checks": checks })
}

/// The end of what a program printed.
fn tail(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..].iter().map(|&line| line.to_owned()).collect()
}

impl Nix for NixPrograms {
    async fn instantiate(&self, plan: &Plan) -> Result<Vec<Built>, NixError> {
        self.write("default.nix", CHECKS)?;
        let expression = self.write("plan.nix", PLAN)?;
        let asked = self.write("request.json", &request(plan).to_string())?;
        let command = self
            .command("nix-instantiate", EVALUATE_TIMEOUT)
            .args(["--eval", "--strict", "--json", "--read-write-mode"])
            .args(["--option", "pure-eval", "false", "--option", "restrict-eval", "false"])
            .arg(expression)
            .args(["--argstr", "request"])
            .arg(asked);
        let output = command.run().await.map_err(NixError::Run)?;
        if !output.success() {
            return Err(NixError::Refused { program: "nix-instantiate", said: tail(&output.stderr_text()).join("\n") });
        }
        let answer = serde_json::from_slice(&output.stdout);
        answer.map_err(|source| NixError::Answer { program: "nix-instantiate", source })
    }

    async fn realise(&self, drvs: &[String], timeout: Duration) -> Result<(), NixError> {
        if drvs.is_empty() {
            return Ok(());
        }
        let seconds = timeout.as_secs().max(1).to_string();
        let command = self
            .command("nix-store", timeout + REALISE_GRACE)
            .args(["--realise", "--keep-going", "--quiet", "--max-jobs", &self.jobs.to_string()])
            .args(["--timeout", &seconds, "--option", "sandbox", "true", "--option", "sandbox-fallback", "false"])
            .args(drvs);
        // Its exit code differs between versions and says nothing of any one build: the outputs do.
        match command.run().await {
            Ok(_) | Err(command::Error::Timeout { .. }) => Ok(()),
            Err(error) => Err(NixError::Run(error)),
        }
    }

    async fn invalid(&self, outs: &[String]) -> Result<Vec<String>, NixError> {
        if outs.is_empty() {
            return Ok(Vec::new());
        }
        let command = self.command("nix-store", QUERY_TIMEOUT).args(["--check-validity", "--print-invalid"]).args(outs);
        let output = command.run().await.map_err(NixError::Run)?;
        if !output.success() {
            return Err(NixError::Refused { program: "nix-store", said: tail(&output.stderr_text()).join("\n") });
        }
        Ok(output.stdout_text().lines().map(str::to_owned).collect())
    }

    async fn log_tail(&self, drv: &str) -> Vec<String> {
        match self.command("nix-store", QUERY_TIMEOUT).args(["--read-log", drv]).run().await {
            Ok(output) if output.success() => tail(&output.stdout_text()),
            Ok(_) => vec!["there is no log: it was not begun".into()],
            Err(error) => vec![error.to_string()],
        }
    }
}
