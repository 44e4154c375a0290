//! The supervisor of one service: decides by the lifecycle, records, carries out.
//!
//! | file | its one job |
//! |---|---|
//! | `open` | from rei.toml to a service that is supervised: locked, opened, begun |
//! | `supervisor` | the loop of a service: handles an input, has it decided, recorded and carried out |
//! | `input` | what a service can be told |
//! | `commit`, `ledger` | a decision on disk, with the start beside it; the journal and what to do while it cannot be written |
//! | `executor` | carries out effects; it does not see the lifecycle |
//! | `timers` | the timers that the lifecycle has set |
//! | `facts` | what the state says that a job begins with |
//! | `instances` | the instances: started, adopted, ended; their logs and what they may do |
//! | `listeners`, `open_listeners` | the listening sockets: where connections go; how they are opened or taken back at the start |
//! | `monitors`, `findings` | health and the trial of a version; findings in the words of the lifecycle |
//! | `jobs` | slow work: diagnosis, build, validation, generations |
//! | `fdstore` | the store of descriptors that outlives the supervisor |
//! | `logger`, `log_reader` | the logger process; watched and replaced |
//! | `operator`, `requests`, `queries` | requests of operators; calls from outside that build and judge; what can be asked |
//! | `sockets`, `calls`, `reach` | the two sockets; their calls as inputs; whether instances can read the operators' secret |
//! | `announcer` | what was decided, in the log and to who watches |
//! | `recover` | what an earlier supervisor left is taken over |
//! | `inspect`, `reconcile`, `versions` | what really is, held against the journal; where a store path came from |
//! | `follow`, `reload` | the followed ref; rei.toml, also when it is read again |
//! | `sources`, `flakes` | the files of commits in the store: which are there; put there when they are wanted |
//! | `in_use` | what must not be removed |
//! | `repair` | rights to rei's own files, given back |
//! | `undo`, `error` | a start that fails leaves nothing, and says why |
//! | `shutdown` | the end of a service |
//! | `clock`, `policy`, `tools` | time; numbers; what parts share |
//! | `failure`, `sync` | why something failed, in one line; locks, and tasks that end with their owner |

mod announcer;
mod calls;
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
mod log_reader;
mod logger;
mod monitors;
pub mod open;
mod open_listeners;
mod operator;
mod policy;
mod queries;
mod reach;
pub mod reconcile;
mod recover;
pub mod reload;
pub mod repair;
mod requests;
mod shutdown;
mod sockets;
mod sources;
mod supervisor;
pub mod sync;
mod timers;
mod tools;
mod undo;
mod versions;

pub use error::StartError;
pub use supervisor::{End, Service};
