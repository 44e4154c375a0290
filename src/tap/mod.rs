//! The tap: a process that stands in front of the instances for a share of the new connections, relays their bytes
//! unchanged, and counts what users' requests get.
//!
//! ```text
//!                 ┌─▶ slot's member ─────────────────────▶ instance
//! kernel program ─┤                                          ▲
//!                 └─▶ tap's member ─▶ tap ── marked for slot ┘
//!                                      └─▶ copy ─▶ http1 ─▶ Sample ─▶ supervisor
//! ```
//!
//! | file | its one job |
//! |---|---|
//! | `http1` | finds the exchanges in a copy of both directions of a connection (pure) |
//! | `head`, `body` | the heads of messages, and where bodies end (pure) |
//! | `relay` | relays the bytes of one connection |
//! | `copying` | the copy of one exchange, if an order asks for it (pure) |
//! | `capture` | the orders, the memory of all copies together, and the copies that wait to be sent |
//! | `observer` | counts what the users of one connection get, and hands over the copies |
//! | `dial` | connections to the instance of one slot |
//! | `server` | the process of the tap |
//! | `wire` | the packets between supervisor and tap |
//! | `exchange` | the packet of a copied exchange |
//! | `client` | the supervisor's side |
//! | `handover` | finds taps whose connection is lost, and makes them release their listeners |

mod body;
mod capture;
mod client;
mod copying;
mod dial;
mod exchange;
mod handover;
mod head;
mod http1;
mod observer;
mod relay;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::TapLink;
pub use copying::{Admit, Copied, Dropped, Extent};
pub use handover::{TapProcess, find};
pub use http1::{End, Exchange, Http1, Side};
pub use relay::{Copies, Outcome, relay};
pub use server::{serve, tap_main};
pub use wire::{Capture, CaptureCounts, Gauges, Orders, Report};
