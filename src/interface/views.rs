//! What an operator sees: the replies of `io.openexec.Supervisor`, which are also the shapes of `--json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zlink::introspect::CustomType;

use super::types::{
    CandidateId, Evidence, EvolutionId, IncidentId, LatencySummary, MaintenanceAction, ProcessUsage, ReportId, Role,
    RuntimeHealthReport, RuntimeIncident, Version,
};
use crate::time::Timestamp;

/// The phase of the lifecycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was ever installed.
    Empty,
    /// The first version is built, then started.
    Installing,
    /// No evolution is under way.
    #[default]
    Steady,
    /// The evidence of an incident is collected.
    Diagnosing,
    /// A blueprint makes a candidate and Nix builds it.
    Building,
    /// The candidate is judged.
    Validating,
    /// An operator has to say yes or no.
    AwaitingApproval,
    /// The candidate has no connections, and is asked once more what users ask Active.
    Shadow,
    /// The candidate has a share of the new connections.
    Canary,
    /// The switch to the candidate is under way.
    Promoting,
    /// The candidate has all new connections, and Previous is warm.
    Observing,
    /// Previous is being restored.
    RollingBack,
    /// The journal is older than the running version, which continues to serve. An operator has to say what is Active.
    Held,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Empty => "empty",
            Self::Installing => "installing",
            Self::Steady => "steady",
            Self::Diagnosing => "diagnosing",
            Self::Building => "building",
            Self::Validating => "validating",
            Self::AwaitingApproval => "awaiting approval",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Promoting => "promoting",
            Self::Observing => "observing",
            Self::RollingBack => "rolling back",
            Self::Held => "held",
        })
    }
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum InstanceState {
    /// Started, not ready.
    Starting,
    /// Ready, with new connections.
    Serving,
    /// Ready, without new connections.
    Standby,
    /// Asked to end.
    Stopping,
    /// Waits to be started again.
    Backoff,
}

/// One running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct InstanceStatus {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub state: InstanceState,
    /// When it was started; `null` while it waits to be.
    pub started_at: Option<Timestamp>,
    /// What its process tree uses.
    pub usage: ProcessUsage,
    /// Bytes that it printed and that are not in its log: too fast for the log or for the disk, or the disk was full, or the
    /// logger was away for too long. The log says where they are missing.
    #[serde(default)]
    pub log_dropped_bytes: Option<u64>,
}

/// A version in one of the three states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomType)]
pub struct VersionStatus {
    /// What it is.
    pub version: Version,
    /// Its state.
    pub role: Role,
    /// The profile generation; `null` before promotion.
    pub generation: Option<u64>,
    /// The slot whose listeners it has, `a` or `b`; `null` while it does not run.
    pub slot: Option<String>,
    /// Its share of the new connections, 0 to 1.
    pub share: f64,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
    /// The requests of users that it served in the last minute, one entry for each source that sees them.
    #[serde(default)]
    pub traffic: Vec<TrafficStatus>,
}

/// The requests of users that a version served, as one source saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct TrafficStatus {
    /// The source: `metrics`, `log` or `tap`. The tap sees a share of the connections only.
    pub source: String,
    /// The time that the counts cover, in milliseconds.
    pub window_ms: u64,
    /// Requests.
    pub requests: u64,
    /// Of these: answered with 3xx.
    pub redirects: u64,
    /// Of these: answered with 4xx.
    pub client_errors: u64,
    /// Of these: answered with 5xx, or not answered.
    pub failed: u64,
    /// How long they took.
    pub latency: LatencySummary,
    /// The routes with most failures, then with most requests; at most 8.
    pub routes: Vec<RouteStatus>,
    /// Lines or series that the source could not read.
    pub unread: u64,
    /// What the source found of requests and durations, and what not; empty if it does not say it.
    #[serde(default)]
    pub found: String,
    /// Lines of the log with level error or worse; 0 for the other sources.
    #[serde(default)]
    pub error_lines: u64,
    /// Their messages: those that the version before did not write, then the most frequent; at most 8.
    #[serde(default)]
    pub errors: Vec<ErrorStatus>,
}

/// One message of error lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ErrorStatus {
    /// The message; numbers and identifiers are `{}`, secrets are taken out.
    pub message: String,
    /// Lines with it.
    pub lines: u64,
    /// Whether the version is on trial and the version before did not write it.
    pub is_new: bool,
}

