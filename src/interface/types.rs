//! The six types of the Runtime Evolution Interface, as they are stored and as they travel.
//!
//! The names are those of the seed; a field that has a unit says it in its name. A field without a source is `null`
//! and named in `unavailable` or `missing`; it is never read as healthy. Every stored object carries [`SCHEMA`], and
//! fields that this version does not know are kept in `other`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zlink::introspect::CustomType;

use crate::time::Timestamp;

/// The version of the stored shapes, `major.minor` after the name.
pub const SCHEMA: &str = "rei/v0.1";

/// The largest message that is read from a runtime, in bytes; a larger one is an incident signal.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id with this number, which the lifecycle counts from 1.
            pub fn numbered(number: u64) -> Self {
                Self(format!(concat!($prefix, "_{:04}"), number))
            }
        }

        impl zlink::introspect::Type for $name {
            const TYPE: &'static zlink::idl::Type<'static> = &zlink::idl::Type::String;
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id!(/// Names an evolution: `evo_0001`.
    EvolutionId, "evo");
id!(/// Names an incident: `inc_0001`.
    IncidentId, "inc");
id!(/// Names an evolution context: `ctx_0001`.
    ContextId, "ctx");
id!(/// Names a candidate: `cand_0001`.
    CandidateId, "cand");
id!(/// Names a validation report: `val_0001`.
    ReportId, "val");
id!(/// Names a maintenance record: `rec_0001`.
    RecordId, "rec");

impl zlink::introspect::Type for Timestamp {
    const TYPE: &'static zlink::idl::Type<'static> = &zlink::idl::Type::String;
}

/// Fields of a newer or foreign writer, kept as they came.
pub type Other = BTreeMap<String, serde_json::Value>;

/// The state a version is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum Role {
    /// Serves.
    Active,
    /// Is being made, judged or tried.
    Candidate,
    /// Served before and can serve again.
    Previous,
}

/// An immutable build of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, CustomType)]
pub struct Version {
    /// The store path, `/nix/store/HASH-NAME`.
    pub store_path: String,
    /// The git commit it was built from, in hex.
    pub rev: String,
    /// The git tree of that commit, in hex: equal trees are equal sources.
    pub tree: String,
    /// The derivation that built it, `/nix/store/HASH-NAME.drv`.
    pub drv: String,
}

/// Which runtime, and which instance of it, an object speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct RuntimeRef {
    /// The name in rei.toml.
    pub name: String,
    /// The store path, if known.
    pub store_path: Option<String>,
    /// The git commit, if known.
    pub commit: Option<String>,
    /// The state of that version.
    pub role: Option<Role>,
    /// The profile generation, if it has one.
    pub generation: Option<u64>,
    /// The instance, if one is meant.
    pub instance: Option<String>,
}

/// How well a runtime does. Ordered from best to worst, `Unknown` outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Serves as it should.
    Ok,
    /// Serves, but worse than its bounds allow.
    Degraded,
    /// Does not serve.
    Failed,
    /// No evidence.
    #[default]
    Unknown,
}

impl HealthStatus {
    /// The worse of two: ok, unknown, degraded, failed. Nothing that is not known becomes ok by being joined.
    pub fn worse_of(self, other: Self) -> Self {
        let rank = |status| match status {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Degraded => 2,
            Self::Failed => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Latencies as a histogram summary, never one average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct LatencySummary {
    /// Measurements in the window.
    pub count: u64,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 90th percentile, in microseconds.
    pub p90_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
    /// The largest, in microseconds.
    pub max_us: u64,
}

/// Requests or probes and how many of them failed, in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ErrorCount {
    /// All of them.
    pub total: u64,
    /// Those that failed.
    pub failed: u64,
}

/// What the process tree of an instance uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct ProcessUsage {
    /// The instance's first process.
    pub pid: Option<u32>,
    /// Time since it was started, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// Times it was started again by the supervisor.
    pub restarts: Option<u64>,
    /// Resident memory of the tree, in bytes.
    pub rss_bytes: Option<u64>,
    /// Open file descriptors of the tree.
    pub fds: Option<u64>,
    /// Processor time of the tree since its start, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Processes in the tree.
    pub processes: Option<u64>,
}

/// A named check inside a health report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct HealthCheck {
    /// Its name.
    pub name: String,
    /// Its result.
    pub status: HealthStatus,
    /// Whether the runtime is failed when it is.
    #[serde(default)]
    pub critical: bool,
    /// What it found, for a person.
    #[serde(default)]
    pub message: Option<String>,
}

/// Something that a policy forbids, done or tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct PolicyAnomaly {
    /// What kind: `unexpected_exec`, `unexpected_file`, `unexpected_network`, `unexpected_tool`, or the runtime's word.
    pub kind: String,
    /// What was done, for a person.
    pub detail: String,
}

