//! The instances of the two slots.
//!
//! | file | its one job |
//! |---|---|
//! | `set` | starts, adopts and stops instances |
//! | `task` | the task of one instance: its readiness, its health, its end |
//! | `sandbox` | the sandbox of instances, prepared once |
//! | `requests` | the requests of users, by its metrics and its access log |
//! | `sender` | sends the events of an instance to the event loop |
//! | `reports` | the last report of each instance |
//! | `types`, `ids` | types that the service's modules share; the parts of an instance's id |
//! | `logs`, `logpipe`, `logfiles` | the pipes and files of instances' output |

pub mod ids;
pub mod logfiles;
pub mod logpipe;
mod logs;
mod reports;
mod requests;
mod sandbox;
mod sender;
pub mod set;
mod task;
pub mod types;
