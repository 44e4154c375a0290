//! Announces each decision: in the log, to `rei monitor`, and to the service manager.

use tokio::sync::broadcast;

use crate::history::entry::Entry;
use crate::interface::operations::{EVENTS_BEHIND_MAX, MonitorEvent};
use crate::interface::types::SCHEMA;
use crate::lifecycle::{Effect, Event, Lifecycle};
use crate::narrate::{self, Level, Words};
use crate::time::Timestamp;

/// Where decisions are announced.
pub struct Announcer {
    /// The subscribers of `Monitor`.
    pub subscribers: broadcast::Sender<MonitorEvent>,
    /// A new status line for the service manager, until the daemon takes it.
    pub status: Option<String>,
}

impl Default for Announcer {
    fn default() -> Self {
        Self { subscribers: broadcast::channel(EVENTS_BEHIND_MAX).0, status: None }
    }
}

impl Announcer {
    /// Announces a record, after the lifecycle took its event.
    pub fn announce(&mut self, seq: u64, at: Timestamp, entry: &Entry, core: &Lifecycle) {
        let words = self.log(&entry.event, &entry.effects, core);
        self.send(seq, at, words.kind.name(), words.sentence, serde_json::to_value(entry).unwrap_or_default());
        self.status = Some(narrate::status_line(core));
    }

    /// Writes an event and its effects to the log, for a person. Returns the words for the event.
    pub fn log(&self, event: &Event, effects: &[Effect], core: &Lifecycle) -> Words {
        let narration = narrate::narrate(event, effects, core);
        if narration.event.level == Level::Detail {
            tracing::debug!(kind = narration.event.kind.name(), "{}", narration.event.sentence);
        }
        for words in narration.lines() {
            match words.level {
                Level::Warning => tracing::warn!("{}", words.sentence),
                Level::Step | Level::Detail => tracing::info!("{}", words.sentence),
            }
        }
        narration.event
    }

    /// Announces progress. Progress is not recorded in the journal.
    pub fn progress(&self, at: Timestamp, text: String, done: Option<(u64, u64)>) {
        let data = match done {
            Some((done, total)) => serde_json::json!({ "done": done, "total": total }),
            None => serde_json::json!({}),
        };
        tracing::debug!("{text}");
        self.send(0, at, "progress", text, data);
    }

    fn send(&self, seq: u64, at: Timestamp, kind: &str, text: String, data: serde_json::Value) {
        let event = MonitorEvent { schema: SCHEMA.to_owned(), seq, at, kind: kind.to_owned(), text, data };
        // Usually there are no subscribers, so the error of the send is ignored.
        let _ = self.subscribers.send(event);
    }
}
