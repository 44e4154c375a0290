//! Blueprints: the staged recipe that turns an EvolutionContext into a commit on a candidate branch.
//!
//! | file | its one job |
//! |---|---|
//! | `library.rs` | finds a blueprint by its name: the operator's, else one that ships with rei |
//! | `yaml.rs`, `fields.rs` | a file to a tree with line and column, a tree to typed fields |
//! | `parse.rs`, `convert.rs` | read OpenExec's DSL v1, and the dialect of its 0.8 releases |
//! | `draft.rs` | the result of both: a blueprint whose routes are not resolved |
//! | `graph.rs` | checks routes, loops, ends and inputs of the whole blueprint |
//! | `schema.rs` | a checked blueprint |
//! | `machine.rs` | decides which stage is next (pure) |
//! | `job.rs` | the input, events and checkpoint of a run |
//! | `run.rs` | the runner: runs stage by stage, with a checkpoint after each |
//! | `store.rs` | the directory of a run: timeline and artifacts |
//! | `actions/` | what a stage does, one file per kind |
//! | `confine/` | the sandbox of agents and commands |
//!
//! In a stage of type `agent`, the key `agent: NAME` chooses one of the agents of rei.toml. Without it, rei.toml must
//! have exactly one agent. rei adds these keys to OpenExec's: `command` (of the action `run`), `flake_inputs` (of
//! `update_inputs`), `rev` (of `checkout`), and for every stage `toolset`, `sandbox` (`read_only`, `workspace_write`)
//! and `timeout_class` (`fast`, `medium`, `long`).

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
    AgentRun, Blame, CheckResult, Checker, Checkpoint, Decision, EarlierEvolution, FailedCheck, Job, Journal,
    LastFailure, RunOutcome, StageEvent, StageEventKind, missing,
};
pub use parse::{Problems, parse};
pub use run::{Error, run};
pub use schema::{Action, Blueprint, FAILURES_MAX, RetrySemantics, Sandbox, Stage, Target, Work};
pub use store::{Artifact, clear_run};
pub use yaml::{Place, Problem};
