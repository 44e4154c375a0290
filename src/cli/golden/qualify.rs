//! `rei golden qualify`: replays a run on Active in a sandbox, and keeps what Active repeats.

use std::path::Path;

use crate::cli::args::Global;
use crate::cli::connect::ask;
use crate::cli::error::{CommandError, Kind};
use crate::cli::ui::Ui;
use crate::config::Config;
use crate::golden;

/// `rei golden qualify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run
    #[arg(value_name = "NAME")]
    name: String,
    /// Show the result, and leave the file of the run as it is
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The qualification of a run that replaces its file.
    pub fn of(name: String) -> Self {
        Self { name, dry_run: false, json: false }
    }
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, there is no such run, or it could not be replayed.
pub fn run(args: &Args, global: &Global, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    ui.status(&format!("replaying {} on fresh instances of Active", args.name));
    let found = ask(global, async |it| it.qualify_golden(args.name.clone()).await)?;
    if args.json {
        ui.json(&found)?;
    } else {
        ui.result(&found.summary)?;
        found.details.iter().try_for_each(|line| ui.result(&format!("  {line}")))?;
    }
    if args.dry_run {
        ui.hint(&format!("the qualified run is {}", found.path));
        return Ok(());
    }
    if found.kept == 0 {
        let none = CommandError::new(Kind::Findings, "no exchange can be repeated, so the run stays as it is");
        return Err(none.hint("give the instances a beginning: `[validation] state = { fixture = \"fixture\" }`"));
    }
    let listed = golden::list(&config.validation.golden)?.into_iter().find(|run| run.header.name == args.name);
    let Some(listed) = listed else {
        return Err(CommandError::new(Kind::Failed, format!("there is no golden run {} any more", args.name)));
    };
    replace(Path::new(&found.path), &listed.path)?;
    let run = golden::read(&listed.path)?;
    golden::prune(&listed.path, run.exchanges.iter().map(|exchange| &exchange.files)).map_err(|error| {
        let what = format!("cannot remove unused bodies of {}", listed.path.display());
        CommandError::new(Kind::Failed, what).because(error)
    })?;
    ui.hint("`rei golden show` says what the run compares");
    Ok(())
}

/// Puts the qualified run in the place of the run.
fn replace(from: &Path, to: &Path) -> Result<(), CommandError> {
    let new = to.with_extension("new");
    // Its bodies are those that the run has already, or fewer.
    let replaced = std::fs::copy(from, &new).and_then(|_| std::fs::rename(&new, to));
    replaced.map_err(|error| {
        let failed = CommandError::new(Kind::Failed, format!("cannot write {}", to.display())).because(error);
        failed.hint(format!("copy {} there as a user who may read and write both", from.display()))
    })
}