/// The answer of `ReportRuntimeHealth`. A runtime may leave out every field but `status`: what is left out has no
/// source, and is never read as healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct RuntimeHealthReport {
    /// The version of this shape: `rei/v0.1`.
    #[serde(default)]
    pub schema: String,
    /// Whose health.
    #[serde(default)]
    pub runtime: RuntimeRef,
    /// Counts the reports of one instance.
    #[serde(default)]
    pub seq: u64,
    /// When it was made.
    #[serde(default)]
    pub observed_at: Timestamp,
    /// The time that the figures cover, in milliseconds.
    #[serde(default)]
    pub window_ms: u64,
    /// `native` (the runtime's own report), `adapter` (the supervisor's evidence) or `joined`.
    #[serde(default)]
    pub provider: String,
    /// The whole in one word.
    pub status: HealthStatus,
    /// Whether it takes work; `null` if this is not known.
    pub ready: Option<bool>,
    /// What its process tree uses.
    #[serde(default)]
    pub process: ProcessUsage,
    /// Latencies by name: `probe` is the supervisor's own measure.
    #[serde(default)]
    pub latency: BTreeMap<String, LatencySummary>,
    /// Requests and failures by name: `probe` is the supervisor's own measure.
    #[serde(default)]
    pub errors: BTreeMap<String, ErrorCount>,
    /// Named checks.
    #[serde(default)]
    pub checks: Vec<HealthCheck>,
    /// Policy anomalies since the report before; `null` if no process looks for them.
    pub policy_anomalies: Option<Vec<PolicyAnomaly>>,
    /// A version (git revision) that the runtime would like to become. The supervisor may ask for an evolution; it
    /// never promotes because of this.
    pub upgrade_wanted: Option<String>,
    /// The signals that have no source.
    #[serde(default)]
    pub unavailable: Vec<String>,
    /// Unknown fields, kept.
    #[serde(flatten)]
    #[zlink(skip)]
    pub other: Other,
}

/// What is wrong, by the seed's four triggers and the request for an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum IncidentClass {
    /// Panic, crash, crash loop, deadlock, hang.
    RuntimeFailure,
    /// Latency, errors, resource growth.
    BehavioralDegradation,
    /// Something that a policy forbids.
    PolicyViolation,
    /// Garbage on the interface, a replay mismatch.
    ObservabilitySignal,
    /// Nothing is wrong: a new version is wanted.
    UpgradeRequest,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Serves, but badly.
    Warning,
    /// Does not serve, or does what it must not.
    Critical,
}

/// A file of evidence with its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Evidence {
    /// Relative to the state directory.
    pub path: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Something that health signals say is wrong with Active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct RuntimeIncident {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// Its id, given by the lifecycle when it opens.
    pub id: IncidentId,
    /// By the seed's triggers.
    pub class: IncidentClass,
    /// The detector's word: `crash`, `crash_loop`, `hang`, `latency`, `errors`, `memory_growth`, `fd_growth`,
    /// `policy_anomaly`, `interface_garbage`.
    pub cause: String,
    /// How bad.
    pub severity: Severity,
    /// Whose.
    pub runtime: RuntimeRef,
    /// `sha256:` and the digest of kind, signal or panic message, and top frames: equal incidents have equal ones.
    pub fingerprint: String,
    /// When the first signal came.
    pub first_seen: Timestamp,
    /// When the last signal came.
    pub last_seen: Timestamp,
    /// How often it was seen.
    pub occurrences: u64,
    /// One line for a person.
    pub summary: String,
    /// Evidence that was taken at the moment of detection.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

/// One parsed stack trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct StackTrace {
    /// `rust`, `go`, `python`, `java`, `node`, `ruby`, `php`, `dotnet`, `elixir`, `erlang`, `c++`, `c`, `sanitizer` or
    /// `other`.
    pub language: String,
    /// The panic message or exception.
    pub reason: String,
    /// Function names (with file and line if given), innermost first.
    pub frames: Vec<String>,
    /// Thread or goroutine, if named.
    pub thread: Option<String>,
}

/// The incident's exchanges replayed against Active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ReproductionRun {
    /// The golden-run file that holds the exchanges, relative to the state directory.
    pub path: String,
    /// How often it was tried.
    pub tries: u64,
    /// How often it failed as the incident did.
    pub failures: u64,
    /// Whether it fails every time; `null` when it could not be run.
    pub reproduces: Option<bool>,
    /// What it showed, for a person.
    pub detail: String,
}

