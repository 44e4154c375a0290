//! The evidence of an incident, which a blueprint gets, without secrets.
//!
//! [`collect()`] writes the folder of one incident and always returns: what could not be collected is listed in
//! `missing`, and no failure here changes a verdict (I10). Everything is limited in bytes and in time. [`traces`]
//! parses stack traces in log text, without I/O. [`crate::redact`] removes secrets.

mod collect;
mod crash;
#[cfg(test)]
mod ends_tests;
mod evidence;
mod exchanges;
mod facts;
mod record;
pub mod traces;
#[cfg(test)]
mod wild_tests;
mod words;

pub use collect::{COLLECT_MAX, Collected, HEALTH_REPORTS_MAX, LOG_BYTES_MAX, RUNTIME_CONTEXT_MAX, Request, collect};
pub use crash::{CRASH_LOG_BYTES_MAX, exit};
pub use evidence::{canonical_json, digest_of};
pub use exchanges::exchanges_of;
pub use facts::facts;
