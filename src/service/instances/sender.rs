//! Sends the events of an instance to the event loop.

use crate::lifecycle::Slot;
use crate::service::input::{Input, Inputs, InstanceEvent};

/// Sends the events of an instance to the event loop.
#[derive(Clone)]
pub struct EventSender {
    /// The slot of the instance.
    pub slot: Slot,
    /// The instance.
    pub id: String,
    /// The inputs of the event loop.
    pub inputs: Inputs,
}

impl EventSender {
    /// Sends an event, and waits while the queue is full.
    pub async fn send(&self, event: InstanceEvent) {
        // Sending fails only if the event loop has ended, and then the supervisor exits.
        let _ = self.inputs.send(Input::Instance { slot: self.slot, id: self.id.clone(), event }).await;
    }
}
