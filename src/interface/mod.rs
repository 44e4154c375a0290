//! The Runtime Evolution Interface: its types, its traits, its Varlink services and clients.
//!
//! | file | its one job |
//! |---|---|
//! | [`types`] | the six types, as they are stored and as they travel |
//! | [`evolution`] | `io.openexec.RuntimeEvolution`: the trait of the four calls, its errors, its service |
//! | [`operations`] | `io.openexec.Supervisor`: the trait of the operator's authority, its reply types, its service |
//! | [`client`] | the callers' side of both |
//! | [`runtime`] | for runtime authors: serves health and context on the inherited socket |
//! | [`access`], `refusal` | who may call: peer credentials and descent; why a caller may not |
//! | [`proof`], [`secret`] | `io.openexec.Access`, by which a caller proves its descent; the secret that proves it |
//! | `peer` | the process of a caller, pinned |
//! | [`socket`] | listening sockets in the file system: private, never stale, never stolen |
//! | `server`, `answer` | connections and their bounds; calls and replies |
//! | `method`, `table` | methods as data: one table for the service, its handler, the client and the definition file of an interface |
//! | [`queue`] | calls in the queue of an owner that handles one input at a time |
//! | `crowd` | which callers have a place among the connections, and which connection is closed to free one |
//! | `wire` | messages on a connection, bounded |
//! | `views` | the replies of `io.openexec.Supervisor`, found in [`operations`] |
//!
//! The interface definition files are `interface/*.varlink`. They are written by `REI_BLESS=1 cargo test idl` from the
//! types here, and a test keeps them equal to the code; the services hand them out as they are.
//!
//! Both interfaces speak Varlink with the types of the crate `zlink`. The bytes are framed here instead of there: its
//! connections take messages of 100 MB, grow by 256 bytes at a time and keep every descriptor that a peer sends, and its
//! server lets one slow reader delay all others. Here each connection is a task with a bound on everything.

mod answer;
mod crowd;
#[cfg(test)]
mod idl;
mod method;
mod peer;
mod refusal;
mod server;
mod table;
mod wire;

pub mod access;
pub mod client;
pub mod evolution;
pub mod operations;
pub mod proof;
pub mod queue;
pub mod runtime;
pub mod secret;
pub mod socket;
pub mod types;
mod views;

pub use method::Method;
pub use wire::WireError;
