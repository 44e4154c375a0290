//! Waits for facts from the supervisor's control socket. Each wait has a time limit.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::error::Error;
use super::stage::Stage;
use crate::history::entry::Entry;
use crate::interface::client::OperationsClient;
use crate::interface::operations::Status;
use crate::lifecycle::Event;

/// The pause between two polls without an event: some states have no event, and a supervisor needs time to start.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// The most events in the queue: the events of a whole act.
const EVENTS_MAX: usize = 4096;

/// An event of the supervisor, and the time at which it arrived.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The event.
    pub event: Event,
    /// The time at which it arrived.
    pub at: Instant,
}

/// All events of the supervisor since its first answer.
pub struct Observer {
    /// The connection of an operator.
    pub operator: OperationsClient,
    events: Vec<Observed>,
    incoming: mpsc::Receiver<Observed>,
}

impl Observer {
    /// Starts to listen as soon as the supervisor answers.
    ///
    /// # Errors
    /// If the supervisor exits, or does not answer in time.
    pub async fn begin(stage: &mut Stage, bound: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + bound;
        let operator = loop {
            stage.alive()?;
            match stage.operator().await {
                Ok(operator) => break operator,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL_PAUSE).await,
                Err(error) => return Err(error),
            }
        };
        let (sender, incoming) = mpsc::channel(EVENTS_MAX);
        let monitored = operator.clone();
        tokio::spawn(async move {
            // If a stream ends, another one is requested, until the supervisor or this observer has gone.
            while let Ok(mut events) = monitored.monitor().await {
                while let Some(Ok(event)) = events.next().await {
                    let entry = serde_json::from_value::<Entry>(event.data);
                    let Ok(Entry { event, .. }) = entry else { continue };
                    if sender.send(Observed { event, at: Instant::now() }).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { operator, events: Vec::new(), incoming })
    }

    /// The number of events so far, as a mark for [`Self::since`].
    pub fn mark(&mut self) -> usize {
        while let Ok(observed) = self.incoming.try_recv() {
            self.events.push(observed);
        }
        self.events.len()
    }

    /// The events since a mark.
    pub fn since(&self, mark: usize) -> &[Observed] {
        self.events.get(mark..).unwrap_or_default()
    }

    /// Waits until `find` returns a value from the events since `mark` and the status.
    ///
    /// # Errors
    /// If that does not happen within `bound`, or the supervisor exits.
    pub async fn until<T>(
        &mut self,
        stage: &mut Stage,
        (what, bound): (&str, Duration),
        mark: usize,
        mut find: impl FnMut(&[Observed], &Status) -> Option<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + bound;
        loop {
            stage.alive()?;
            let status = self.operator.status().await?;
            self.mark();
            if let Some(found) = find(self.since(mark), &status) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let waits = status.waits_for.map(|waits| format!(", waits for {waits}")).unwrap_or_default();
                let attention = status.attention.map(|why| format!(", needs an operator: {why}")).unwrap_or_default();
                let last = self.events.last().map(|it| format!(", last event {:?}", it.event)).unwrap_or_default();
                let state = format!("phase {}{waits}{attention}{last}", status.phase);
                return Err(Error::Late { what: what.to_owned(), bound, state, log: stage.log_tail() });
            }
            if let Ok(Some(observed)) = tokio::time::timeout(POLL_PAUSE, self.incoming.recv()).await {
                self.events.push(observed);
            }
        }
    }

    /// Like [`Observer::until`], for an event since `mark`.
    ///
    /// # Errors
    /// See [`Observer::until`].
    pub async fn event<T>(
        &mut self,
        stage: &mut Stage,
        wait: (&str, Duration),
        mark: usize,
        mut find: impl FnMut(&Observed) -> Option<T>,
    ) -> Result<T, Error> {
        self.until(stage, wait, mark, |events, _| events.iter().find_map(&mut find)).await
    }
}
