//! Blueprints: the staged recipe that turns an EvolutionContext into a commit on a candidate branch.
//!
//! | file | its one job |
//! |---|---|
//! | `library.rs` | a blueprint by its name: the operator's, else rei's own |
//! | `yaml.rs`, `fields.rs` | a file to a tree with places, a tree to typed fields |
//! | `parse.rs`, `convert.rs` | OpenExec's DSL v1, and the dialect of its 0.8 releases |
//! | `draft.rs` | what both are read into |
//! | `graph.rs` | routes, loops, ends and inputs, checked as a whole |
//! | `schema.rs` | a checked blueprint |
//! | `machine.rs` | which stage is next (pure) |
//! | `job.rs` | what a run is given, what it tells, what it leaves behind |
//! | `run.rs` | the runner: stage by stage, each one checkpointed |
//! | `store.rs` | the run's directory: timeline and artifacts |
//! | `actions/` | what a stage does, one file a kind |
//! | `confine/` | the fence around agents and commands |
//!
//! In a stage of type `agent`, the key `agent: NAME` chooses among the agents of rei.toml; without it, there must be exactly
//! one. Other keys of rei's own: `command` (action `run`), `flake_inputs` (`update_inputs`), `rev` (`checkout`), and
//! `toolset`, `sandbox` (`read_only`, `workspace_write`) and `timeout_class` (`fast`, `medium`, `long`) of a stage.

mod actions;
pub mod confine;
mod convert;
mod draft;
mod fields;
mod graph;
mod job;
pub mod library;
pub mod machine;
mod parse;
mod run;
mod schema;
mod store;
mod yaml;

#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;

pub use job::{
    AgentRun, Blame, Checkpoint, Decision, Earlier, Finding, Job, Journal, LastFailure, Outcome, Refuted, StageEvent,
    StageEventKind, Workbench, missing,
};
pub use parse::{Problems, parse};
pub use run::{Error, run};
pub use schema::{Action, Blueprint, FAILURES_MAX, RetrySemantics, Sandbox, Stage, Target, Work};
pub use store::{Artifact, clear_run};
pub use yaml::{Place, Problem};
