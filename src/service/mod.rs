//! The shell: the event loop that carries out what the lifecycle decides.
//!
//! | file | its one job |
//! |---|---|
//! | `shell` | the loop: one input, one decision, all its effects |
//! | `input` | what the loop can be told |
//! | `begin`, `carry` | the record, and the start beside it; effects, carried out |
//! | `instances` | instances: started, adopted, ended; their logs and what they may do |
//! | `extend` | an instance asks for more time |
//! | `watch`, `observe` | monitors and the judgement of the version under trial; what their findings mean to the loop |
//! | `sources`, `flakes` | the files of commits in the store: which are there; put there when they are wanted |
//! | `needed` | what may not be swept away |
//! | `jobs` | slow work: diagnosis, build, validation, generations |
//! | `operate`, `status` | what operators ask, and what they see |
//! | `serve`, `reach` | the two sockets, opened, and who may use them; whether instances can read the operators' secret |
//! | `sockets` | the two interfaces, as messages to the loop |
//! | `start`, `undo`, `error` | from rei.toml to a running loop; a start that fails leaves nothing, and says why |
//! | `follow`, `reload` | the followed ref; rei.toml, also when it is read again |
//! | `signals`, `shutdown` | what the operating system asks; the end |
//! | `witness`, `reconcile`, `versions` | what really is, held against the journal; where a store path came from |
//! | `recover`, `reexec` | what an earlier supervisor left is taken over; another program in the same process |
//! | `regain` | what no store has, taken back from the instances |
//! | `keep`, `new_keeper` | the store of descriptors that outlives the supervisor; begun anew when it is lost |
//! | `logger`, `new_logger` | who reads what instances print; begun anew when it is lost or hangs |
//! | `clock`, `policy`, `tools` | time; numbers; what parts share |
//! | `failure`, `sync` | why something failed, in one line; locks, and tasks that end with their owner |
//! | `mend` | what a process of the same user took from rei, given back and told |
//! | `memory` | what the start and evolutions needed is given back |

mod begin;
mod carry;
mod clock;
mod error;
mod extend;
mod failure;
mod flakes;
mod follow;
mod input;
mod instances;
mod jobs;
mod keep;
mod logger;
mod memory;
mod mend;
mod needed;
mod new_keeper;
mod new_logger;
mod observe;
mod operate;
mod policy;
mod reach;
pub mod reconcile;
mod recover;
mod reexec;
mod regain;
mod reload;
mod serve;
mod shell;
mod shutdown;
mod signals;
mod sockets;
mod sources;
mod start;
mod status;
mod sync;
mod tools;
mod undo;
mod versions;
mod watch;
mod witness;

pub use error::StartError;
pub use memory::give_back;
pub use shell::End;
pub use start::supervise;
