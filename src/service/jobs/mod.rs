//! Slow work of an evolution: each runs beside the loop and answers with one event.
//!
//! Whatever fails here becomes a reason in the answer; nothing here decides what follows.
//!
//! | file | its one job |
//! |---|---|
//! | `install` | the first version |
//! | `diagnose` | the context of an evolution |
//! | `build`, `version` | a candidate by its blueprint; a commit's store path |
//! | `judge` | the report on a candidate |
//! | `generation` | generations of the profile, made and pruned |
//! | `running` | the jobs that run, so that they can be aborted |
//! | `sweep` | what ended evolutions leave is cleared away |

mod build;
mod diagnose;
mod generation;
mod install;
mod judge;
mod running;
mod sweep;
mod version;

pub use build::{BuildOrder, build};
pub use diagnose::{DiagnosisFacts, diagnose, diagnose_now};
pub use generation::{prepare_generation, prune};
pub use install::install;
pub use judge::{ValidationOrder, judge, validate};
pub use running::Jobs;
