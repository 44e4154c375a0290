//! The instances of the two slots.
//!
//! | file | its one job |
//! |---|---|
//! | `slots` | instances: started, adopted, stopped |
//! | `attend` | the task of one instance |
//! | `rules` | the sandbox of instances, made once |
//! | `instance`, `ids` | what parts say to each other about an instance; what its id says |
//! | `logs`, `logpipe`, `logfiles` | where instances print |

pub mod attend;
pub mod ids;
pub mod instance;
pub mod logfiles;
pub mod logpipe;
mod logs;
mod rules;
pub mod slots;
