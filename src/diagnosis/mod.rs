//! The evidence of an incident: what a blueprint is given, with the secrets taken out.
//!
//! [`collect()`] writes the folder of one incident and always answers: what could not be had is named in `missing`, and
//! nothing that fails here changes a verdict (I10). Everything has a bound in bytes and in time. [`traces`] reads stack
//! traces out of log text, without I/O. Secrets are taken out by [`crate::redact`].

mod collect;
mod crash;
#[cfg(test)]
mod ends_tests;
mod evidence;
mod exchanges;
mod facts;
pub mod traces;
mod words;

pub use collect::{COLLECT_MAX, Collected, HEALTH_REPORTS_MAX, LOG_BYTES_MAX, RUNTIME_CONTEXT_MAX, Request, collect};
pub use crash::{CRASH_LOG_BYTES_MAX, exit};
pub use evidence::{canonical_json, digest_of};
pub use exchanges::exchanges_of;
pub use facts::facts;
