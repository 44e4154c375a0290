//! `rei status`.

use std::time::Duration;

use super::args::{Global, runtime};
use super::connect::{ask, look, paths};
use super::error::CommandError;
use super::ui::Ui;
use super::{Kind, view};
use crate::interface::client::{ClientError, Events, Operation, OperationsClient};
use crate::interface::operations::{MonitorEvent, OperationsError, SupervisorStatus};
use crate::time::Timestamp;

/// The pause between two pages without events: uptimes and countdowns change all the time.
const REDRAW: Duration = Duration::from_secs(1);
/// How long the command collects events before it draws a page for them.
const GATHER: Duration = Duration::from_millis(100);
/// The pause between two attempts to reconnect to a supervisor that has gone.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long the command tries to reconnect: a restart or `rei reexec` takes less than a second.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// `rei status`: Active, Candidate, Previous, the phase and what it waits for, health, open incidents.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep showing changes: a page on a terminal, a line for each event elsewhere
    #[arg(short, long)]
    watch: bool,
    /// Print the state as JSON; with --watch, each event on a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no supervisor answers.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    match (args.watch, args.json) {
        (false, json) => {
            let status = ask(global, async |it| it.status().await)?;
            match json {
                true => ui.json(&status)?,
                false => ui.result(&view::status(&status, look(ui)))?,
            }
            Ok(())
        }
        (true, false) if ui.is_terminal() => redraw(global, ui),
        (true, json) => follow(global, ui, json),
    }
}

/// Prints a line for each event, until the reader or the supervisor has gone.
fn follow(global: &Global, ui: &mut Ui, json: bool) -> Result<(), CommandError> {
    let control = paths(global)?.control();
    runtime()?.block_on(async {
        let client = OperationsClient::connect(control).await?;
        let mut feed = EventFeed::of(&client).await?;
        loop {
            match feed.next().await? {
                Next::Event(event) if json => ui.json_line(&event)?,
                Next::Event(event) => {
                    ui.result(&view::event_line(&event, look(ui)))?;
                    ui.control("")?;
                }
                Next::Missed(events) => ui.warning(&format!("{events} events were missed")),
                Next::Reconnected => {
                    ui.warning("the connection to the supervisor was lost: events may be missing here")
                }
                Next::Restarted => ui.status("the supervisor has restarted"),
                Next::Ended(reason) => {
                    let ended = format!("the supervisor ended this watch: {reason}");
                    return Err(CommandError::new(Kind::Refused, ended)
                        .hint("end another watching program, then call `rei status --watch` again"));
                }
            }
        }
    })
}

/// The next item of an event feed.
pub(super) enum Next {
    /// An event.
    Event(Box<MonitorEvent>),
    /// This many events were too fast for this reader and were skipped; the next events follow.
    Missed(u64),
    /// The connection was lost, and the same supervisor answers on a new one. Events in between are missing.
    Reconnected,
    /// The supervisor has gone and another one answers.
    Restarted,
    /// The supervisor ended this stream, for this reason. A new request would only end the stream of another reader.
    Ended(String),
}

/// The identity of a supervisor: its process id and its start time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SupervisorProcess {
    pid: u32,
    started_at: Timestamp,
}

impl SupervisorProcess {
    async fn of(client: &OperationsClient) -> Operation<Self> {
        let SupervisorStatus { pid, started_at, .. } = client.status().await?.supervisor;
        Ok(Self { pid, started_at })
    }
}

/// The events of a supervisor, and of the supervisors after it.
pub(super) struct EventFeed<'c> {
    client: &'c OperationsClient,
    events: Events,
    from: SupervisorProcess,
}

impl<'c> EventFeed<'c> {
    /// Starts a feed of all events from now on.
    ///
    /// # Errors
    /// If no supervisor answers, or the supervisor refuses.
    pub(super) async fn of(client: &'c OperationsClient) -> Operation<Self> {
        Ok(Self { from: SupervisorProcess::of(client).await?, events: client.monitor().await?, client })
    }