/// The requests of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct RouteStatus {
    /// Method and path template; numbers and identifiers are `{}`.
    pub route: String,
    /// Requests.
    pub requests: u64,
    /// Of these: answered with 5xx, or not answered.
    pub failed: u64,
    /// The 99th percentile of their durations, in microseconds.
    pub p99_us: u64,
}

/// A golden run that was replayed on Active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct GoldenQualified {
    /// The file of the qualified run.
    pub path: String,
    /// Its exchanges.
    pub kept: u64,
    /// Exchanges that Active did not repeat, also in earlier qualifications.
    pub dropped: u64,
    /// One line for a person.
    pub summary: String,
    /// The dropped exchanges, each with its reason; at most 22 lines.
    pub details: Vec<String>,
}

/// A recording of live traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct GoldenRecording {
    /// The name of its run.
    pub name: String,
    /// The listener whose requests it takes.
    pub listener: String,
    /// Whether it is the standing sample of rei.toml.
    pub standing: bool,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ends by itself; `null` for the standing sample.
    pub until: Option<Timestamp>,
    /// Exchanges that the sample was taken from.
    pub seen: u64,
    /// Exchanges of the sample.
    pub kept: u64,
    /// The most exchanges of the sample.
    pub limit: u64,
    /// Whether it takes nothing now, because a version is under trial.
    pub paused: bool,
    /// Requests that the tap saw during such pauses.
    pub paused_requests: u64,
    /// Exchanges that could not be copied whole: too large, not complete, of another protocol, or not decodable.
    pub not_copied: u64,
    /// When it was last written; `null` if it was not.
    pub written_at: Option<Timestamp>,
    /// Exchanges of the written file.
    pub written: u64,
    /// Exchanges of the sample that are not in the file, because they cannot be examined for secrets.
    pub not_redactable: u64,
    /// The file; `null` if there is none.
    pub path: Option<String>,
    /// Why it has ended, or why it cannot record; `null` while it records.
    pub ended: Option<String>,
}

/// The evolution that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct EvolutionStatus {
    /// Its id.
    pub id: EvolutionId,
    /// The incident that it answers; `null` for an upgrade.
    pub incident_id: Option<IncidentId>,
    /// The blueprint that makes the candidate.
    pub blueprint: String,
    /// The stage, check or canary step that runs; `null` between them.
    pub step: Option<String>,
    /// The attempt at that step, from 1.
    pub attempt: u64,
    /// The candidate, once there is one.
    pub candidate_id: Option<CandidateId>,
    /// The report, once there is one.
    pub report_id: Option<ReportId>,
    /// What was compared of the requests that were asked once more, for a person; `null` if none are asked.
    #[serde(default)]
    pub shadow: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
}

/// What is left of the evolution budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct BudgetStatus {
    /// Evolutions that may begin within this hour.
    pub left: u64,
    /// The bound of one hour.
    pub per_hour: u64,
    /// When the next one comes free; `null` while some are left.
    pub next_at: Option<Timestamp>,
    /// Fingerprints of incidents whose own budget is spent.
    pub spent_fingerprints: Vec<String>,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ListenStatus {
    /// Its name in rei.toml.
    pub name: String,
    /// As in rei.toml: `127.0.0.1:8080`, `udp:127.0.0.1:53`, `unix:/run/x.sock`.
    pub address: String,
}

/// What the state directory takes, when it was looked at last: after the start, and after each evolution. The runtime's
/// own files in it are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct StateStatus {
    /// The directory.
    pub directory: String,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
    /// What of that is evidence of evolutions and incidents, in bytes.
    pub evidence_bytes: u64,
    /// The bound of it: `state.evidence`.
    pub evidence_bytes_max: u64,
    /// Evolutions that are kept with their evidence.
    pub runs: u64,
    /// The bound of them: `state.runs`.
    pub runs_max: u64,
    /// When this was so.
    pub measured_at: Timestamp,
}

/// The supervisor itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct SupervisorStatus {
    /// Its process.
    pub pid: u32,
    /// The version of rei.
    pub version: String,
    /// When it began to supervise.
    pub started_at: Timestamp,
    /// Time since then, in milliseconds.
    pub uptime_ms: u64,
    /// Its resident memory, in bytes; `null` when it cannot be read.
    pub rss_bytes: Option<u64>,
}

