//! What the journal holds, and the history that is read from it.
//!
//! | file | its one job |
//! |---|---|
//! | `entry` | the body of a journal record, and the replay that rebuilds the state from records |
//! | `reader` | `History`: a walk through the records, for the last entries or for one object |
//! | `evolution` | one evolution |
//! | `maintenance` | one maintenance record |
//! | `incidents` | the incidents that are open |
//! | `unnamed` | where the lifecycle stands after an entry that does not say it: of the formats 1.0 and 1.1 |

pub mod entry;
mod evolution;
mod incidents;
mod maintenance;
mod reader;
mod unnamed;

pub use evolution::{EvolutionStep, EvolutionView, STEPS_MAX};
pub use reader::History;
