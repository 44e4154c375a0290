//! Events: the facts that the lifecycle decides about.

use serde::{Deserialize, Serialize};

use super::deployed::Deployed;
use super::effect::Timer;
use super::policy::Policy;
use super::slot::Slot;
use crate::interface::types::{EvolutionId, IncidentClass, ReportId, Severity, Verdict, Version};

/// One fact. It is a journal record before any effect of it is executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The policy that is valid from now on. It comes at every start and at a reload.
    Configured {
        /// The numbers.
        policy: Policy,
    },
    /// A supervisor took over from an earlier one.
    Recovered {
        /// The store path that runs in slot A and in slot B, and whether the instance was ready.
        running: [Option<Running>; 2],
        /// True if the machine was restarted, or the earlier supervisor stopped all instances: then a missing instance
        /// is no fault.
        rebooted: bool,
    },
    /// A supervisor found facts that the journal does not know: records are lost.
    Held(Box<Reality>),
    /// The followed ref names this commit.
    Followed {
        /// The commit, in hex.
        rev: String,
        /// Its tree, in hex.
        tree: String,
    },
    /// A detector found a fault of the version in a slot. It counts if that version is Active. Only `Judged` and
    /// `Exited` decide about a version under trial.
    Found {
        /// The slot. A journal of format 1.1 does not have it: there it is Active's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<Slot>,
        /// The finding.
        #[serde(flatten)]
        finding: Finding,
    },
    /// The verdict about the version under trial, by the evidence since its canary step or window began.
    Judged {
        /// Pass, fail or inconclusive.
        verdict: Verdict,
        /// Why, for a person. If the verdict is inconclusive: what the trial waits for.
        reason: String,
    },
    /// The evidence folder is written.
    Diagnosed {
        /// The evolution.
        evolution: EvolutionId,
        /// Digest of the context.
        context: String,
    },
    /// A blueprint reached a stage. A restarted supervisor continues from there.
    StageReached {
        /// The evolution.
        evolution: EvolutionId,
        /// The name of the stage, for a person.
        stage: String,
        /// The engine's own state, opaque here.
        checkpoint: String,
    },
    /// The blueprint's commit was built.
    Built {
        /// The evolution.
        evolution: EvolutionId,
        /// The built version.
        version: Version,
        /// The commit that the work began from.
        base_rev: String,
        /// Paths that differ from the base.
        files_changed: Vec<String>,
    },
    /// The blueprint reached a stage that needs the decision of an operator.
    BuildPaused {
        /// The evolution.
        evolution: EvolutionId,
        /// The name of the stage, for a person.
        stage: String,
        /// The engine's own state, opaque here.
        checkpoint: String,
    },
    /// The commit of an evolution is known: the commit that the revision of an operator or the followed ref names.
    Aimed {
        /// The evolution.
        evolution: EvolutionId,
        /// The commit, in hex.
        rev: String,
        /// Its tree, in hex.
        tree: String,
    },
    /// A run of an agent is over, with or without success.
    AgentRan {
        /// The evolution.
        evolution: EvolutionId,
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// The question, if the agent has answered it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Question>,
    },
    /// There is no candidate.
    BuildFailed {
        /// The evolution.
        evolution: EvolutionId,
        /// Why, for a person.
        reason: String,
        /// The cause of the failure.
        #[serde(default)]
        fault: Fault,
    },
    /// The judge has made a report.
    Validated {
        /// The evolution.
        evolution: EvolutionId,
        /// The part of the report that decides.
        report: ReportDigest,
    },
    /// The profile has a generation for a store path. It is not current yet.
    GenerationPrepared {
        /// The store path.
        store_path: String,
        /// Its generation.
        generation: u64,
    },
    /// The generation could not be created.
    GenerationFailed {
        /// The store path.
        store_path: String,
        /// Why, for a person.
        reason: String,
    },
    /// A process runs in a slot.
    Started {
        /// The slot.
        slot: Slot,
        /// The instance.
        instance: Instance,
    },
    /// No process could be started in a slot.
    StartFailed {
        /// The slot.
        slot: Slot,
        /// Why, for a person.
        reason: String,
    },
    /// The instance in a slot is ready and serves.
    Ready {
        /// The slot.
        slot: Slot,
    },
    /// The instance in a slot asks for more time to become ready or to end.
    Extended {
        /// The slot.
        slot: Slot,
        /// How much time, from now on, in milliseconds.
        by_ms: u64,
    },
    /// The instance in a slot exited without a stop request.
    Exited {
        /// The slot.
        slot: Slot,
        /// `exit code 2`, `signal 11 (SIGSEGV)`.
        exit: String,
        /// How long it had run, in milliseconds.
        ran_ms: u64,
    },
    /// The instance in a slot exited after a stop request, or the slot had no instance.
    Stopped {
        /// The slot.
        slot: Slot,
        /// True if connections still wait in the queue of the slot. A journal of format 1.1 does not have this field:
        /// there the slot was drained before this event.
        #[serde(default)]
        waiting: bool,
    },
    /// All steps of a plan are done.
    #[serde(rename = "carried")]
    PlanDone {
        /// The plan's number.
        plan: u64,
        /// How long the steps took, in microseconds.
        took_us: u64,
    },
    /// Another program holds the profile's lock. If the plan has `undo`, the steps before that are undone.
    PlanBusy {
        /// The plan's number.
        plan: u64,
        /// Why, for a person.
        reason: String,
    },
    /// A step of a plan failed. If the plan has `undo`, the steps before it are undone.
    PlanFailed {
        /// The plan's number.
        plan: u64,
        /// Why, for a person.
        reason: String,
    },
    /// A timer that was set is due.
    Due(Timer),
    /// A request of an operator. Check it with `Lifecycle::refusal` first.
    Operator {
        /// The caller. Only the request of an operator has an effect.
        who: Caller,
        /// The request.
        request: Request,
    },
}