/// The whole state in one view.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomType)]
#[zlink(rename = "StatusView")] // In a definition file a type cannot have the name of a method.
pub struct Status {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// The name of the runtime in rei.toml.
    pub runtime: String,
    /// The phase of the lifecycle.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// What it waits for, for a person; `null` when for nothing.
    pub waits_for: Option<String>,
    /// When the phase ends by itself; `null` if nothing ends it.
    pub deadline: Option<Timestamp>,
    /// The version that serves; `null` before the first.
    pub active: Option<VersionStatus>,
    /// The version that is made, judged or tried.
    pub candidate: Option<VersionStatus>,
    /// The version that can serve again.
    pub previous: Option<VersionStatus>,
    /// Active's health; `null` before the first report.
    pub health: Option<RuntimeHealthReport>,
    /// Incidents that are not closed, oldest first.
    pub open_incidents: Vec<RuntimeIncident>,
    /// The evolution that is under way.
    pub evolution: Option<EvolutionStatus>,
    /// Why an operator is needed, for a person; `null` when none is.
    pub attention: Option<String>,
    /// Whether evolutions are held back by `Pause`.
    pub paused: bool,
    /// What is left of the evolution budget.
    pub budget: BudgetStatus,
    /// How many candidates are quarantined.
    pub quarantined: u64,
    /// The listening addresses.
    pub listen: Vec<ListenStatus>,
    /// The recordings of live traffic: the one that is under way or ended last, and the standing sample.
    #[serde(default)]
    pub recordings: Vec<GoldenRecording>,
    /// What the state directory takes; `null` until it was looked at.
    pub state: Option<StateStatus>,
    /// The supervisor itself.
    pub supervisor: SupervisorStatus,
}

/// What an operator trusts if the journal is behind reality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum Trust {
    /// What serves is Active.
    Reality,
    /// What the journal says is Active.
    Journal,
}

/// One evolution or maintenance act, newest first in `History`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct HistoryEntry {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// What `Show` takes: `evo_0001`, or `rec_0001` for an act without an evolution.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `null` while it runs.
    pub finished_at: Option<Timestamp>,
    /// What was done; `null` while it runs.
    pub action: Option<MaintenanceAction>,
    /// One line for a person.
    pub summary: String,
    /// `supervisor` or `operator:NAME`; `null` while it runs.
    pub decided_by: Option<String>,
    /// The incident, if one led to it.
    pub incident_id: Option<IncidentId>,
    /// The candidate, if there was one.
    pub candidate_id: Option<CandidateId>,
    /// The report, if there was one.
    pub report_id: Option<ReportId>,
    /// Active before.
    pub from: Option<Version>,
    /// Active after; `null` while it runs.
    pub to: Option<Version>,
}

/// What kind of object `Show` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum ShowKind {
    /// A [`HistoryEntry`] with its `steps`.
    Evolution,
    /// A [`RuntimeIncident`].
    Incident,
    /// An `EvolutionContext`.
    Context,
    /// A `CandidateRuntime`.
    Candidate,
    /// A `ValidationReport`.
    Report,
    /// A `RuntimeMaintenanceRecord`.
    Record,
}

/// One object with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ShowReply {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// What `object` is.
    pub kind: ShowKind,
    /// Its id.
    pub id: String,
    /// The object, of the type that `kind` names.
    pub object: Value,
    /// The files that belong to it.
    pub evidence: Vec<Evidence>,
}

/// Something that happened, as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct MonitorEvent {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// The journal entry it is read from, or 0 for what is not journalled.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What kind, in snake case: `phase`, `incident`, `instance`, `progress`, `verdict`, `decision`, `log`, …
    pub kind: String,
    /// One line for a person.
    pub text: String,
    /// The facts. Of an entry of the journal: `event` and `effects`, as they are stored, and `stands`, which says
    /// where the lifecycle stands after it: its `phase` with the stage, and the `evolution` under way. Of progress that
    /// can be counted: `done` and `total`.
    pub data: Value,
}

/// A candidate that is never built, judged or promoted again unless an operator releases it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct QuarantineEntry {
    /// The candidate.
    pub candidate_id: CandidateId,
    /// The git tree, in hex.
    pub tree: String,
    /// The store path; `null` when it was refused before it was built.
    pub store_path: Option<String>,
    /// Why, for a person.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}
