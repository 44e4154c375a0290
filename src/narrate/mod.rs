//! The one place where events become words for a person: for the log, for `rei status --watch`, for the history, for the
//! service manager, and for the pages of the command line.
//!
//! | file | its one job |
//! |---|---|
//! | `words` | what is given for one event or effect: kind, level, sentence, detail |
//! | `scene` | the facts around an event that its words need |
//! | `event` | the words for each event |
//! | `effect` | the words for each effect |
//! | `reason` | the words for each reason of the lifecycle |
//! | `request` | the words for each request of an operator |
//! | `terms` | single words: of a phase, a step, an action, a timer |
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
pub use story::{Told, status_line, tell};
pub use terms::{action, stage, step};
pub use words::{Kind, Level, Words};
