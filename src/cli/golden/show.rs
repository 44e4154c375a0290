//! `rei golden show`: what a run holds, how it was made, and what it does not compare.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::error::{CommandError, Kind};
use crate::cli::ui::Ui;
use crate::config::Config;
use crate::golden::{self, DropReason, GoldenRun, Learned, Recording, RouteExchanges};

/// `rei golden show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run
    #[arg(value_name = "NAME")]
    name: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A run, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    name: String,
    listener: String,
    exchanges: usize,
    connections: usize,
    /// Exchanges that are WebSockets or conversations of lines.
    conversations: usize,
    /// Bodies in files beside the run.
    large_bodies: usize,
    /// Their size, in bytes.
    large_bodies_bytes: u64,
    recording: Option<Recording>,
    normalisers: Vec<golden::Normaliser>,
    routes: BTreeMap<String, RouteExchanges>,
    learned: Vec<LearnedShown>,
}

/// A learned rule with the number of places that have it.
#[derive(Debug, Serialize)]
struct LearnedShown {
    route: String,
    at: String,
    rule: String,
    places: u64,
}

/// Runs the command.
///
/// # Errors
/// If there is no such run, or it cannot be read.
pub fn run(args: &Args, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let found = golden::list(&config.validation.golden)?.into_iter().find(|run| run.header.name == args.name);
    let Some(listed) = found else {
        let absent = CommandError::new(Kind::Failed, format!("there is no golden run {}", args.name));
        return Err(absent.hint("`rei golden list` lists them"));
    };
    let run = golden::read(&listed.path)?;
    let shown = shown(listed.path.display().to_string(), run);
    if args.json {
        return Ok(ui.json(&shown)?);
    }
    Ok(print(&shown, ui)?)
}

fn shown(path: String, run: GoldenRun) -> Shown {
    let connections: std::collections::BTreeSet<u64> =
        run.exchanges.iter().filter_map(|exchange| Some(exchange.recorded?.connection)).collect();
    let files = run.exchanges.iter().flat_map(|it| it.files.request.iter().chain(&it.files.answer));
    let (large_bodies, large_bodies_bytes) =
        files.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.digests.bytes));
    let routes = golden::routes(&run).into_iter().map(|(route, count)| (route.name().to_owned(), count)).collect();
    let mut learned: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for exchange in &run.exchanges {
        let route = crate::live::Route::of_request(&exchange.request.method, &exchange.request.path);
        for rule in &exchange.learned {
            *learned.entry((route.name().to_owned(), place(rule), rule.rule.to_string())).or_default() += 1;
        }
    }
    let learned = learned.into_iter().map(|((route, at, rule), places)| LearnedShown { route, at, rule, places });
    Shown {
        path,
        listener: run.header.listener,
        exchanges: run.exchanges.len(),
        connections: connections.len(),
        conversations: run.exchanges.iter().filter(|exchange| exchange.is_conversation()).count(),
        large_bodies,
        large_bodies_bytes,
        routes,
        learned: learned.collect(),
        name: run.header.name,
        recording: run.header.recording,
        normalisers: run.header.normalisers,
    }
}

/// The place of a rule; the positions of list elements are one place.
fn place(learned: &Learned) -> String {
    let part = |part: &String| if part.bytes().all(|b| b.is_ascii_digit()) { "*".to_owned() } else { part.clone() };
    learned.at.iter().map(part).collect::<Vec<_>>().join("/")
}

fn print(shown: &Shown, ui: &mut Ui) -> std::io::Result<()> {
    let Shown { name, path, listener, exchanges, connections, .. } = shown;
    let on = if *connections > 0 { format!(" on {connections} connections") } else { String::new() };
    ui.result(&format!("{name}: {exchanges} exchanges{on} to the listener {listener}, in {path}"))?;
    if shown.conversations > 0 {
        ui.result(&format!("conversations: {}, each on a connection of its own", shown.conversations))?;
    }
    if shown.large_bodies > 0 {
        let Shown { large_bodies, large_bodies_bytes, .. } = shown;
        ui.result(&format!("large bodies: {large_bodies} in files beside the run, {large_bodies_bytes} bytes"))?;
    }
    if let Some(made) = &shown.recording {
        let Recording { seen, sampled, removed_credentials, .. } = made;
        ui.result(&format!("recorded: {sampled} of {seen} live exchanges; {removed_credentials} credentials removed"))?;
        match made.qualified {
            true => {
                let dropped: u64 = made.dropped.values().sum();
                ui.result(&format!("qualified on Active: {exchanges} kept, {dropped} dropped"))?;
            }
            false => ui.result("not qualified: no exchange was replayed on Active")?,
        }
        for (word, count) in &made.dropped {
            let reason = DropReason::ALL.iter().find(|reason| reason.word() == word);
            let reason = reason.map_or_else(|| word.clone(), ToString::to_string);
            ui.result(&format!("  {count} dropped: {reason}"))?;
        }
    }
    let row = |(route, classes): (&String, &RouteExchanges)| {
        let classes: Vec<String> = classes.iter().map(|(class, count)| format!("{count} x {class}")).collect();
        vec![route.clone(), classes.join(", ")]
    };
    ui.table(&["route", "exchanges"], shown.routes.iter().map(row).collect())?;
    if !shown.learned.is_empty() {
        let row = |it: &LearnedShown| vec![it.route.clone(), it.at.clone(), it.rule.clone(), it.places.to_string()];
        ui.table(&["route", "may differ at", "learned rule", "places"], shown.learned.iter().map(row).collect())?;
    }
    Ok(())
}
