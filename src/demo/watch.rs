//! Waits for facts: what the supervisor tells on its control socket, each wait with a bound.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::error::Error;
use super::stage::Stage;
use crate::history::entry::Entry;
use crate::interface::client::OperationsClient;
use crate::interface::operations::Status;
use crate::lifecycle::Event;

/// The pause between two looks where no event came: states that no event tells, and a supervisor that starts.
const LOOK: Duration = Duration::from_millis(50);
/// Events that wait to be looked at: those of a whole act.
const EVENTS_MAX: usize = 4096;

/// One decision of the supervisor, as it was told, with the moment when it came here.
#[derive(Clone, Debug)]
pub struct Told {
    /// What happened.
    pub event: Event,
    /// When it came.
    pub at: Instant,
}

/// Everything that the supervisor told since it answers.
pub struct Watch {
    /// The operator's way to it.
    pub operator: OperationsClient,
    told: Vec<Told>,
    coming: mpsc::Receiver<Told>,
}

impl Watch {
    /// Begins to listen as soon as the supervisor answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time.
    pub async fn begin(stage: &mut Stage, bound: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + bound;
        let operator = loop {
            stage.alive()?;
            match stage.operator().await {
                Ok(operator) => break operator,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        };
        let (sender, coming) = mpsc::channel(EVENTS_MAX);
        let monitored = operator.clone();
        tokio::spawn(async move {
            // A stream that ends is asked for again, until nobody listens here or there.
            while let Ok(mut events) = monitored.monitor().await {
                while let Some(Ok(event)) = events.next().await {
                    let entry = serde_json::from_value::<Entry>(event.data);
                    let Ok(Entry { event, .. }) = entry else { continue };
                    if sender.send(Told { event, at: Instant::now() }).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { operator, told: Vec::new(), coming })
    }

    /// How much was told so far: what comes later begins here.
    pub fn mark(&mut self) -> usize {
        while let Ok(told) = self.coming.try_recv() {
            self.told.push(told);
        }
        self.told.len()
    }

    /// What was told since a mark.
    pub fn since(&self, mark: usize) -> &[Told] {
        self.told.get(mark..).unwrap_or_default()
    }

    /// Waits until `look` finds what it looks for in what was told since `mark` and in the state.
    ///
    /// # Errors
    /// When it does not come within `bound`, or the supervisor ends.
    pub async fn until<T>(
        &mut self,
        stage: &mut Stage,
        (what, bound): (&str, Duration),
        mark: usize,
        mut look: impl FnMut(&[Told], &Status) -> Option<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + bound;
        loop {
            stage.alive()?;
            let status = self.operator.status().await?;
            self.mark();
            if let Some(found) = look(self.since(mark), &status) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let waits = status.waits_for.map(|waits| format!(", waits for {waits}")).unwrap_or_default();
                let attention = status.attention.map(|why| format!(", needs an operator: {why}")).unwrap_or_default();
                let last = self.told.last().map(|told| format!(", last told {:?}", told.event)).unwrap_or_default();
                let stand = format!("phase {}{waits}{attention}{last}", status.phase);
                return Err(Error::Late { what: what.to_owned(), bound, stand, log: stage.log_tail() });
            }
            if let Ok(Some(told)) = tokio::time::timeout(LOOK, self.coming.recv()).await {
                self.told.push(told);
            }
        }
    }

    /// As [`Watch::until`], for an event that was told since `mark`.
    ///
    /// # Errors
    /// As [`Watch::until`].
    pub async fn event<T>(
        &mut self,
        stage: &mut Stage,
        wait: (&str, Duration),
        mark: usize,
        mut find: impl FnMut(&Told) -> Option<T>,
    ) -> Result<T, Error> {
        self.until(stage, wait, mark, |told, _| told.iter().find_map(&mut find)).await
    }
}
