//! `rei golden review`: which routes of the live traffic the runs cover, and which they do not.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::cli::args::Global;
use crate::cli::connect::ask;
use crate::cli::error::{CommandError, Kind};
use crate::cli::ui::Ui;
use crate::config::Config;
use crate::golden::{self, Coverage, CoveredRoute, percent};
use crate::interface::operations::TrafficStatus;
use crate::live::Route;

/// `rei golden review`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The coverage, with where the live traffic was seen.
#[derive(Debug, Serialize)]
struct Review {
    source: String,
    window_ms: u64,
    percent: f64,
    /// Routes that no run has, but the standing sample.
    sampled: Vec<String>,
    #[serde(flatten)]
    coverage: Coverage,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers, no source sees the traffic, or a run cannot be read.
pub fn run(args: &Args, global: &Global, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let mut exchanges = BTreeMap::new();
    for listed in golden::list(&config.validation.golden)? {
        for (route, classes) in golden::routes(&golden::read(&listed.path)?) {
            *exchanges.entry(route).or_insert(0) += classes.values().sum::<u64>();
        }
    }
    let (traffic, recordings) = ask(global, async |it| Ok((it.routes().await?, it.status().await?.recordings)))?;
    let mut sampled = BTreeMap::new();
    for path in recordings.into_iter().filter(|it| it.standing).filter_map(|it| it.path) {
        for (route, classes) in golden::routes(&golden::read(Path::new(&path))?) {
            *sampled.entry(route).or_insert(0) += classes.values().sum::<u64>();
        }
    }
    let Some(traffic) = traffic.into_iter().max_by_key(|traffic| traffic.requests) else {
        let unseen = CommandError::new(Kind::Failed, "no source sees the requests of Active");
        return Err(unseen.hint("set `health.metrics`, `health.log` or `traffic.tap` in rei.toml"));
    };
    let review = review(traffic, &exchanges, &sampled);
    if args.json {
        return Ok(ui.json(&review)?);
    }
    Ok(print(&review, ui)?)
}

fn review(traffic: TrafficStatus, exchanges: &BTreeMap<Route, u64>, sampled: &BTreeMap<Route, u64>) -> Review {
    let live: Vec<(String, u64)> = traffic.routes.into_iter().map(|route| (route.route, route.requests)).collect();
    let coverage = Coverage::of(&live, traffic.requests, exchanges);
    let in_sample = Coverage::of(&live, traffic.requests, sampled).routes.into_iter().filter(|it| it.exchanges > 0);
    let is_new = |route: &String| coverage.routes.iter().any(|it| it.route == *route && it.exchanges == 0);
    let sampled = in_sample.map(|it| it.route).filter(is_new).collect();
    Review { source: traffic.source, window_ms: traffic.window_ms, percent: coverage.percent(), sampled, coverage }
}

fn print(review: &Review, ui: &mut Ui) -> std::io::Result<()> {
    let Coverage { requests, covered, routes, unused } = &review.coverage;
    let row = |it: &CoveredRoute| {
        let share = format!("{:.1} %", percent(it.requests, *requests));
        let known = if it.exchanges == 0 { "none".to_owned() } else { it.exchanges.to_string() };
        vec![it.route.clone(), it.requests.to_string(), share, known]
    };
    ui.table(&["route", "requests", "share", "exchanges"], routes.iter().map(row).collect())?;
    for route in unused {
        ui.result(&format!("not in the live traffic now: {route}"))?;
    }
    if !review.sampled.is_empty() {
        ui.result(&format!("the standing sample has also: {}", review.sampled.join(", ")))?;
        ui.hint("take it into a run: rei golden record --sample");
    }
    let (source, seconds) = (&review.source, review.window_ms / 1_000);
    let percent = review.percent;
    ui.result(&format!(
        "golden runs cover {percent:.1} % of the requests: {covered} of {requests} in {seconds} s, as {source} saw them"
    ))
}
