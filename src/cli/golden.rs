//! `rei golden`: `list` and `replay` are here, the others are below.

mod qualify;
mod record;
mod review;
mod show;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::golden_import::{self, address};
use super::ui::{Role, Ui};
use crate::config::Config;
use crate::golden::{
    self, Answer, ArchiveError, Divergence, Exchange, Facets, GoldenRun, Listed, Noise, Normalisers, REQUEST_TIMEOUT,
    RecordError, TranscriptError, Values,
};
use crate::http::Address;

/// The most divergences of one exchange that are printed; `--json` has all.
const DIVERGENCES_MAX: usize = 5;
/// Maximum size of a file with values for placeholders, in bytes: a thousand long tokens.
const VALUES_BYTES_MAX: u64 = 1 << 20;

/// `rei golden`: recorded exchanges with known-good answers.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the golden runs
    List(ListArgs),
    /// Record a golden run from the requests of users, without their secrets, and qualify it
    Record(record::Args),
    /// Show a golden run: its routes, how it was made, and what may differ in its answers
    Show(show::Args),
    /// Show which routes of the live traffic the golden runs cover, in per cent
    Review(review::Args),
    /// Replay a golden run on fresh instances of Active in a sandbox, and keep what Active repeats
    Qualify(qualify::Args),
    /// Replay golden runs against an address, and compare everything that the run's normalisers do not exclude
    Replay(ReplayArgs),
    /// Make a golden run from an HTTP archive (HAR), from a list of requests that a live server answers, or from a transcript
    Import(golden_import::ImportArgs),
}

/// `rei golden list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// `rei golden replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The runs to replay; without them, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The address for the requests; without it, the listener that the run names
    #[arg(long, value_name = "ADDRESS")]
    against: Option<String>,
    /// Values for the placeholders of the requests: a file with one `KIND:NAME=VALUE` on each line
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The result of one run.
#[derive(Debug, Serialize)]
struct Replayed {
    name: String,
    against: String,
    exchanges: usize,
    differ: Vec<Differs>,
}

/// An exchange whose answer was not as recorded.
#[derive(Debug, Serialize)]
struct Differs {
    /// The number of the exchange, from 1.
    exchange: usize,
    request: String,
    divergences: Vec<Divergence>,
}

/// Runs the command.
///
/// # Errors
/// If a file is wrong, a server does not answer, or an answer is not as recorded.
pub fn run(command: &Command, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let config = Config::load(&global.config)?;
    match command {
        Command::List(args) => list(args, &config, ui),
        Command::Record(args) => record::run(args, global, &config, ui),
        Command::Show(args) => show::run(args, &config, ui),
        Command::Review(args) => review::run(args, global, &config, ui),
        Command::Qualify(args) => qualify::run(args, global, &config, ui),
        Command::Replay(args) => replay(args, &config, ui),
        Command::Import(args) => golden_import::run(args, &config, ui),
    }
}

fn list(args: &ListArgs, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let runs = golden::list(&config.validation.golden)?;
    if args.json {
        ui.json(&serde_json::json!({ "runs": runs }))?;
    } else if runs.is_empty() {
        ui.status("there are no golden runs");
        ui.hint("make one: rei golden record, or rei golden import FILE");
    } else {
        let row = |run: &Listed| {
            let (header, path) = (&run.header, run.path.display().to_string());
            vec![header.name.clone(), header.listener.clone(), run.exchanges.to_string(), path]
        };
        ui.table(&["name", "listener", "exchanges", "file"], runs.iter().map(row).collect())?;
    }
    Ok(())
}

fn replay(args: &ReplayArgs, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let mut runs = golden::list(&config.validation.golden)?;
    if let Some(name) = args.names.iter().find(|name| !runs.iter().any(|run| run.header.name == **name)) {
        let absent = CommandError::new(Kind::Failed, format!("there is no golden run {name}"));
        return Err(absent.hint("`rei golden list` lists them"));
    }
    runs.retain(|run| args.names.is_empty() || args.names.contains(&run.header.name));
    let values = args.secrets.as_deref().map(values).transpose()?.unwrap_or_default();
    let runtime = runtime()?;
    let mut results = Vec::new();
    let mut progress = ui.progress();
    for listed in &runs {
        progress.stage(&format!("replaying {}", listed.header.name));
        let against = address(args.against.as_deref(), &listed.header.listener, config)?;
        let run = golden::read(&listed.path)?;
        results.push(runtime.block_on(replay_run(&run, &against, values.clone(), &mut |done| {
            progress.count(done as u64, run.exchanges.len() as u64);
        }))?);
    }
    drop(progress);
    if args.json {
        ui.json(&serde_json::json!({ "runs": results }))?;
    } else {
        results.iter().try_for_each(|result| print(result, ui))?;
    }
    match results.iter().map(|result| result.differ.len()).sum() {
        0 => Ok(()),
        1 => Err(CommandError::new(Kind::Findings, "the answer to one exchange is not as recorded")),
        count => {
            Err(CommandError::new(Kind::Findings, format!("the answers to {count} exchanges are not as recorded")))
        }
    }
}

