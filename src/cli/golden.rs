//! `rei golden`: `list`, `replay` and `import` are here, the others are below.

mod qualify;
mod review;
mod show;

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{Global, runtime};
use super::connect::look;
use super::error::{CommandError, Kind};
use super::ui::{Role, Ui};
use crate::config::{Config, ListenAddress};
use crate::golden::{
    self, Divergence, Exchange, FILE_BYTES_MAX, Facets, GoldenRun, Header, Listed, Noise, Normalisers, REQUEST_TIMEOUT,
    RecordError, SUFFIX, Writer,
};
use crate::http::Address;

/// The most divergences of one exchange that are printed; `--json` has all.
const DIVERGENCES_MAX: usize = 5;
/// The most removed credentials that are named; an archive has the same ones in every exchange.
const REMOVED_MAX: usize = 40;

/// `rei golden`: recorded exchanges with known-good answers.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the golden runs
    List(ListArgs),
    /// Show a golden run: its routes, how it was made, and what may differ in its answers
    Show(show::Args),
    /// Show which routes of the live traffic the golden runs cover, in per cent
    Review(review::Args),
    /// Replay a golden run on fresh instances of Active in a sandbox, and keep what Active repeats
    Qualify(qualify::Args),
    /// Replay golden runs against an address, and compare everything that the run's normalisers do not exclude
    Replay(ReplayArgs),
    /// Make a golden run from an HTTP archive (HAR), or from a list of requests that a live server answers
    Import(ImportArgs),
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
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// `rei golden import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A HAR file, or a list with one `METHOD URL` on each line
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The name of the new run; without it, the name of the file
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The listener for the run's requests; without it, the first of the runtime
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// For a list: the server with the good answers; without it, that listener
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Keep credentials in headers, queries and bodies; without it, they are removed
    #[arg(long)]
    keep_credentials: bool,
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
        Command::Show(args) => show::run(args, &config, ui),
        Command::Review(args) => review::run(args, global, &config, ui),
        Command::Qualify(args) => qualify::run(args, global, &config, ui),
        Command::Replay(args) => replay(args, &config, ui),
        Command::Import(args) => import(args, &config, ui),
    }
}

