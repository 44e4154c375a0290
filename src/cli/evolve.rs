//! `rei evolve`.

use std::time::Duration;

use serde_json::Value;

use super::args::{Global, runtime};
use super::connect::{ask, look, paths};
use super::error::{CommandError, Kind};
use super::status::{EventFeed, Next};
use super::ui::Ui;
use super::{Progress, view};
use crate::config::parse_duration;
use crate::interface::client::{ClientError, OperationsClient};
use crate::interface::operations::{HistoryEntry, MonitorEvent, OperationsError, Phase, ShowReply};
use crate::interface::types::{EvolutionId, MaintenanceAction};

/// The pause between two polls of an evolution without events.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// `rei evolve`: request an evolution.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to build; without it, the head of the followed ref
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// The blueprint to use; without it, the configured one
    #[arg(long, value_name = "NAME")]
    blueprint: Option<String>,
    /// Wait for its end; the exit code says how it ended
    #[arg(long)]
    wait: bool,
    /// How long to wait: 90s, 10m, 2h; after that the evolution continues without this command
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
    /// Print the evolution's id as JSON; with --wait, the evolution
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and ms, s, m, h or d".to_owned())
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers or the supervisor refuses; with `--wait` also if the candidate did not become Active.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    if args.wait {
        return wait(args, global, ui);
    }
    let evolution_id = ask(global, async |it| it.evolve(args.rev.clone(), args.blueprint.clone()).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "evolution_id": evolution_id }))?);
    }
    ui.result(&format!("{evolution_id} starts"))?;
    ui.hint("rei status --watch");
    Ok(())
}

fn wait(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let control = paths(global)?.control();
    let shown = runtime()?.block_on(async {
        let client = OperationsClient::connect(control).await?;
        let ended = watch(args, &client, ui);
        match args.timeout {
            None => ended.await,
            Some(bound) => tokio::time::timeout(bound, ended).await.unwrap_or_else(|_| {
                let late = format!("the evolution did not end within {bound:?}; it continues");
                Err(CommandError::new(Kind::TimedOut, late).hint("rei status --watch"))
            }),
        }
    })?;
    match args.json {
        true => ui.json(&shown)?,
        false => ui.result(&view::show(&shown, look(ui)))?,
    }
    outcome(&entry(&shown)?)
}

/// Requests the evolution and watches it to its end.
async fn watch(args: &Args, client: &OperationsClient, ui: &mut Ui) -> Result<ShowReply, CommandError> {
    // The feed starts before the evolution, so that no event is missed.
    let mut feed = EventFeed::of(client).await?;
    let id = client.evolve(args.rev.clone(), args.blueprint.clone()).await?;
    ui.status(&format!("{id} starts"));
    let mut progress = ui.progress();
    loop {
        let mut coming = std::pin::pin!(feed.next());
        let next = loop {
            match tokio::time::timeout(LOOK_PAUSE, &mut coming).await {
                Ok(next) => break next?,
                Err(_) => {
                    if let Some(shown) = ended(client, &id, &mut progress).await? {
                        return Ok(shown);
                    }
                }
            }
        };
        match &next {
            // An event without a journal record changes no state.
            Next::Event(event) if event.seq == 0 => count(&mut progress, event),
            // The loop below polls for the end without events.
            Next::Ended(_) => break,
            Next::Event(_) | Next::Missed(_) | Next::Reconnected | Next::Restarted => {
                if let Some(shown) = ended(client, &id, &mut progress).await? {
                    return Ok(shown);
                }
            }
        }
    }
    loop {
        if let Some(shown) = ended(client, &id, &mut progress).await? {
            return Ok(shown);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn count(progress: &mut Progress<'_>, event: &MonitorEvent) {
    let number = |name: &str| event.data.get(name).and_then(Value::as_u64);
    if let (Some(done), Some(total)) = (number("done"), number("total")) {
        progress.count(done, total);
    }
}

/// Returns the evolution after its end; before that it shows the current step.
async fn ended(
    client: &OperationsClient,
    id: &EvolutionId,
    progress: &mut Progress<'_>,
) -> Result<Option<ShowReply>, CommandError> {
    match client.show(id.0.clone()).await {
        Ok(shown) if entry(&shown)?.finished_at.is_some() => Ok(Some(shown)),
        Ok(shown) => {
            let steps = shown.object.get("steps").and_then(Value::as_array);
            let step = steps.and_then(|steps| steps.last()?.get("name")?.as_str());
            match step {
                Some(step) if step == Phase::AwaitingApproval.to_string() => {
                    progress.stage(&format!("{step}: rei approve {id}, or rei reject {id}"));
                }
                Some(step) => progress.stage(step),
                None => {}
            }
            Ok(None)
        }
        // The evolution starts in the next turn of the supervisor's loop; a supervisor that restarts answers again soon.
        Err(
            ClientError::Answered(OperationsError::NotFound { .. } | OperationsError::Busy { .. })
            | ClientError::NotRunning { .. }
            | ClientError::Closed { .. },
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn entry(shown: &ShowReply) -> Result<HistoryEntry, CommandError> {
    let read = serde_json::from_value(shown.object.clone());
    read.map_err(|error| CommandError::new(Kind::Failed, format!("{} is not an evolution", shown.id)).because(error))
}

/// The result of the command after the wait.
fn outcome(entry: &HistoryEntry) -> Result<(), CommandError> {
    let failed = |kind, what: &str| {
        Err(CommandError::new(kind, format!("{what}: {}", entry.summary)).hint(format!("rei show {}", entry.id)))
    };
    match entry.action {
        // In both cases Active is the requested build; the printed entry says which case it was.
        Some(MaintenanceAction::Promoted | MaintenanceAction::Unchanged) => Ok(()),
        Some(MaintenanceAction::RolledBack) => failed(Kind::RolledBack, "Previous was restored"),
        Some(MaintenanceAction::Rejected) => failed(Kind::Rejected, "the candidate was rejected"),
        Some(MaintenanceAction::Deferred) => failed(Kind::Failed, "there is no verdict"),
        Some(MaintenanceAction::Restarted) | None => failed(Kind::Failed, "an operator is needed"),
    }
}
