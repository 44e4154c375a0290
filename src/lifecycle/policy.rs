//! The numbers that the lifecycle decides by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::interface::types::IncidentClass;

/// What an operator configured, as far as the lifecycle needs it. Journalled, so that replay needs no file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the candidate starts beside Active.
    pub overlap: bool,
    /// What stays of Previous during the window.
    pub standby: Standby,
    /// Whether an operator must approve a passing candidate.
    pub approve: bool,
    /// Shares of new connections before all of them, with how long.
    pub canary: Vec<CanaryStep>,
    /// The observation window, in milliseconds.
    pub observe_ms: u64,
    /// How long a step or the window may wait for data after its time, in milliseconds.
    pub hold_ms: u64,
    /// What happens then.
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
    /// The pause before a second try of what failed for no fault of the content, in milliseconds; doubles each time.
    #[serde(default)]
    pub retry_ms: u64,
    /// The longest such pause, in milliseconds.
    #[serde(default)]
    pub retry_max_ms: u64,
    /// The blueprint for incident classes without one of their own; `None` asks an operator.
    pub incident_blueprint: Option<String>,
    /// The blueprint of one class.
    pub class_blueprint: BTreeMap<IncidentClass, String>,
    /// The blueprint for a new commit.
    pub upgrade_blueprint: String,
    /// The bounds of the phases, in milliseconds.
    pub bounds: Bounds,
}

/// Earlier journals have no such bound.
const fn unbounded() -> u64 {
    u64::MAX
}

/// Earlier journals have no second try.
const fn one() -> u32 {
    1
}

/// The bounds of the phases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bounds {
    /// Of Diagnosing.
    pub diagnose_ms: u64,
    /// Of Building, blueprint and Nix together.
    pub build_ms: u64,
    /// Of Validating.
    pub validate_ms: u64,
    /// From start to ready.
    pub start_ms: u64,
    /// From the request to exit to the exit of an instance.
    pub stop_ms: u64,
    /// The first pause before an instance is started once more; doubles each time. The first restart has none.
    pub backoff_ms: u64,
    /// The longest pause.
    pub backoff_max_ms: u64,
    /// An instance that ran this long starts anew with the backoff.
    pub stable_ms: u64,
    /// The pause between verdicts while a step or the window waits for data.
    pub recheck_ms: u64,
}

/// What stays of Previous during the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// Its process.
    Keep,
    /// A fresh process.
    Fresh,
    /// Nothing; a rollback pays a start.
    Cold,
}

/// One canary step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CanaryStep {
    /// Of the new connections, in parts per million.
    pub share_ppm: u32,
    /// How long, in milliseconds.
    pub for_ms: u64,
}

/// What to do when the data do not suffice at the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Ask an operator.
    Ask,
    /// Go on.
    Promote,
    /// Restore Previous.
    Revert,
}
