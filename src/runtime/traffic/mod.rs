//! Traffic: the listening sockets, and which instance gets new connections. The sockets are opened before any instance
//! starts, and stay open until the supervisor stops serving.
//!
//! | file | its one job |
//! |---|---|
//! | `slot` | the terms: slot, member, routing |
//! | `listeners` | [`Traffic`]: opens, adopts and switches all listeners of a runtime |
//! | `group` | a TCP or UDP listener: a group of sockets on one port; a BPF program chooses the member |
//! | `renew` | prepares the sockets of a slot for the next instance: replaces or resets them |
//! | `options` | reads every option of a socket and restores it |
//! | `rejoin` | completes a group again after a supervisor crash or after tampering |
//! | `order`, `find` | which member has which index in the kernel's array: computed, and measured |
//! | `program` | the BPF programs (pure) |
//! | `unix_pair` | a Unix listener: two sockets that swap paths; the private sockets of the Interface |
//! | `dial` | connections from the supervisor to one slot |
//! | `alarm` | reports that an instance tampered with a listener |
//! | `recover` | recovers listeners from running instances |
//! | `label` | names of sockets in the descriptor store |
//! | `unanswered` | users' connections without an answer |
//! | `socket`, `diag` | system calls; queries to `sock_diag` |
//!
//! A switch affects only connections that begin after it. Connections in the queue of a slot, and handshakes in
//! progress, stay with that slot. So a slot is released only when [`Traffic::is_drained`] returns true. UDP has no
//! connections: each datagram is routed separately, and flows do not stick to an instance.
//!
//! Changes that an instance makes to an inherited socket (options, flags, binding to a device) stay with the socket. So
//! a slot without traffic and with an empty queue gets new sockets before each start. Every candidate starts this way.
//! If clients are connecting or waiting, closing the socket would refuse them. Then every option is reset to its value
//! on an untouched socket, and read again to check it. If the reset fails and another version inherits the socket, the
//! socket is replaced anyway: losing a queue is better than a version that cannot serve and is blamed for it.

mod alarm;
mod diag;
mod dial;
mod error;
mod find;
mod group;
mod label;
mod listeners;
mod options;
mod order;
mod program;
mod recover;
mod rejoin;
mod renew;
mod slot;
mod socket;
mod unanswered;
mod unix_pair;

pub use alarm::{Alarm, Tampering};
pub use dial::{SlotDial, marked_socket};
pub use error::{OpenError, RouteError};
pub use group::TapListener;
pub use listeners::{Endpoint, Routed, Setup, Traffic};
pub use recover::{Holder, Refused, recover_from_instances};
pub use rejoin::Adoption;
pub use slot::{NextVersion, Routing, Slot, Taps};
pub use unanswered::Unanswered;