/// Everything that is known about an incident when a repair begins. A runtime may leave out every field: it gives what
/// it has in `runtime_context`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct EvolutionContext {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// Its id.
    pub id: ContextId,
    /// The incident; `null` for an upgrade.
    pub incident_id: Option<IncidentId>,
    /// The incident itself, as it stood.
    pub incident: Option<RuntimeIncident>,
    /// `supervisor`, or `runtime` for the part that the runtime gives.
    pub collected_by: String,
    /// Whether nothing is in `missing`.
    pub complete: bool,
    /// What could not be had, by name.
    pub missing: Vec<String>,
    /// The log tail, redacted.
    pub logs: Vec<Evidence>,
    /// Traces parsed out of the log.
    pub stack_traces: Vec<StackTrace>,
    /// How the process ended: `exit code 2`, `signal 11 (SIGSEGV)`.
    pub exit_status: Option<String>,
    /// Reproductions, each tried on Active in a sandbox.
    pub reproduction_runs: Vec<ReproductionRun>,
    /// The last health reports, oldest first.
    pub health: Vec<RuntimeHealthReport>,
    /// Active's source.
    pub source: Option<Version>,
    /// Maintenance records of earlier incidents with the same fingerprint. rei gives none: an agent has no journal to look
    /// them up in, so why earlier repairs were refused is told to it in words, with its task.
    pub memory: Vec<RecordId>,
    /// What the runtime itself answered to `CollectEvolutionContext`.
    pub runtime_context: Option<serde_json::Value>,
    /// How many secrets were taken out.
    pub redactions: u64,
    /// `sha256:` and the digest of all fields above as JSON.
    pub digest: String,
}

/// A version that might become Active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct CandidateRuntime {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// Its id.
    pub id: CandidateId,
    /// The evolution that made it.
    pub evolution_id: EvolutionId,
    /// The incident it repairs; `null` for an upgrade.
    pub incident_id: Option<IncidentId>,
    /// Digest of the context it was made from; `null` for an upgrade.
    pub context_digest: Option<String>,
    /// What it is.
    pub version: Version,
    /// The store path of Active when it was made.
    pub parent: String,
    /// The commit of Active that the work began from.
    pub base_rev: String,
    /// Paths that differ from the base.
    pub files_changed: Vec<String>,
    /// The blueprint that made it.
    pub blueprint: String,
    /// When it was built.
    pub created_at: Timestamp,
}

/// The word of one check, and of a whole report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// Not enough is known; never promotes.
    Inconclusive,
}

/// One check of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct CheckResult {
    /// `unit`, `boot`, `golden/NAME`, `reproduction`, …
    pub name: String,
    /// Its word.
    pub verdict: Verdict,
    /// One line for a person: what was found, or why nothing could be.
    pub summary: String,
    /// Findings, most telling first, for a person.
    #[serde(default)]
    pub details: Vec<String>,
    /// The derivation that gave the verdict; `null` if it is decided without one.
    pub drv: Option<String>,
    /// Wall time, in milliseconds; `null` when an earlier verdict was reused or nobody measured.
    pub duration_ms: Option<u64>,
}

/// The answer of `ValidateCandidate`. Bound to one store path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ValidationReport {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// Its id.
    pub id: ReportId,
    /// The candidate.
    pub candidate_id: CandidateId,
    /// The only store path that the report is about.
    pub store_path: String,
    /// The store path of Active, with which the candidate was compared.
    pub active_store_path: String,
    /// `supervisor`; a report of a runtime is advice.
    pub validator: String,
    /// Pass if and only if every check passes.
    pub verdict: Verdict,
    /// Every check of the plan, in its order.
    pub checks: Vec<CheckResult>,
    /// When the judge began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What was done about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, CustomType)]
#[serde(rename_all = "snake_case")]
#[zlink(rename_all = "snake_case")]
pub enum MaintenanceAction {
    /// A candidate became Active and stayed.
    Promoted,
    /// A candidate was refused.
    Rejected,
    /// The commit's build is Active's own: there was nothing to judge, and Active is what it was.
    Unchanged,
    /// A candidate became Active, or had traffic, and Previous was restored.
    RolledBack,
    /// Active was started again.
    Restarted,
    /// There is no verdict, for no fault of the commit or repair: it is tried again later, or an operator is needed.
    Deferred,
}

/// One entry of the operational memory, derived from the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct RuntimeMaintenanceRecord {
    /// The version of this shape: `rei/v0.1`.
    pub schema: String,
    /// Its id.
    pub id: RecordId,
    /// The incident, if one led to it.
    pub incident_id: Option<IncidentId>,
    /// The evolution, if it was one.
    pub evolution_id: Option<EvolutionId>,
    /// The candidate, if there was one.
    pub candidate_id: Option<CandidateId>,
    /// The report, if there was one.
    pub validation_id: Option<ReportId>,
    /// What was done.
    pub action: MaintenanceAction,
    /// `supervisor` or `operator:NAME`.
    pub decided_by: String,
    /// Why, for a person.
    pub reason: String,
    /// Active before.
    pub from: Option<Version>,
    /// Active after.
    pub to: Option<Version>,
    /// When.
    pub at: Timestamp,
    /// The journal entry that it is read from.
    pub journal_seq: u64,
}
