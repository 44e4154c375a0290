//! The numbers that the decisions of the lifecycle use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::interface::types::IncidentClass;

/// The part of an operator's configuration that the lifecycle needs. It is journalled, so that replay needs no file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// True if the candidate starts beside Active.
    pub overlap: bool,
    /// What stays of Previous during the window.
    pub standby: Standby,
    /// True if an operator must approve a candidate that passed.
    pub approve: bool,
    /// How long the candidate is asked what users ask Active, before it gets a share, in milliseconds; `None` for not at
    /// all, as in earlier journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_ms: Option<u64>,
    /// The canary steps: shares of new connections, each with its time, before the candidate gets all connections.
    pub canary: Vec<CanaryStep>,
    /// The observation window, in milliseconds.
    pub observe_ms: u64,
    /// How long a step or the window may wait for data after its time, in milliseconds.
    pub hold_ms: u64,
    /// What to do if the data do not suffice after that time.
    pub on_inconclusive: OnInconclusive,
    /// Profile generations that are kept.
    pub keep_generations: u64,
    /// Evolutions for one fingerprint.
    pub per_incident: u64,
    /// Evolutions in any one hour.
    pub per_hour: u64,
    /// Runs of agents in any one hour after which no repair begins.
    #[serde(default = "unbounded")]
    pub agent_runs: u64,
    /// Time of agents in any one hour after which no repair begins, in milliseconds.
    #[serde(default = "unbounded")]
    pub agent_ms: u64,
    /// Tries in a row that come to no verdict before an operator is needed.
    #[serde(default = "one")]
    pub tries: u32,
    /// The pause before a second try after a failure that the content did not cause, in milliseconds. It doubles each
    /// time.
    #[serde(default)]
    pub retry_ms: u64,
    /// The longest such pause, in milliseconds.
    #[serde(default)]
    pub retry_max_ms: u64,
    /// The blueprint for incident classes without a blueprint of their own; if `None`, an operator has to decide.
    pub incident_blueprint: Option<String>,
    /// The blueprint of one class.
    pub class_blueprint: BTreeMap<IncidentClass, String>,
    /// The blueprint for a new commit.
    pub upgrade_blueprint: String,
    /// The bounds of the phases, in milliseconds.
    pub bounds: Bounds,
}

/// The default for earlier journals, which have no such bound.
const fn unbounded() -> u64 {
    u64::MAX
}

/// The default for earlier journals, which have no second try.
const fn one() -> u32 {
    1
}

/// The bounds of the phases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bounds {
    /// The bound of Diagnosing.
    pub diagnose_ms: u64,
    /// The bound of Building, for the blueprint and Nix together.
    pub build_ms: u64,
    /// The bound of Validating.
    pub validate_ms: u64,
    /// The bound from the start of an instance until it is ready.
    pub start_ms: u64,
    /// The bound from the stop request to the exit of an instance.
    pub stop_ms: u64,
    /// The first pause before an instance is started once more; doubles each time. The first restart has none.
    pub backoff_ms: u64,
    /// The longest pause before a restart.
    pub backoff_max_ms: u64,
    /// If an instance ran at least this long, its backoff begins again with the first pause.
    pub stable_ms: u64,
    /// The pause between verdicts while a step or the window waits for data.
    pub recheck_ms: u64,
}

/// What stays of Previous during the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// The process of Previous.
    Keep,
    /// A new process of Previous.
    Fresh,
    /// No process; a rollback must first start one.
    Cold,
}

/// One canary step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CanaryStep {
    /// The candidate's share of new connections, in parts per million.
    pub share_ppm: u32,
    /// How long the step takes, in milliseconds.
    pub for_ms: u64,
}

/// What to do if the data do not suffice at the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Ask an operator.
    Ask,
    /// Continue with the candidate.
    Promote,
    /// Restore Previous.
    Revert,
}
