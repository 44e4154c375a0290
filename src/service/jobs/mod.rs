//! Slow work of an evolution. Each job runs in a task beside the event loop and returns one event.
//!
//! A failure becomes a reason in this event. The jobs decide nothing.
//!
//! | file | its one job |
//! |---|---|
//! | `install` | builds the first version |
//! | `diagnose` | collects the context of an evolution |
//! | `build`, `version` | builds a candidate by its blueprint; builds a commit |
//! | `judge` | judges a candidate and writes the report |
//! | `qualify` | replays a golden run on Active, and keeps what Active repeats |
//! | `generation` | creates and deletes generations of the profile |
//! | `running` | starts jobs and aborts them |
//! | `sweep` | removes what ended evolutions left |

mod build;
mod diagnose;
mod generation;
mod install;
mod judge;
mod qualify;
mod running;
mod sweep;
mod version;

pub use build::{BuildOrder, build};
pub use diagnose::{DiagnosisFacts, diagnose, diagnose_now};
pub use generation::{prepare_generation, prune};
pub use install::install;
pub use judge::{ValidationOrder, judge, validate};
pub use qualify::{qualify, write_run};
pub use running::Jobs;
