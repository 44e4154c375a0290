//! The keeper: holds descriptors while there is no supervisor.
//!
//! Listening sockets live as long as somebody has them open. When a supervisor dies, its sockets' queues would be lost; so copies
//! are with a [`FdStore`]: systemd's own where there is one, else the keeper, a process of its own that does nothing else. Log
//! pipes, notify sockets and pidfds of instances are kept likewise. A store knows names and descriptors. Of three kinds the keeper
//! knows what they are: as long as the pidfd of an instance says that it lives, the keeper stays, and if neither a logger nor a
//! supervisor reads what the instance prints, it reads and drops that, so that the instance need not wait.
//!
//! | file | its one job |
//! |---|---|
//! | `store` | the trait and its error |
//! | `wire` | packets between a supervisor and the keeper |
//! | `server` | the keeper's process |
//! | `reader` | what instances print, read where nobody else does |
//! | `client` | a supervisor's side, which starts the keeper where there is none |
//! | `find` | a keeper whose socket was removed, found by its process |
//! | `systemd` | systemd's descriptor store |
//! | `handed` | from one program to the next in the same process |

mod client;
mod find;
pub mod handed;
mod reader;
mod server;
mod store;
mod systemd;
pub(in crate::runtime) mod wire;

pub use client::Keeper;
pub use find::is_alive_at;
pub use server::{ALONE_MAX, keeper_main};
pub use store::{FdStore, INSTANCE_PREFIX, LOGGER_PREFIX, NoStore, StoreError};
pub use systemd::SystemdStore;
pub use wire::FDS_MAX;
