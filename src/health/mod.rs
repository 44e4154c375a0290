//! What health signals say: windows, detectors, fingerprints, and the judgement of a candidate. Pure.
//!
//! One [`Monitor`] watches one version of the runtime. The shell feeds it [`Signal`]s with the time at which they came
//! and gets [`Finding`]s back; it reads no clock and does no I/O.
//!
//! ```text
//! Signal ──▶ Monitor ──▶ Finding (crash, hang, latency, …) ──▶ lifecycle opens or joins a RuntimeIncident
//!               │
//!               ├──▶ report()   RuntimeHealthReport, provider "joined"
//!               └──▶ judge()    pass, fail or inconclusive for a window of canary or observation
//! ```
//!
//! Three laws hold for every order of signals, and `tests` attacks each:
//! - no evidence is `unknown`, never `ok`;
//! - what the runtime reports of itself can lower its status, never raise it;
//! - a monitor keeps less than [`MONITOR_BYTES_MAX`], whatever signals come.
//!
//! A new detector is a [`Cause`] and a row in `detectors`; nothing else here names a cause.

mod condition;
mod detectors;
mod evidence;
mod finding;
mod fingerprint;
mod growth;
mod judge;
mod ledger;
mod monitor;
mod report;
mod self_report;
mod signal;
mod stats;
mod window;

pub use condition::Detection;
pub use finding::{Cause, Finding};
pub use fingerprint::{FRAMES_MAX, fingerprint, normalise, normalise_line};
pub use judge::{Analysis, Baseline, Bounds, Comparison, judge};
pub use monitor::{MONITOR_BYTES_MAX, Monitor};
pub use signal::{Exit, Probe, ProbeOutcome, Signal, Sources};

#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod tests;
