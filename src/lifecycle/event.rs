//! Events: the facts that the lifecycle decides about.

use serde::{Deserialize, Serialize};

use super::deployed::Deployed;
use super::effect::Timer;
use super::policy::Policy;
use super::slot::Slot;
use crate::interface::types::{EvolutionId, IncidentClass, ReportId, Severity, Verdict, Version};

/// One fact. Each is a journal record before any effect that follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The policy that holds from now on: at every start, and at a reload.
    Configured {
        /// The numbers.
        policy: Policy,
    },
    /// A supervisor took over what an earlier one left.
    Recovered {
        /// The store path that runs in slot A and in slot B, and whether it was ready.
        running: [Option<Running>; 2],
        /// Whether the machine was restarted, or the earlier supervisor stopped all instances: then none is to blame for not
        /// being there.
        rebooted: bool,
    },
    /// A supervisor found what the journal does not know: records are lost.
    Held(Box<Reality>),
    /// The followed ref names this commit.
    Followed {
        /// The commit, in hex.
        rev: String,
        /// Its tree, in hex.
        tree: String,
    },
    /// A detector found something wrong with the version in a slot. It counts if that is Active. A version under trial is
    /// decided about by `Judged` and `Exited` alone.
    Found {
        /// The slot. A journal of format 1.1 does not say it: there it is Active's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<Slot>,
        /// What was found.
        #[serde(flatten)]
        finding: Finding,
    },
    /// What the evidence says of the version under trial, since its canary step or window began.
    Judged {
        /// Pass, fail or inconclusive.
        verdict: Verdict,
        /// Why, for a person; for an inconclusive one, what it waits for.
        reason: String,
    },
    /// The evidence folder is written.
    Diagnosed {
        /// For this evolution.
        evolution: EvolutionId,
        /// Digest of the context.
        context: String,
    },
    /// A blueprint came to a stage: where a restarted supervisor goes on.
    StageReached {
        /// Of this evolution.
        evolution: EvolutionId,
        /// The name of the stage, for a person.
        stage: String,
        /// The engine's own state, opaque here.
        checkpoint: String,
    },
    /// The blueprint's commit was built.
    Built {
        /// By this evolution.
        evolution: EvolutionId,
        /// The result.
        version: Version,
        /// The commit that the work began from.
        base_rev: String,
        /// Paths that differ from it.
        files_changed: Vec<String>,
    },
    /// The blueprint came to a stage that an operator decides.
    BuildPaused {
        /// Of this evolution.
        evolution: EvolutionId,
        /// The name of the stage, for a person.
        stage: String,
        /// The engine's own state, opaque here.
        checkpoint: String,
    },
    /// The commit that an evolution is about is known: what an operator's words or the followed ref mean.
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
        /// For this evolution.
        evolution: EvolutionId,
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// What it was asked, where it has answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Question>,
    },
    /// There is no candidate.
    BuildFailed {
        /// Of this evolution.
        evolution: EvolutionId,
        /// Why, for a person.
        reason: String,
        /// Whose failure it is.
        #[serde(default)]
        fault: Fault,
    },
    /// The judge has spoken.
    Validated {
        /// For this evolution.
        evolution: EvolutionId,
        /// The report, as much of it as decides.
        report: ReportDigest,
    },
    /// The profile has a generation for a store path, not yet current.
    GenerationPrepared {
        /// The store path.
        store_path: String,
        /// Its generation.
        generation: u64,
    },
    /// The profile could not get a generation.
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
    /// The instance in a slot serves.
    Ready {
        /// The slot.
        slot: Slot,
    },
    /// The instance in a slot asks for more time to become ready or to end.
    Extended {
        /// The slot.
        slot: Slot,
        /// From now on, in milliseconds.
        by_ms: u64,
    },
    /// The instance in a slot exited, and nobody had asked it to.
    Exited {
        /// The slot.
        slot: Slot,
        /// `exit code 2`, `signal 11 (SIGSEGV)`.
        exit: String,
        /// How long it had run, in milliseconds.
        ran_ms: u64,
    },
    /// The instance in a slot exited as it was asked to, or no instance was there to be asked.
    Stopped {
        /// The slot.
        slot: Slot,
        /// Whether connections still wait in the queue of the slot. A journal of format 1.1 does not say it: there the
        /// slot was drained before this event.
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
    /// Another program holds the profile's lock. If the plan says so, the steps before that are undone.
    PlanBusy {
        /// The plan's number.
        plan: u64,
        /// Why, for a person.
        reason: String,
    },
    /// A step of a plan failed; where the plan says so, the steps before it are undone.
    PlanFailed {
        /// The plan's number.
        plan: u64,
        /// Why, for a person.
        reason: String,
    },
    /// A timer that was set is due.
    Due(Timer),
    /// An operator wants something. Check it with `Lifecycle::refusal` first.
    Operator {
        /// Who. Only an operator's request does anything.
        who: Caller,
        /// What.
        request: Request,
    },
}