fn list(args: &ListArgs, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let runs = golden::list(&config.validation.golden)?;
    if args.json {
        ui.json(&serde_json::json!({ "runs": runs }))?;
    } else if runs.is_empty() {
        ui.status("there are no golden runs");
        ui.hint("make one: rei golden import FILE");
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
    let runtime = runtime()?;
    let mut results = Vec::new();
    let mut progress = ui.progress();
    for listed in &runs {
        progress.stage(&format!("replaying {}", listed.header.name));
        let against = address(args.against.as_deref(), &listed.header.listener, config)?;
        let run = golden::read(&listed.path)?;
        results.push(runtime.block_on(replay_run(&run, &against, &mut |done| {
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

async fn replay_run(
    run: &GoldenRun,
    against: &Address,
    progress: &mut impl FnMut(usize),
) -> Result<Replayed, CommandError> {
    let normalisers = Normalisers::compile(&run.header.normalisers).map_err(|reason| {
        CommandError::new(Kind::Failed, format!("a normaliser of {} is wrong: {reason}", run.header.name))
    })?;
    let mut differ = Vec::new();
    let mut replay = golden::Replay::new(against.clone(), &run.exchanges);
    for (index, exchange) in run.exchanges.iter().enumerate() {
        let answer = replay.ask(index, exchange, REQUEST_TIMEOUT).await;
        let rules = normalisers.with(&exchange.learned).map_err(|reason| {
            CommandError::new(Kind::Failed, format!("a learned rule of {} is wrong: {reason}", run.header.name))
        })?;
        let divergences = compare(exchange, answer.response, &rules);
        if !divergences.is_empty() {
            let request = format!("{} {}", exchange.request.method, exchange.request.path);
            differ.push(Differs { exchange: index + 1, request, divergences });
        }
        progress(index + 1);
    }
    let (name, exchanges) = (run.header.name.clone(), run.exchanges.len());
    Ok(Replayed { name, against: against.to_string(), exchanges, differ })
}

/// Compares an answer with the recorded one.
fn compare(
    exchange: &Exchange,
    answer: Result<crate::http::Response, String>,
    normalisers: &Normalisers,
) -> Vec<Divergence> {
    let one = |recorded: &str, answered: String| {
        let (recorded, answered) = (Some(recorded.to_owned()), Some(answered));
        vec![Divergence { at: "answer".to_owned(), recorded, answered }]
    };
    match (answer, &exchange.response) {
        (Err(error), _) => one("an answer", error),
        (Ok(response), Some(expected)) => {
            let (recorded, given) =
                (Facets::of_expected(expected, normalisers), Facets::of_response(&response, normalisers));
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

/// The given address, or the address of a listener.
fn address(given: Option<&str>, listener: &str, config: &Config) -> Result<Address, CommandError> {
    if let Some(given) = given {
        return given.parse().map_err(|error: crate::http::Error| {
            let hint = error.hint();
            CommandError::of(Kind::Usage, &error, hint)
        });
    }
    match config.runtime.listen.iter().find(|listen| listen.name == listener).map(|listen| &listen.address) {
        Some(ListenAddress::Tcp(address)) => Ok(Address::Tcp(*address)),
        Some(ListenAddress::Unix(path)) => Ok(Address::Unix(path.clone())),
        Some(ListenAddress::Udp(_)) => {
            Err(CommandError::new(Kind::Failed, format!("the listener `{listener}` is UDP and cannot serve HTTP")))
        }
        None => {
            let absent = format!("the runtime has no listener `{listener}`");
            Err(CommandError::new(Kind::Failed, absent).hint("name an address instead"))
        }
    }
}

fn import(args: &ImportArgs, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let Some(directory) = config.validation.golden.first() else {
        let nowhere = CommandError::new(Kind::Config, "no directory for golden runs is configured");
        return Err(nowhere.hint("add `golden = [\"golden\"]` below `[validation]` in rei.toml"));
    };
    let stem = || args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or_else(stem).unwrap_or_default();
    if name.contains('/') {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{name} is not a name: use letters, digits, `-`, `_` and `.`"),
        ));
    }
    let first = || config.runtime.listen.first().map(|listen| listen.name.clone());
    let Some(listener) = args.listener.clone().or_else(first) else {
        return Err(CommandError::new(Kind::Config, "the runtime has no listener for the requests of a run"));
    };
    let mut run = make(args, Header::new(name, listener, look(ui).now), config)?;
    let removed = if args.keep_credentials { Vec::new() } else { golden::remove_credentials(&mut run) };
    std::fs::create_dir_all(directory).map_err(|error| {
        CommandError::new(Kind::Failed, format!("cannot make {}", directory.display())).because(error)
    })?;
    let path = directory.join(format!("{}{SUFFIX}", run.header.name));
    let count = run.exchanges.len();
    write(&path, run)?;
    ui.result(&format!("wrote {} with {count} exchanges", path.display()))?;
    match removed.len() {
        0 if args.keep_credentials => {
            ui.hint("the file has the credentials of the archive: do not commit it, and do not share it")
        }
        0 => {}
        count => {
            ui.result(&format!("removed {count} credentials:"))?;
            removed.iter().take(REMOVED_MAX).try_for_each(|it| ui.result(&format!("  {it}")))?;
            if let Some(more) = count.checked_sub(REMOVED_MAX).filter(|more| *more > 0) {
                ui.result(&format!("  and {more} more"))?;
            }
            ui.hint("if the service does not answer without credentials, use --keep-credentials with worthless ones");
        }
    }
    ui.hint("check that each answer is good, then run `rei golden replay`");
    Ok(())
}

fn make(args: &ImportArgs, header: Header, config: &Config) -> Result<GoldenRun, CommandError> {
    let bytes = read(&args.file)?;
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return Ok(golden::from_har(&bytes, header)?);
    }
    let requests = golden::parse_requests(&String::from_utf8_lossy(&bytes))?;
    let from = address(args.from.as_deref(), &header.listener, config)?;
    Ok(runtime()?.block_on(golden::record(&from, header, requests, REQUEST_TIMEOUT))?)
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|it| it.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| CommandError::new(Kind::Failed, format!("cannot read {}", file.display())).because(error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let large = format!("{} is larger than {FILE_BYTES_MAX} bytes", file.display());
        return Err(CommandError::new(Kind::Failed, large).hint("split it"));
    }
    Ok(bytes)
}

/// Writes the whole run, or no file.
fn write(path: &Path, run: GoldenRun) -> Result<(), CommandError> {
    let mut writer = Writer::create(path, &run.header)?;
    let written = run.exchanges.into_iter().try_for_each(|exchange| writer.push(exchange));
    // Read the file back: if it has a name or an exchange that cannot be read, it must not stay.
    let done = written.and_then(|()| writer.finish()).and_then(|()| golden::read(path).map(drop));
    if done.is_err() {
        // Only the first error is reported.
        let _ = std::fs::remove_file(path);
    }
    Ok(done?)
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