    /// Waits for the next item, and reconnects if the supervisor restarts.
    ///
    /// # Errors
    /// If the supervisor does not come back within [`RETRY_MAX`], or refuses.
    pub(super) async fn next(&mut self) -> Result<Next, CommandError> {
        let error = match self.events.next().await {
            Some(Ok(event)) => return Ok(Next::Event(Box::new(event))),
            Some(Err(ClientError::Answered(OperationsError::Lagged { missed }))) => {
                self.events = self.client.monitor().await?;
                return Ok(Next::Missed(missed));
            }
            Some(Err(ClientError::Answered(OperationsError::Busy { reason }))) => return Ok(Next::Ended(reason)),
            Some(Err(error @ ClientError::Answered(OperationsError::NotAllowed { .. }))) => return Err(error.into()),
            Some(Err(error)) => Some(error),
            None => None,
        };
        let found = tokio::time::timeout(RETRY_MAX, reconnect(self.client)).await.map_err(|_| {
            let gone = CommandError::new(Kind::NotRunning, "the supervisor has gone").hint("rei run");
            error.map_or(gone, CommandError::from)
        })?;
        let before;
        (self.events, before) = (found.1, std::mem::replace(&mut self.from, found.0));
        Ok(if self.from == before { Next::Reconnected } else { Next::Restarted })
    }
}

/// Waits for a supervisor that answers; returns it and its events.
async fn reconnect(client: &OperationsClient) -> (SupervisorProcess, Events) {
    loop {
        tokio::time::sleep(RETRY_PAUSE).await;
        // The socket can accept a connection before the supervisor answers.
        if let Ok(found) = SupervisorProcess::of(client).await
            && let Ok(events) = client.monitor().await
        {
            return (found, events);
        }
    }
}

/// Draws a page again at each change, on the terminal's alternate screen; the last page stays on the normal screen.
fn redraw(global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let control = paths(global)?.control();
    let page = runtime()?.block_on(async {
        let client = OperationsClient::connect(control).await?;
        let mut events = client.monitor().await?;
        let mut page = view::status(&client.status().await?, look(ui));
        let mut screen = Screen::enter(ui)?;
        loop {
            screen.draw(&page)?;
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok::<_, CommandError>(page),
                () = changed(&mut events) => {}
            }
            page = match client.status().await {
                Ok(status) => view::status(&status, look(screen.ui)),
                Err(error) => {
                    screen.draw(&format!("{page}\n\n{error}; trying to reconnect"))?;
                    tokio::select! {
                        _ = tokio::signal::ctrl_c() => return Ok(page),
                        found = tokio::time::timeout(RETRY_MAX, reconnect(&client)) => {
                            (_, events) = found.map_err(|_| error)?;
                        }
                    }
                    view::status(&client.status().await?, look(screen.ui))
                }
            };
        }
    })?;
    ui.result(&page)?;
    Ok(())
}

/// Waits for an event, or for the time of the next page.
async fn changed(events: &mut Events) {
    let first = tokio::time::timeout(REDRAW, events.next()).await;
    if matches!(first, Ok(None | Some(Err(_)))) {
        // The stream has ended; the next request for the status says why.
        tokio::time::sleep(REDRAW).await;
        return;
    }
    let until = tokio::time::Instant::now() + GATHER;
    while let Ok(Some(Ok(_))) = tokio::time::timeout_at(until, events.next()).await {}
}

/// The terminal's alternate screen; this value restores the normal screen when it is dropped.
struct Screen<'u> {
    ui: &'u mut Ui,
}

impl<'u> Screen<'u> {
    fn enter(ui: &'u mut Ui) -> std::io::Result<Self> {
        ui.control("\x1b[?1049h\x1b[?25l")?;
        Ok(Self { ui })
    }

    fn draw(&mut self, page: &str) -> std::io::Result<()> {
        self.ui.draw(page)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // An error means that the terminal has gone, so nothing needs to be restored.
        let _ = self.ui.control("\x1b[?25h\x1b[?1049l");
    }
}
