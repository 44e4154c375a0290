//! The state directory.
//!
//! | file | its one job |
//! |---|---|
//! | `paths` | the paths of its files |
//! | `objects` | objects of the Interface that are stored as JSON files |

pub mod objects;
pub mod paths;
