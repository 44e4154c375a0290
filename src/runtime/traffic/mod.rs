//! Traffic: the listening sockets, opened before anything starts and held until it ends, and which instance gets new connections.
//!
//! | file | its one job |
//! |---|---|
//! | `slot` | the words: slot, member, routing |
//! | `listeners` | [`Traffic`]: all listeners of a runtime, opened, taken over, switched |
//! | `group` | an internet listener: three sockets of one port, steered by a program |
//! | `renew` | a slot's sockets as the next instance shall find them: new ones, or set back |
//! | `options` | every option of a socket, read and set back |
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
//!
//! What an instance did to a socket that it inherited stays with the socket: options, flags, what is bound to it. So a slot that
//! gets no traffic and whose queue is empty has new sockets before each start: that is how every candidate starts. Where clients
//! wait or come, closing a socket would refuse them; there every option is set back to what a socket has that nobody ever had,
//! and read again. Only if that fails, and another version inherits, new sockets take their place all the same: to lose a queue
//! is better than a version that cannot serve and is blamed for it.

mod alarm;
mod diag;
mod dial;
mod error;
mod exchange;
mod find;
mod group;
mod label;
mod listeners;
mod options;
mod order;
mod program;
mod rejoin;
mod renew;
mod slot;
mod socket;
mod takeback;

pub use alarm::{Alarm, Tampering};
pub use dial::SlotDial;
pub use error::{OpenError, RouteError};
pub use listeners::{Routed, Setup, Traffic, Way};
pub use rejoin::Adoption;
pub use slot::{Heir, Routing, Slot};
pub use takeback::{Holder, Refused, take_back};
