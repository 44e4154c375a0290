//! Blueprints: the staged recipe that turns an EvolutionContext into a commit on a candidate branch.

pub mod confine;
mod convert;
mod fields;
mod graph;
pub mod library;
pub mod machine;
mod parse;
mod schema;
mod yaml;

#[cfg(test)]
mod tests;

pub use parse::{Problems, parse};
pub use schema::{Action, Blueprint, FAILURES_MAX, RetrySemantics, Sandbox, Stage, Target, Work};
pub use yaml::{Place, Problem};
