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

mod body;
mod head;
mod http1;
#[cfg(test)]
mod tests;

pub use http1::{End, Exchange, Http1, Side};