/// Who is to blame that there is no candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Fault {
    /// The content's own: it does not evaluate or build, or its checks fail. That is a verdict about it.
    Content {
        /// Its git tree.
        tree: String,
        /// Its store path; empty where it was not built.
        store_path: String,
    },
    /// The blueprint's or its agent's: nothing was made that could be judged.
    #[default]
    Maker,
    /// Nobody's: an agent was asked the same before, so it was not asked. An operator has to know better.
    Repeat,
    /// The machine's, or of what it needs: no network, no Nix daemon, no space, no time. That is no verdict.
    Machine,
}

/// What a new supervisor found in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Running {
    /// The store path it runs from.
    pub store_path: String,
    /// Whether it had become ready.
    pub ready: bool,
}

/// A process that was started, as a later supervisor needs it to find it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its start in clock ticks since boot, `/proc/PID/stat` field 22: tells it from a later process with the same pid.
    pub start_ticks: u64,
}

/// What a detector found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// By the seed's triggers.
    pub class: IncidentClass,
    /// The detector's word.
    pub cause: String,
    /// How bad.
    pub severity: Severity,
    /// Equal findings have equal ones.
    pub fingerprint: String,
    /// One line for a person.
    pub summary: String,
    /// Whether it is enough for an evolution, or only to be remembered.
    pub evolve: bool,
}

/// The part of a ValidationReport that decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportDigest {
    /// Its id.
    pub id: ReportId,
    /// The only store path it speaks of.
    pub store_path: String,
    /// The whole in one word.
    pub verdict: Verdict,
    /// The checks that did not pass, and why, for a person.
    pub summary: String,
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Caller {
    /// An operator, by name. A record has the bare name, as when there were no other callers.
    Operator(String),
    /// A process that is an instance's or an agent's, or of which nobody knows that it is not.
    Supervised {
        /// Its id.
        pid: u32,
    },
}

/// What an operator can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// A new evolution.
    Evolve {
        /// The commit to become; `None` for the followed ref or what the blueprint makes.
        rev: Option<String>,
        /// The blueprint; `None` for the one that is configured.
        blueprint: Option<String>,
    },
    /// Let the evolution that waits go on.
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
    /// Take content out of quarantine.
    Lift {
        /// The tree hash or store path.
        content: String,
    },
    /// Say what is Active, where the journal is behind reality.
    Settle {
        /// What is trusted.
        trust: Trust,
        /// Why, for the record.
        reason: String,
    },
}

/// What a new supervisor found beside a journal that does not know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reality {
    /// What the journal does not account for, each in a line for a person.
    pub facts: Vec<String>,
    /// What runs in slot A and in slot B.
    pub running: [Option<Found>; 2],
    /// The version that serves, and its slot; `None` when nothing is there that could.
    pub serves: Option<(Slot, Deployed)>,
    /// The highest number that an evolution, candidate or report is known by: numbers are not used twice.
    pub numbered: u64,
}

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub version: Version,
    /// Its process.
    pub instance: Instance,
    /// Whether it serves.
    pub ready: bool,
}

/// What an operator trusts where the journal and reality disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// What serves is Active.
    Reality,
    /// What the journal says is Active.
    Journal,
}

/// What an agent was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// A digest of the agent, its task and the files.
    pub task: String,
    /// Digests of the facts that the context told.
    pub facts: Vec<String>,
}
