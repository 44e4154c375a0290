//! `rei check`: is the file right, and can the machine do what it asks for?
//!
//! It asks every question of [`crate::preflight`] and prints the answers. A new question is a row there.

mod place;

use std::path::Path;

use serde::Serialize;

use self::place::Place;
use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::ui::{Role, Ui};
use crate::config::{Config, LoadError, Problem};
use crate::preflight::{Answer, Context, Level, Need, Question, of_the_file, of_the_machine};

/// `rei check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at the file and what it names, not at the machine
    #[arg(long)]
    file_only: bool,
    /// Build the package, and look for the program of `runtime.command` in it
    #[arg(long, conflicts_with = "file_only")]
    build: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// An answer with the question's name, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    /// The part of rei that needs it.
    needed_by: Need,
    #[serde(flatten)]
    answer: Answer,
}

/// Runs the command.
///
/// # Errors
/// When the file is wrong or the machine lacks something that rei cannot do without.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let loaded = Config::load(&global.config);
    let answer = of_config(&global.config, loaded.as_ref().ok());
    let mut answers = vec![Named { name: "config", needed_by: Need::Start, answer }];
    if !args.json {
        print(&answers[0], ui)?;
    }
    let place = Place::make(&global.config, loaded.as_ref().ok().cloned(), args.build);
    let mut place = place.map_err(|error| {
        let error = CommandError::new(Kind::Failed, "cannot make a temporary directory").because(error);
        error.hint("free space on /tmp, or set TMPDIR")
    })?;
    let runtime = runtime()?;
    if let Err(error) = place.open_mirror() {
        answers.push(Named { name: "source", needed_by: Need::Start, answer: Answer::of(&error, error.hint()) });
    }
    let context = Context::new(place);
    let of_machine: Vec<Question<Place>> = if args.file_only { Vec::new() } else { of_the_machine() };
    for question in of_the_file().into_iter().chain(of_machine) {
        for answer in runtime.block_on((question.ask)(&context)) {
            answers.push(Named { name: question.name, needed_by: question.need, answer });
            if let Some(named) = answers.last().filter(|_| !args.json) {
                print(named, ui)?;
            }
        }
    }
    let failed = answers.iter().filter(|named| named.answer.level == Level::Fail).count();
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

fn print(named: &Named, ui: &mut Ui) -> std::io::Result<()> {
    let Named { name, answer, .. } = named;
    let word = match answer.level {
        Level::Ok => ui.paint(Role::Good, "ok  "),
        Level::Warn => ui.paint(Role::Warning, "warn"),
        Level::Fail => ui.paint(Role::Bad, "fail"),
    };
    ui.result(&format!("{word}  {name:<11}  {}", answer.line))?;
    match &answer.hint {
        Some(hint) => {
            let label = ui.paint(Role::Hint, "hint:");
            ui.result(&format!("      {:<11}  {label} {hint}", ""))
        }
        None => Ok(()),
    }
}

fn of_config(file: &Path, config: Option<&Config>) -> Answer {
    match config {
        None => Answer::fail(format!("{} cannot be used", file.display()), "what is wrong stands below"),
        Some(config) => {
            let listen: Vec<String> = config.runtime.listen.iter().map(|listen| listen.address.to_string()).collect();
            let listen = if listen.is_empty() { "no listener".to_owned() } else { listen.join(", ") };
            Answer::ok(format!("{}: {} on {listen}", file.display(), config.runtime.name))
        }
    }
}