/// The operator's values for placeholders.
fn values(path: &Path) -> Result<Values, CommandError> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(VALUES_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| CommandError::new(Kind::Failed, format!("cannot read {}", path.display())).because(error))?;
    Values::parse(&text).map_err(|error| {
        let wrong = CommandError::new(Kind::Failed, format!("{}: {error}", path.display()));
        wrong.hint("write one KIND:NAME=VALUE on each line, as in cookie:session=1a2b")
    })
}

async fn replay_run(
    run: &GoldenRun,
    against: &Address,
    values: Values,
    progress: &mut impl FnMut(usize),
) -> Result<Replayed, CommandError> {
    let normalisers = Normalisers::compile(&run.header.normalisers).map_err(|reason| {
        CommandError::new(Kind::Failed, format!("a normaliser of {} is wrong: {reason}", run.header.name))
    })?;
    let mut differ = BTreeMap::new();
    let replay = golden::Replay::new(against.clone(), &run.exchanges);
    let replay = replay.with_values(values).with_protocol(run.header.protocol);
    let mut order = golden::Progress::new(golden::Order::of(&run.exchanges));
    let mut flight = golden::Flight::new(&replay, &run.exchanges, REQUEST_TIMEOUT, &mut order);
    let mut done = 0;
    while let Some((index, answer)) = flight.next().await {
        let exchange = &run.exchanges[index];
        let rules = normalisers.with(&exchange.learned).map_err(|reason| {
            CommandError::new(Kind::Failed, format!("a learned rule of {} is wrong: {reason}", run.header.name))
        })?;
        let divergences = compare(exchange, &answer, &rules);
        if !divergences.is_empty() {
            differ.insert(index, Differs { exchange: index + 1, request: exchange.name(), divergences });
        }
        done += 1;
        progress(done);
    }
    let differ = differ.into_values().collect();
    let (name, exchanges) = (run.header.name.clone(), run.exchanges.len());
    Ok(Replayed { name, against: against.to_string(), exchanges, differ })
}

/// Compares an answer with the recorded one.
fn compare(exchange: &Exchange, answer: &Answer, normalisers: &Normalisers) -> Vec<Divergence> {
    let one = |recorded: &str, answered: String| {
        let (recorded, answered) = (Some(recorded.to_owned()), Some(answered));
        vec![Divergence { at: "answer".to_owned(), recorded, answered }]
    };
    match (&answer.response, Facets::of_recorded(exchange, normalisers)) {
        (Err(error), _) => one("an answer", error.clone()),
        (Ok(_), Some(recorded)) => {
            let given = answer.facets(exchange, normalisers).unwrap_or_default();
            golden::compare(&recorded, &given, &Noise::none(), normalisers)
        }
        (Ok(response), None) if response.status < 500 => Vec::new(),
        (Ok(response), None) => one("a status below 500", response.status.to_string()),
    }
}

fn print(result: &Replayed, ui: &mut Ui) -> std::io::Result<()> {
    let word = match result.differ.is_empty() {
        true => ui.paint(Role::Good, "ok  "),
        false => ui.paint(Role::Bad, "fail"),
    };
    let good = result.exchanges - result.differ.len();
    let Replayed { name, against, exchanges, .. } = result;
    ui.result(&format!("{word}  {name}  {good} of {exchanges} exchanges answered as recorded by {against}"))?;
    for differs in &result.differ {
        ui.result(&format!("      exchange {}: {}", differs.exchange, differs.request))?;
        for divergence in differs.divergences.iter().take(DIVERGENCES_MAX) {
            ui.result(&format!("        {divergence}"))?;
        }
        if let Some(more) = differs.divergences.len().checked_sub(DIVERGENCES_MAX).filter(|more| *more > 0) {
            ui.result(&format!("        and {more} more"))?;
        }
    }
    Ok(())
}

impl From<golden::Error> for CommandError {
    fn from(error: golden::Error) -> Self {
        let hint = error.hint();
        Self::of(Kind::Failed, &error, hint)
    }
}

impl From<RecordError> for CommandError {
    fn from(error: RecordError) -> Self {
        let hint = error.hint();
        Self::of(Kind::Failed, &error, hint)
    }
}

impl From<TranscriptError> for CommandError {
    fn from(error: TranscriptError) -> Self {
        let hint = error.hint().to_owned();
        Self::of(Kind::Failed, &error, Some(hint))
    }
}

impl From<ArchiveError> for CommandError {
    fn from(error: ArchiveError) -> Self {
        let hint = error.hint();
        Self::of(Kind::Failed, &error, Some(hint))
    }
}
