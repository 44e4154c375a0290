//! Traffic: the listening sockets, opened before anything starts and held until it ends, and which instance gets new connections.
//!
//! | file | its one job |
//! |---|---|
//! | `slot` | the words: slot, member, routing |
//! | `listeners` | [`Traffic`]: all listeners of a runtime, opened, taken over, switched |
//! | `group` | an internet listener: three sockets of one port, steered by a program |
//! | `rejoin` | makes a group whole again after a crash or after tampering |
//! | `order`, `find` | who is where in the kernel's array: deduced, and looked up |
//! | `program` | the programs (pure) |
//! | `exchange` | a unix listener: two sockets change places; the Interface's private ones |
//! | `dial` | connections of the supervisor to one slot |
//! | `alarm` | tells when an instance tampers with a listener |
//! | `takeback` | listeners back from running instances |
//! | `label` | names of sockets in a store |
//! | `socket`, `diag` | system calls; questions to `sock_diag` |
//!
//! What a switch does: it decides about connections that begin after it. Those that wait in a slot's queue, and those whose
//! handshake is under way, stay with that slot; so a slot is given up only when [`Traffic::is_drained`] says so. For UDP
//! there are no connections: each datagram is routed by itself, and flows do not stick to an instance.

mod alarm;
mod diag;
mod dial;
mod error;
mod exchange;
mod find;
mod group;
mod label;
mod listeners;
mod order;
mod program;
mod rejoin;
mod slot;
mod socket;
mod takeback;

pub use alarm::{Alarm, Tampering};
pub use dial::SlotDial;
pub use error::{OpenError, RouteError};
pub use listeners::{Adoption, Routed, Setup, Traffic, Way};
pub use slot::{Routing, Slot};
pub use takeback::take_back;
