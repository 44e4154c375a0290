//! The keeper: keeps descriptors open while there is no supervisor.
//!
//! A listening socket lives as long as a process has it open. When a supervisor dies, its sockets and their queues
//! would be lost. So a [`FdStore`] has copies: systemd's own store if there is one, else the keeper, a separate
//! process. Log pipes, notification sockets and pidfds of instances are stored in the same way. A store knows only
//! names and descriptors, but the keeper interprets three kinds of names. It keeps running while a pidfd of an instance
//! shows that the instance is alive. If neither a logger nor a supervisor reads the output of an instance, it reads and
//! drops that output, so that the instance does not block.
//!
//! | file | its one job |
//! |---|---|
//! | `store` | the trait and its error |
//! | `wire` | the packets between a supervisor and the keeper |
//! | `server` | the process of the keeper |
//! | `reader` | drains the output of instances if no other process reads it |
//! | `client` | the supervisor's side; starts the keeper if there is none |
//! | `find` | finds a keeper by its process if its socket was removed |
//! | `systemd` | the descriptor store of systemd |
//! | `exec_fds` | passes descriptors to the next program in the same process |

mod client;
pub mod exec_fds;
mod find;
mod reader;
mod server;
mod store;
mod systemd;
pub(crate) mod wire;

pub use client::Keeper;
pub use find::is_alive_at;
pub use server::{IDLE_MAX, keeper_main};
pub use store::{FdStore, INSTANCE_PREFIX, LOGGER_PREFIX, NoStore, StoreError};
pub use systemd::SystemdStore;
pub use wire::FDS_MAX;
