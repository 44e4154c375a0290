//! The supervisor of one service: the lifecycle decides, the journal records the decision, and the executor executes
//! it.
//!
//! | file | its one job |
//! |---|---|
//! | `open` | from rei.toml to a service that is supervised: locked, opened, begun |
//! | `supervisor` | the loop of a service: takes an input, lets the lifecycle decide, records the decision, executes it |
//! | `input` | the inputs of the loop |
//! | `commit`, `ledger` | writes a decision and starts its instance at the same time; the journal, and retries while it cannot be written |
//! | `executor` | executes effects; it does not see the lifecycle |
//! | `timers` | the timers that the lifecycle has set |
//! | `facts` | the facts of the state that a job needs |
//! | `instances` | the instances: started, adopted, ended; their logs and their permissions |
//! | `listeners`, `open_listeners` | the listening sockets: the routing of connections; how they are opened or recovered at the start |
//! | `monitors`, `live_trial`, `findings` | health and the trial of a version; its trial by the requests of users; findings as the lifecycle takes them |
//! | `jobs` | slow work: diagnosis, build, validation, generations |
//! | `fdstore` | the store of descriptors that outlives the supervisor |
//! | `tap_watch`, `tap_share` | the tap: started, watched and replaced; how much goes through it |
//! | `capture`, `recordings` | which exchanges of users the tap copies, and for whom; the recordings that are made of them |
//! | `logger`, `logger_watch` | the logger process; the watch that replaces it |
//! | `calls` | the handler of each call on the two sockets |
//! | `operator`, `requests`, `queries` | requests of operators; calls from outside that build and judge; questions about the state |
//! | `shadow` | asks both versions once more what users ask, before a candidate has users |
//! | `sockets`, `reach` | the two sockets; whether instances can read the operators' secret |
//! | `announcer` | announces decisions in the log and to the subscribers of `rei monitor` |
//! | `recover` | takes over the instances of an earlier supervisor |
//! | `inspect`, `reconcile`, `versions` | the state of the machine, compared with the journal; the commit behind a store path |
//! | `follow`, `reload` | the followed ref; rei.toml, also when it is read again |
//! | `sources`, `flakes` | the files of commits in the store: the list of them; how they are put there |
//! | `in_use` | the files that a sweep must not remove |
//! | `repair` | restores the permissions of rei's own files |
//! | `undo`, `error` | undoes a failed start; why it failed |
//! | `shutdown` | the end of a service |
//! | `clock`, `policy`, `tools` | time; the numbers of the lifecycle; the values that parts share |
//! | `failure`, `sync` | why work failed, in one line; locks, and tasks that end with their owner |

mod announcer;
mod calls;
pub mod capture;
mod clock;
mod commit;
mod error;
mod executor;
mod facts;
mod failure;
pub mod fdstore;
mod findings;
mod flakes;
mod follow;
mod in_use;
mod input;
mod inspect;
mod instances;
mod jobs;
mod ledger;
mod listeners;
mod live_trial;
mod logger;
mod logger_watch;
mod monitors;
pub mod open;
mod open_listeners;
mod operator;
mod policy;
mod queries;
mod reach;
pub mod reconcile;
mod recordings;
mod recover;
pub mod reload;
pub mod repair;
mod requests;
mod shadow;
#[cfg(test)]
mod shadow_tests;
mod shutdown;
mod sockets;
mod sources;
mod supervisor;
pub mod sync;
mod tap_share;
mod tap_watch;
mod timers;
mod tools;
mod undo;
mod versions;

pub use error::StartError;
pub use supervisor::{End, Service};
