//! The state directory.
//!
//! | file | its one job |
//! |---|---|
//! | `paths` | where each file of it is |
//! | `objects` | objects of the Interface that are stored as JSON files |

pub mod objects;
pub mod paths;
