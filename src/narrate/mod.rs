//! The only module that puts events into words for a person: for the log, `rei status --watch`, the history, the
//! service manager, and the pages of the command line.
//!
//! | file | its one job |
//! |---|---|
//! | `words` | the words for one event or effect: kind, level, sentence, detail |
//! | `scene` | the facts around an event that its words need |
//! | `event` | the words for each event |
//! | `effect` | the words for each effect |
//! | `reason` | the words for each reason of the lifecycle |
//! | `request` | the words for each request of an operator |
//! | `terms` | the words for a phase, a step, an action, a timer |
//! | `story` | one entry of the journal, and the line for the service manager |

mod effect;
mod event;
mod reason;
mod request;
mod scene;
mod story;
mod terms;
#[cfg(test)]
mod tests;
mod words;

pub use effect::effect;
pub use event::event;
pub use reason::reason;
pub use scene::Scene;
pub use story::{Narration, narrate, status_line};
pub use terms::{action, stage, step};
pub use words::{Kind, Level, Words};
