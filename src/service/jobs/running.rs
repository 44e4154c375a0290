//! Starts jobs beside the event loop, and aborts them.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::sweep::sweep;
use crate::interface::types::EvolutionId;
use crate::lifecycle::Event;
use crate::service::input::{Input, Inputs};
use crate::service::tools::Tools;

/// The jobs of a service.
#[derive(Default)]
pub struct Jobs {
    running: Vec<(EvolutionId, AbortHandle)>,
}

impl Jobs {
    /// Starts a job of an evolution. The event that it returns becomes an input of the event loop.
    pub fn begin(
        &mut self,
        evolution: &EvolutionId,
        inputs: &Inputs,
        job: impl Future<Output = Option<Event>> + 'static + Send,
    ) {
        let inputs = inputs.clone();
        self.add(evolution.clone(), async move {
            if let Some(event) = job.await {
                // Sending fails only if the event loop has ended, and then the supervisor exits.
                let _ = inputs.send(Input::Event(event)).await;
            }
        });
    }

    /// Aborts the jobs of an evolution.
    pub fn cancel(&mut self, evolution: &EvolutionId) {
        self.running.retain(|(of, handle)| {
            if of == evolution {
                handle.abort();
            }
            of != evolution
        });
    }

    /// Starts a job that removes what ended evolutions left.
    pub fn sweep(&mut self, tools: &Arc<Tools>) {
        let tools = Arc::clone(tools);
        self.add(EvolutionId::default(), async move { sweep(&tools).await });
    }

    /// Aborts all jobs.
    pub fn abort_all(&mut self) {
        for (_, handle) in self.running.drain(..) {
            handle.abort();
        }
    }

    fn add(&mut self, evolution: EvolutionId, job: impl Future<Output = ()> + 'static + Send) {
        let task = tokio::spawn(job);
        self.running.retain(|(_, handle)| !handle.is_finished());
        self.running.push((evolution, task.abort_handle()));
    }
}
