//! The shell: the event loop that carries out what the lifecycle decides.
//!
//! | file | its one job |
//! |---|---|
//! | `shell` | the loop: one input, one decision, all its effects |
//! | `input` | what the loop can be told |
//! | `begin`, `carry` | the record, and the start beside it; effects, carried out |
//! | `slots`, `attend`, `logpipe`, `logfiles`, `rules` | instances: started, adopted, ended; the task that attends each; where they print; what they may do |
//! | `extend` | an instance asks for more time |
//! | `watch` | monitors and the judgement of the version under trial |
//! | `sources` | the files of commits in the store |
//! | `needed` | what may not be swept away |
//! | `work` | slow work: diagnosis, build, validation, generations |
//! | `operate`, `status` | what operators ask, and what they see |
//! | `story`, `narrate` | the log, for a person; the words for what the lifecycle decides |
//! | `serve` | the two sockets, opened, and who may use them |
//! | `sockets` | the two interfaces, as messages to the loop |
//! | `chronicle`, `record` | the journal's body, and history read from it |
//! | `objects` | contexts, candidates, reports and incidents as files |
//! | `start`, `undo` | from rei.toml to a running loop, and its end; a start that fails leaves nothing |
//! | `witness`, `reconcile`, `versions` | what really is, held against the journal; where a store path came from |
//! | `recover`, `reexec` | what an earlier supervisor left is taken over; another program in the same process |
//! | `regain` | what no store has, taken back from the instances |
//! | `keep`, `logger` | the store of descriptors that outlives the supervisor; who reads what instances print |
//! | `clock`, `paths`, `policy`, `tools` | time; places; numbers; what parts share |
//! | `mend` | what a process of the same user took from rei, given back and told |
//! | `memory` | what the start and evolutions needed is given back |

mod attend;
mod begin;
mod carry;
pub mod chronicle;
mod clock;
mod extend;
mod input;
mod keep;
mod logfiles;
mod logger;
mod logpipe;
mod memory;
mod mend;
mod narrate;
mod needed;
pub mod objects;
mod operate;
pub mod paths;
mod policy;
pub mod reconcile;
pub mod record;
mod recover;
mod reexec;
mod regain;
mod rules;
mod serve;
mod shell;
mod slots;
mod sockets;
mod sources;
mod start;
mod status;
mod story;
mod tools;
mod undo;
mod versions;
mod watch;
mod witness;
mod work;

pub use memory::give_back;
pub use paths::Paths;
pub use shell::End;
pub use start::{StartError, supervise};
