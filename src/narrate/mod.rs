//! The one place where what the lifecycle decides becomes words for a person.
//!
//! | file | its one job |
//! |---|---|
//! | `event` | one event in one line |
//! | `reason` | a reason of the lifecycle in one line |
//! | `story` | the log lines of one journal entry |

mod event;
mod reason;
mod story;

pub use event::{event, status_line};
pub use reason::reason;
pub use story::{Weight, lines};
