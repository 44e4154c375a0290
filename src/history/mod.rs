//! What the journal holds, and the history that is read from it.
//!
//! | file | its one job |
//! |---|---|
//! | `entry` | the body of a journal record, and the replay that rebuilds the state from records |
//! | `chronicle` | a walk through the records, for the last entries or for one object |
//! | `trip` | one evolution |
//! | `incidents` | the incidents that are open |

pub mod chronicle;
pub mod entry;
mod incidents;
mod trip;
