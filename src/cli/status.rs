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

/// The pause between two pages where nothing happens: uptimes and countdowns go on.
const REDRAW: Duration = Duration::from_secs(1);
/// How long events are gathered before a page is drawn for them.
const GATHER: Duration = Duration::from_millis(100);
/// The pause before a supervisor that went away is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long it is looked for: a restart or `rei reexec` takes less than a second.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// `rei status`: Active, Candidate, Previous, the phase and what it waits for, health, open incidents.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on showing it as it changes: a page on a terminal, a line for each event elsewhere
    #[arg(short, long)]
    watch: bool,
    /// Print the state as JSON; with --watch, each event on a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When nobody answers.
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

/// A line for each event, until the reader or the supervisor goes away.
fn follow(global: &Global, ui: &mut Ui, json: bool) -> Result<(), CommandError> {
    let control = paths(global)?.control();
    runtime()?.block_on(async {
        let client = OperationsClient::connect(control).await?;
        let mut news = News::of(&client).await?;
        loop {
            match news.next().await? {
                Next::Event(event) if json => ui.json_line(&event)?,
                Next::Event(event) => {
                    ui.result(&view::event_line(&event, look(ui)))?;
                    ui.control("")?;
                }
                Next::Missed(events) => ui.warning(&format!("{events} events were missed")),
                Next::Reconnected => {
                    ui.warning("the connection to the supervisor was lost: events may be missing here")
                }
                Next::Restarted => ui.status("the supervisor was started again"),
                Next::Ended(reason) => {
                    let ended = format!("the supervisor ended this watch: {reason}");
                    return Err(CommandError::new(Kind::Refused, ended)
                        .hint("end another program that watches, then call `rei status --watch` again"));
                }
            }
        }
    })
}

/// What a reader of events has to know.
pub(super) enum Next {
    /// Something happened.
    Event(Box<MonitorEvent>),
    /// So much happened that some of it was not told; what follows is.
    Missed(u64),
    /// The connection was lost, and the same supervisor answers on another one. What happened meanwhile was not told.
    Reconnected,
    /// The supervisor went away and another one answers.
    Restarted,
    /// The supervisor sends no more to this reader, for this reason. To ask again at once would only send another reader away.
    Ended(String),
}

/// A supervisor, known by its process and its start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Incarnation {
    pid: u32,
    started_at: Timestamp,
}

impl Incarnation {
    async fn of(client: &OperationsClient) -> Operation<Self> {
        let SupervisorStatus { pid, started_at, .. } = client.status().await?.supervisor;
        Ok(Self { pid, started_at })
    }
}

/// The events of a supervisor, and of those that follow it.
pub(super) struct News<'c> {
    client: &'c OperationsClient,
    events: Events,
    from: Incarnation,
}

impl<'c> News<'c> {
    /// Everything that happens from now on.
    ///
    /// # Errors
    /// When nobody answers, or the supervisor refuses.
    pub(super) async fn of(client: &'c OperationsClient) -> Operation<Self> {
        Ok(Self { from: Incarnation::of(client).await?, events: client.monitor().await?, client })
    }

    /// The next one; a supervisor that is started anew is found again.
    ///
    /// # Errors
    /// When the supervisor is gone for longer than a restart takes, or refuses.
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
        let found = tokio::time::timeout(RETRY_MAX, again(self.client)).await.map_err(|_| {
            let gone = CommandError::new(Kind::NotRunning, "the supervisor went away").hint("rei run");
            error.map_or(gone, CommandError::from)
        })?;
        let before;
        (self.events, before) = (found.1, std::mem::replace(&mut self.from, found.0));
        Ok(if self.from == before { Next::Reconnected } else { Next::Restarted })
    }
}

/// The next supervisor that answers, and its events.
async fn again(client: &OperationsClient) -> (Incarnation, Events) {
    loop {
        tokio::time::sleep(RETRY_PAUSE).await;
        // A socket that accepts is not yet a supervisor that answers.
        if let Ok(found) = Incarnation::of(client).await
            && let Ok(events) = client.monitor().await
        {
            return (found, events);
        }
    }
}

/// One page, drawn anew as things change, on a screen of its own; the last one stays.
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
                    screen.draw(&format!("{page}\n\n{error}; it is looked for"))?;
                    tokio::select! {
                        _ = tokio::signal::ctrl_c() => return Ok(page),
                        found = tokio::time::timeout(RETRY_MAX, again(&client)) => {
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

/// Something happened, or it is time for another page.
async fn changed(events: &mut Events) {
    let first = tokio::time::timeout(REDRAW, events.next()).await;
    if matches!(first, Ok(None | Some(Err(_)))) {
        // There are no more events; the next question says why.
        tokio::time::sleep(REDRAW).await;
        return;
    }
    let until = tokio::time::Instant::now() + GATHER;
    while let Ok(Some(Ok(_))) = tokio::time::timeout_at(until, events.next()).await {}
}

/// The terminal's other screen, left when this value goes.
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
        // A terminal that is gone needs no cleaning.
        let _ = self.ui.control("\x1b[?25h\x1b[?1049l");
    }
}
