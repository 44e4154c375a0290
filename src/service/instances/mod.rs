//! The instances of the two slots.
//!
//! | file | its one job |
//! |---|---|
//! | `set` | all instances: started, adopted, stopped |
//! | `task` | the task of one instance: its readiness, its health, its end |
//! | `sandbox` | what an instance may do, made once |
//! | `reports` | what instances said of themselves last |
//! | `types`, `ids` | what parts say to each other about an instance; what its id says |
//! | `logs`, `logpipe`, `logfiles` | where instances print |

pub mod ids;
pub mod logfiles;
pub mod logpipe;
mod logs;
mod reports;
mod sandbox;
pub mod set;
mod task;
pub mod types;
