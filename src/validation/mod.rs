//! The judge: the plan, the sandboxed checks, the report.
//!
//! | file | its one job |
//! |---|---|
//! | `step` | which check a step of a plan is |
//! | `checks` | a check as data, each kind with its own: what the Nix expression passes to its builder |
//! | `verdict` | `verdict.json`, the output of every sandboxed check |
//! | `plan` | every decision: from configuration and facts to an immutable plan for one store path. Pure |
//! | `derive` | a plan's sandboxed steps as derivations |
//! | `execute` | carries a plan out; decides nothing |
//! | `qualify` | replays a recording on Active, and reads the run that can be repeated |
//! | `report` | plan and findings to a ValidationReport. Pure |
//! | `builder` | the other side of the sandbox: rei as the builder of a check |
//!
//! A candidate reaches the judge only through its responses. What it prints, what it writes and its exit code are never a
//! verdict. A verdict that is missing, garbled or of another check is inconclusive, and inconclusive never promotes.

mod builder;
mod checks;
mod derive;
mod execute;
mod plan;
mod qualify;
mod report;
mod step;
#[cfg(test)]
mod tests;
mod verdict;

pub use builder::builder_main;
pub use checks::{
    CheckSpec, GoldenSpec, InputName, InstanceSpec, Kind, ListenKind, ListenSpec, ReadinessProbe, ReproductionSpec,
};
pub use execute::{Bound, Error, Means, StepOutcome, execute, reproduce};
pub use plan::{Built, Facts, FlakeChecks, GoldenFact, Input, Inputs, MadeFrom, Plan, Step, TreeFile, Work, plan};
pub use qualify::{Qualified, qualify};
pub use report::{Meta, report};
pub use step::{StepId, UnknownStep};
pub use verdict::{VERDICT_BYTES_MAX, VerdictFile};
