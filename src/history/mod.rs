//! The content of journal records, and the history that is read from them.
//!
//! | file | its one job |
//! |---|---|
//! | `entry` | the body of a journal record, and the replay that rebuilds the state from records |
//! | `reader` | `History`: reads the records one by one, for the last entries or for one object |
//! | `evolution` | one evolution |
//! | `maintenance` | one maintenance record |
//! | `incidents` | the open incidents |
//! | `inferred` | infers the phase after an entry of the formats 1.0 and 1.1, which does not contain it |

pub mod entry;
mod evolution;
mod incidents;
mod inferred;
mod maintenance;
mod reader;

pub use evolution::{EvolutionStep, EvolutionView, STEPS_MAX};
pub use reader::History;
