//! The Interface over real sockets: both services, both clients, access, limits, and a caller in another language.

mod access;
mod crowd;
mod fakes;
mod peers;
mod python;
mod runtime;
mod shapes;
mod sockets;
mod supervisor;
mod wire;