/// The cause why there is no candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Fault {
    /// The content: it does not evaluate or build, or its checks fail. That is a verdict about it.
    Content {
        /// Its git tree.
        tree: String,
        /// Its store path; empty if it was not built.
        store_path: String,
    },
    /// The blueprint or its agent: it made no version that could be judged.
    #[default]
    Maker,
    /// A repetition: an agent was asked the same question before, so it was not asked again. An operator has to decide.
    Repeat,
    /// The machine or a service that it needs: no network, no Nix daemon, no space, no time. That is no verdict.
    Machine,
}

/// An instance that a new supervisor found in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Running {
    /// The store path it runs from.
    pub store_path: String,
    /// True if it was ready before.
    pub ready: bool,
}

/// A started process, with the facts by which a later supervisor finds it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its start in clock ticks since boot, `/proc/PID/stat` field 22: it distinguishes this process from a later one
    /// with the same pid.
    pub start_ticks: u64,
}

/// The finding of a detector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// The class of the incident.
    pub class: IncidentClass,
    /// The name of the cause, as the detector has it.
    pub cause: String,
    /// The severity.
    pub severity: Severity,
    /// Equal findings have the same fingerprint.
    pub fingerprint: String,
    /// One line for a person.
    pub summary: String,
    /// True if it asks for an evolution; false if it is only recorded.
    pub evolve: bool,
}

/// The part of a ValidationReport that decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportDigest {
    /// Its id.
    pub id: ReportId,
    /// The only store path that the report is about.
    pub store_path: String,
    /// The verdict of all checks together.
    pub verdict: Verdict,
    /// The checks that did not pass, and why, for a person.
    pub summary: String,
}

/// The caller that makes a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Caller {
    /// An operator, by name. A record has the bare name, as when there were no other callers.
    Operator(String),
    /// A process that belongs to an instance or an agent, or of which rei cannot prove that it does not.
    Supervised {
        /// Its id.
        pid: u32,
    },
}

/// The requests of operators.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Begin a new evolution.
    Evolve {
        /// The commit to build; `None` for the followed ref, or for the commit that the blueprint makes.
        rev: Option<String>,
        /// The blueprint; `None` for the one that is configured.
        blueprint: Option<String>,
    },
    /// Let the evolution that waits continue.
    Approve {
        /// The evolution, candidate or report that waits.
        id: String,
    },
    /// End the current evolution and quarantine its candidate, or close an incident.
    Reject {
        /// The evolution, candidate, report or incident.
        id: String,
        /// Why, for the record.
        reason: String,
    },
    /// Make an earlier version Active.
    Rollback {
        /// Its generation; `None` for Previous.
        to: Option<u64>,
    },
    /// Begin no evolution until `Resume`.
    Pause,
    /// Begin evolutions again, and forget that an operator was needed.
    Resume,
    /// Release content from quarantine.
    #[serde(rename = "lift")]
    Release {
        /// The tree hash or store path.
        content: String,
    },
    /// Say which version is Active, if the journal is behind reality.
    Settle {
        /// What the operator trusts.
        trust: Trust,
        /// Why, for the record.
        reason: String,
    },
}

/// The facts that a new supervisor found and that the journal does not know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reality {
    /// The facts that the journal does not explain, each in one line for a person.
    pub facts: Vec<String>,
    /// The instances that run in slot A and in slot B.
    pub running: [Option<FoundInstance>; 2],
    /// The version that serves, and its slot; `None` if no version is there that could serve.
    pub serves: Option<(Slot, Deployed)>,
    /// The highest known number of an evolution, candidate or report: no number is used twice.
    pub numbered: u64,
}

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FoundInstance {
    /// The version.
    pub version: Version,
    /// Its process.
    pub instance: Instance,
    /// True if it serves.
    pub ready: bool,
}

/// What an operator trusts if the journal and reality differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Reality: the version that serves is Active.
    Reality,
    /// The journal: its Active version is Active.
    Journal,
}

/// A question that an agent was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// A digest of the agent, its task and the files.
    pub task: String,
    /// Digests of the facts of the context.
    pub facts: Vec<String>,
}
