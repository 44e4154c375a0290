//! `rei evolve`.

use std::time::Duration;

use serde_json::Value;

use super::args::{Global, runtime};
use super::connect::{ask, look, paths};
use super::error::{CommandError, Kind};
use super::status::{News, Next};
use super::ui::Ui;
use super::{Progress, view};
use crate::config::parse_duration;
use crate::interface::client::{ClientError, OperationsClient};
use crate::interface::operations::{HistoryEntry, MonitorEvent, OperationsError, Phase, ShowReply};
use crate::interface::types::{EvolutionId, MaintenanceAction};

/// The pause between looks at an evolution of which no event tells.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// `rei evolve`: ask for an evolution.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to become; without it, the head of the followed ref
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// The blueprint to use; without it, the configured one
    #[arg(long, value_name = "NAME")]
    blueprint: Option<String>,
    /// Wait until it has ended; the exit code tells how
    #[arg(long)]
    wait: bool,
    /// How long to wait: 90s, 10m, 2h; the evolution goes on after it
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = duration)]
    timeout: Option<Duration>,
    /// Print the evolution's id as JSON, or with --wait the evolution
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and ms, s, m, h or d".to_owned())
}

/// Runs the command.
///
/// # Errors
/// When nobody answers or the supervisor refuses; with `--wait` also when the candidate did not become Active.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    if args.wait {
        return wait(args, global, ui);
    }
    let evolution_id = ask(global, async |it| it.evolve(args.rev.clone(), args.blueprint.clone()).await)?;
    if args.json {
        return Ok(ui.json(&serde_json::json!({ "evolution_id": evolution_id }))?);
    }
    ui.result(&format!("{evolution_id} begins"))?;
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
                let late = format!("it did not end within {bound:?}, and goes on");
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

/// Asks for the evolution and watches it to its end.
async fn watch(args: &Args, client: &OperationsClient, ui: &mut Ui) -> Result<ShowReply, CommandError> {
    // Before it begins, so that nothing of it is missed.
    let mut news = News::of(client).await?;
    let id = client.evolve(args.rev.clone(), args.blueprint.clone()).await?;
    ui.status(&format!("{id} begins"));
    let mut progress = ui.progress();
    loop {
        let mut coming = std::pin::pin!(news.next());
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
            // What is not journalled changes nothing.
            Next::Event(event) if event.seq == 0 => count(&mut progress, event),
            // Its end can be seen without events.
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

/// The evolution, once it has ended; until then the step that it is at is told.
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
        // It begins with the next turn of the supervisor's loop; a restart answers again soon.
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
    read.map_err(|error| CommandError::new(Kind::Failed, format!("{} is no evolution", shown.id)).because(error))
}

/// How the waiting command ends.
fn outcome(entry: &HistoryEntry) -> Result<(), CommandError> {
    let failed = |kind, what: &str| {
        Err(CommandError::new(kind, format!("{what}: {}", entry.summary)).hint(format!("rei show {}", entry.id)))
    };
    match entry.action {
        // Active is as good as what was asked for; the entry that was printed says which it was.
        Some(MaintenanceAction::Promoted | MaintenanceAction::Unchanged) => Ok(()),
        Some(MaintenanceAction::RolledBack) => failed(Kind::RolledBack, "Previous was restored"),
        Some(MaintenanceAction::Rejected) => failed(Kind::Rejected, "the candidate was rejected"),
        Some(MaintenanceAction::Deferred) => failed(Kind::Failed, "there is no verdict"),
        Some(MaintenanceAction::Restarted) | None => failed(Kind::Failed, "an operator is needed"),
    }
}
