//! The judge: the plan, the sandboxed checks, the report.
//!
//! | file | its one job |
//! |---|---|
//! | `checks` | a check as data: what the Nix expression passes to its builder |
//! | `verdict` | `verdict.json`, the output of every sandboxed check |
//! | `plan` | every decision: from configuration and facts to an immutable plan for one store path. Pure |
//! | `derive` | a plan's sandboxed steps as derivations |
//! | `execute` | carries a plan out; decides nothing |
//! | `report` | plan and findings to a ValidationReport. Pure |
//! | `builder` | the other side of the sandbox: rei as the builder of a check |
//!
//! The judged never speaks to the judge but by answering requests: what it prints, writes and exits with is no verdict.
//! A verdict that is missing, garbled or of another check is inconclusive, and inconclusive never promotes.

mod builder;
mod checks;
mod derive;
mod execute;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod verdict;

pub use builder::builder_main;
pub use checks::{CheckSpec, InstanceSpec, Kind, ListenKind, ListenSpec, Probe};
pub use execute::{Bound, Error, Finding, Means, execute, reproduce};
pub use plan::{Built, Facts, FlakeChecks, GoldenFact, Inputs, MadeFrom, Plan, Step, TreeFile, Work, plan};
pub use report::{Meta, report};
pub use verdict::{VERDICT_BYTES_MAX, VerdictFile};
