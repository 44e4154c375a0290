//! `rei check`: is the file right, and can the machine do what it asks for?
//!
//! Each question is a [`Probe`]: a name and a function from the [`Context`] to a [`Finding`]. A part of the house that
//! has a question of its own adds a probe to [`PROBES`], or to [`FILE_PROBES`] if the machine does not matter.

mod machine;
mod named;
mod proof;
mod source;

use std::path::Path;

use serde::Serialize;

use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::ui::{Role, Ui};
use crate::command::{Command, Error, Output};
use crate::config::{Config, LoadError, Problem};

/// The questions about the file.
const FILE_PROBES: &[Probe] = &[
    Probe { name: "blueprints", run: named::blueprints },
    Probe { name: "golden", run: named::golden },
    Probe { name: "secrets", run: named::secrets },
];

/// The questions about the machine, in the order in which they are asked.
const PROBES: &[Probe] = &[
    Probe { name: "git", run: source::git },
    Probe { name: "source", run: source::source },
    Probe { name: "nix", run: source::nix },
    Probe { name: "sandbox", run: proof::sandbox },
    Probe { name: "programs", run: source::programs },
    Probe { name: "state", run: machine::state },
    Probe { name: "listen", run: machine::listen },
    Probe { name: "switch", run: proof::switch },
    Probe { name: "user", run: machine::user },
    Probe { name: "namespaces", run: machine::namespaces },
    Probe { name: "cgroup", run: machine::cgroup },
    Probe { name: "pidfd", run: proof::pidfds },
    Probe { name: "landlock", run: machine::landlock },
];

/// `rei check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at the file and what it names, not at the machine
    #[arg(long)]
    file_only: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What a probe may use.
pub struct Context<'c> {
    /// The configuration; `None` where the file is wrong, and then only the machine is looked at.
    pub config: Option<&'c Config>,
    /// The file.
    pub file: &'c Path,
    runtime: tokio::runtime::Runtime,
}

impl Context<'_> {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn run(&self, command: &Command) -> Result<Output, Error> {
        self.runtime.block_on(command.run())
    }
}

/// One question.
pub struct Probe {
    /// What it is about, in one word.
    pub name: &'static str,
    /// Asks it; `None` where it does not arise.
    pub run: fn(&Context<'_>) -> Option<Finding>,
}

/// How good an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// rei works, but less well than it could.
    Warn,
    /// rei cannot work like this.
    Fail,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How good it is.
    pub level: Level,
    /// What was found, on one line.
    pub line: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(line: impl Into<String>) -> Self {
        Self { level: Level::Ok, line: line.into(), hint: None }
    }

    /// It works, but less well than it could.
    pub fn warn(line: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, line: line.into(), hint: Some(hint.into()) }
    }

    /// It cannot work like this.
    pub fn fail(line: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, line: line.into(), hint: Some(hint.into()) }
    }
}

/// An answer with the question's name, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Answer {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// Runs the command.
///
/// # Errors
/// When the file is wrong or the machine lacks something that rei cannot do without.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let loaded = Config::load(&global.config);
    let first = Answer { name: "config", finding: of_config(&global.config, loaded.as_ref().ok()) };
    let mut answers = vec![first];
    if !args.json {
        print(&answers[0], ui)?;
    }
    let context = Context { config: loaded.as_ref().ok(), file: &global.config, runtime: runtime()? };
    let of_machine: &[Probe] = if args.file_only { &[] } else { PROBES };
    for probe in FILE_PROBES.iter().chain(of_machine) {
        let Some(finding) = (probe.run)(&context) else { continue };
        answers.push(Answer { name: probe.name, finding });
        if let Some(answer) = answers.last().filter(|_| !args.json) {
            print(answer, ui)?;
        }
    }
    let failed = answers.iter().filter(|answer| answer.finding.level == Level::Fail).count();
    if args.json {
        let problems: &[Problem] = match &loaded {
            Err(LoadError::Invalid { problems, .. }) => problems,
            _ => &[],
        };
        let ok = loaded.is_ok() && failed == 0;
        ui.json(&serde_json::json!({ "ok": ok, "answers": answers, "problems": problems }))?;
    }
    let _ = loaded?;
    match failed {
        0 => Ok(()),
        1 => Err(CommandError::new(Kind::Findings, "one thing must be put right")),
        count => Err(CommandError::new(Kind::Findings, format!("{count} things must be put right"))),
    }
}

fn print(answer: &Answer, ui: &mut Ui) -> std::io::Result<()> {
    let Answer { name, finding } = answer;
    let word = match finding.level {
        Level::Ok => ui.paint(Role::Good, "ok  "),
        Level::Warn => ui.paint(Role::Warning, "warn"),
        Level::Fail => ui.paint(Role::Bad, "fail"),
    };
    ui.result(&format!("{word}  {name:<10}  {}", finding.line))?;
    match &finding.hint {
        Some(hint) => {
            let label = ui.paint(Role::Hint, "hint:");
            ui.result(&format!("      {:<10}  {label} {hint}", ""))
        }
        None => Ok(()),
    }
}

fn of_config(file: &Path, config: Option<&Config>) -> Finding {
    match config {
        None => Finding::fail(format!("{} cannot be used", file.display()), "what is wrong stands below"),
        Some(config) => {
            let listen: Vec<String> = config.runtime.listen.iter().map(|listen| listen.address.to_string()).collect();
            let listen = if listen.is_empty() { "no listener".to_owned() } else { listen.join(", ") };
            Finding::ok(format!("{}: {} on {listen}", file.display(), config.runtime.name))
        }
    }
}
