//! A world for the lifecycle: slots, profile, judge and operator, as far as decisions depend on them.
//!
//! The world answers every effect, in every order, with every outcome, and its supervisor may crash between any two effects. It
//! checks while it acts: it lists forbidden effects in `broken`.

#[path = "causes.rs"]
mod causes;
#[path = "effects.rs"]
mod effects;
#[path = "holds.rs"]
mod holds;
#[path = "loss.rs"]
pub mod loss;

use std::collections::{BTreeMap, BTreeSet};

use rei::interface::types::{EvolutionId, MaintenanceAction, ReportId, Verdict, Version};
use rei::lifecycle::{
    Approval, Bounds, Caller, CanaryStep, Effect, Event, Fault, Finding, Lifecycle, Maintenance, OnInconclusive, Phase,
    Plan, Policy, Quarantined, ReportDigest, Request, Routing, RunState, Running, Slot, Standby, Step, Timer, Trust,
};
use rei::time::Timestamp;

/// The model has a constant time. Actions choose freely whatever depends on time, so every timing is covered.
pub const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

/// How often each kind of event may still happen, so that the space is finite.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub commits: u8,
    pub findings: u8,
    pub exits: u8,
    pub crashes: u8,
    pub requests: u8,
    pub failures: u8,
    pub rechecks: u8,
    pub losses: u8,
    /// The slots in whose queue connections still wait after the exit of their instance.
    pub waits: u8,
}

/// A slow effect that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    Install(EvolutionId),
    Diagnose(EvolutionId),
    Build(EvolutionId),
    Validate(EvolutionId, Judged, ReportId),
    Prepare(String),
    Judge,
}

/// The subject of a report: the build, and the commit whose files and checks were compared with Active's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Judged {
    pub store_path: String,
    pub rev: String,
    pub tree: String,
}

impl Judged {
    fn of(version: &Version) -> Self {
        let Version { store_path, rev, tree, .. } = version.clone();
        Self { store_path, rev, tree }
    }
}

/// A process in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub store_path: String,
    pub ready: bool,
    pub asked_to_end: bool,
    /// The instance only drains the queue of the slot.
    pub drains: bool,
}

/// The lifecycle and everything around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub core: Lifecycle,
    pub left: Left,
    pub processes: [Option<Process>; 2],
    pub stopping: [bool; 2],
    pub routing: Option<Routing>,
    pub current: Option<u64>,
    pub generations: Vec<(u64, String)>,
    pub tasks: BTreeSet<Task>,
    pub plan: Option<Plan>,
    pub first: Option<Judged>,
    pub passed: BTreeSet<Judged>,
    pub built: u8,
    /// Whether an evolution ended without a judgement, because its build was the same as Active's.
    pub unchanged: bool,
    /// The evolutions that ended without a verdict or had nothing to judge: they do not count against the hourly budget.
    pub free: u8,
    pub gave_up: bool,
    pub recovered_in: Option<Phase>,
    /// The lifecycle of an old backup of the journal, if there is a backup.
    pub backup: Option<Box<Lifecycle>>,
    /// The operator's decision, if the journal was behind reality.
    pub adopted: BTreeSet<String>,
    pub settled: Option<Trust>,
    pub broken: Vec<&'static str>,
}

/// What can happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An event happens and its effects are executed.
    Happens(Cause),
    /// An event happens, its first effects are executed, the supervisor dies and another one takes over; with `reboot` the machine
    /// reboots in between.
    Crashes { cause: Cause, carried: usize, reboot: bool },
    /// The supervisor dies, the journal is restored from an old backup or removed, and another supervisor takes over.
    Loses { backup: bool },
}

/// The cause of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    Commit(Files),
    /// A detector reports a fault of the instance in a slot.
    Find(Slot),
    Answer(Task, bool),
    /// The commit of the current evolution is resolved: the one that the followed ref names.
    Aims(EvolutionId),
    /// The build fails, by a fault of this kind.
    Fails(EvolutionId, Whose),
    Verdict(Task, Verdict),
    Carried(bool),
    /// Another program holds the profile's lock.
    Busy,
    Ready(Slot),
    Exit(Slot),
    /// The draining instance of the slot could not be started.
    CannotDrain(Slot),
    /// The instance exited after the stop signal; and whether connections still wait in the queue.
    Stopped(Slot, bool),
    Due(Timer),
    Degrades,
    Ask(Request),
}

/// The files of a new commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Files {
    /// New content.
    New,
    /// The content that was quarantined last.
    Quarantined,
    /// New content with the same build as Active.
    SameBuild,
}

/// The kind of fault of a failed build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    Contents,
    Makers,
    Machines,
}

pub fn policy(overlap: bool, approve: bool, standby: Standby) -> Policy {
    Policy {
        overlap,
        standby,
        approve,
        shadow_ms: None,
        canary: if overlap { vec![CanaryStep { share_ppm: 50_000, for_ms: 1 }] } else { vec![] },
        observe_ms: 1,
        hold_ms: 1,
        on_inconclusive: OnInconclusive::Ask,
        keep_generations: 1,
        per_incident: 1,
        per_hour: 2,
        agent_runs: u64::MAX,
        agent_ms: u64::MAX,
        tries: 1,
        retry_ms: 0,
        retry_max_ms: 0,
        incident_blueprint: Some("repair".into()),
        class_blueprint: Default::default(),
        upgrade_blueprint: "upgrade".into(),
        bounds: Bounds {
            diagnose_ms: 1,
            build_ms: 1,
            validate_ms: 1,
            start_ms: 1,
            stop_ms: 1,
            backoff_ms: 1,
            backoff_max_ms: 1,
            stable_ms: 1,
            recheck_ms: 1,
        },
    }
}

/// A caller that may request anything.
fn operator() -> Caller {
    Caller::Operator("ada".into())
}

/// Whether a candidate has traffic in this phase, or had traffic and waits.
fn is_tried(phase: Phase) -> bool {
    use Approval::{Canary, Observation, Shadow};
    matches!(phase, Phase::Canary { .. } | Phase::Promoting { .. } | Phase::Observing { .. })
        || matches!(phase, Phase::AwaitingApproval { of: Shadow | Canary { .. } | Observation })
}

/// The store path of a tree. `t1+2` has the same build as `t1`: it differs in files that the package does not read.
pub fn path(tree: &str) -> String {
    format!("/nix/store/{}", tree.split('+').next().expect("split gives one at least"))
}

impl World {
    pub fn new(policy: Policy, left: Left) -> Self {
        let mut world = Self {
            core: Lifecycle::default(),
            left,
            processes: [None, None],
            stopping: [false; 2],
            routing: None,
            current: None,
            generations: Vec::new(),
            tasks: BTreeSet::new(),
            plan: None,
            first: None,
            passed: BTreeSet::new(),
            built: 0,
            unchanged: false,
            free: 0,
            gave_up: false,
            recovered_in: None,
            backup: None,
            adopted: BTreeSet::new(),
            settled: None,
            broken: Vec::new(),
        };
        world.take(Event::Configured { policy }, usize::MAX);
        world
    }

    /// Handles one event and executes the first `carried` of its effects. Returns the number of effects.
    pub fn take(&mut self, event: Event, carried: usize) -> usize {
        let active = self.core.active().cloned();
        if let Event::Operator { request: Request::Settle { trust, .. }, .. } = &event {
            self.settled = Some(*trust);
            self.adopted.extend(self.core.active().map(|active| active.version.store_path.clone()));
            self.adopted.extend(self.core.active_by_journal().map(|active| active.version.store_path.clone()));
        }
        let tried = is_tried(self.core.phase());
        let is_operators = matches!(&event, Event::Operator { who: Caller::Operator(_), .. });
        let held = self.core.is_held();
        let ignored = self.ignores(&event).then(|| self.core.clone());
        let mut timers: BTreeMap<_, _> = self.core.timers().iter().map(|(timer, armed)| (*timer, armed.at)).collect();
        if let Event::Due(timer) = &event {
            timers.remove(timer);
        }
        let effects = self.core.step(NOW, event);
        for effect in &effects {
            match effect {
                Effect::SetTimer { timer, at, .. } => drop(timers.insert(*timer, *at)),
                Effect::ClearTimer { timer } => drop(timers.remove(timer)),
                _ => {}
            }
        }
        if !timers.into_iter().eq(self.core.timers().iter().map(|(timer, armed)| (*timer, armed.at))) {
            self.broken.push("the timers are others than the effects say");
        }
        if ignored.is_some_and(|before| before != self.core || !effects.is_empty()) {
            self.broken
                .push("a finding about another version than Active, or about a version under trial, had an effect");
        }
        if held && self.core.is_held() {
            self.check_held(&effects);
        }
        let needs_operator = self.core.policy().is_some_and(|policy| policy.approve);
        if needs_operator && !tried && is_tried(self.core.phase()) && !is_operators {
            self.broken.push("I6: a candidate got traffic without an operator's approval");
        }
        if self.core.active() != active.as_ref() && self.core.active().is_some() && !self.core.is_held() {
            self.check_active();
        }
        if self.left.losses > 0 && self.backup.is_none() && self.core.phase() == Phase::Steady {
            self.backup = Some(Box::new(self.core.clone()));
        }
        let count = effects.len();
        for effect in effects.into_iter().take(carried) {
            self.execute(effect);
        }
        count
    }

    /// Whether an event is a finding that must not count: about another version than Active, or about one under trial.
    fn ignores(&self, event: &Event) -> bool {
        let Event::Found { slot: Some(slot), .. } = event else { return false };
        let runs = self.processes[slot.index()].as_ref().map(|process| &process.store_path);
        let active = self.core.active().map(|active| &active.version.store_path);
        runs.is_some() && runs != active || self.core.trial_slot() == Some(*slot)
    }

    fn check_active(&mut self) {
        // The commit counts as much as the build: the next candidate is compared with its files and its checks.
        let active = Judged::of(&self.core.active().expect("checked").version);
        let first = self.first.as_ref().is_none_or(|first| *first == active);
        if !first && !self.passed.contains(&active) && !self.adopted.contains(&active.store_path) {
            self.broken.push("I2: Active without a passing report for exactly this version");
        }
        self.first.get_or_insert(active);
    }

    /// Changes the world by a cause, and returns the event of that cause.
    pub fn event(&mut self, cause: Cause) -> Event {
        match cause {
            Cause::Commit(files) => {
                self.left.commits -= 1;
                let tree = match files {
                    Files::New => self.new_tree(),
                    Files::Quarantined => self.core.quarantine().last().expect("only with one").tree.clone(),
                    Files::SameBuild => {
                        let active = self.core.active().expect("only with one").version.tree.clone();
                        let built_as = active.split('+').next().expect("split gives one at least").to_owned();
                        format!("{built_as}+{}", self.new_tree())
                    }
                };
                Event::Followed { rev: format!("r-{tree}"), tree }
            }
            Cause::Find(slot) => {
                self.left.findings -= 1;
                let finding = Finding {
                    class: rei::interface::types::IncidentClass::RuntimeFailure,
                    cause: "crash".into(),
                    severity: rei::interface::types::Severity::Critical,
                    fingerprint: "f".into(),
                    summary: "it crashed".into(),
                    evolve: true,
                };
                Event::Found { slot: Some(slot), finding }
            }
            Cause::Answer(task, well) => self.answer(task, well),
            Cause::Aims(evolution) => {
                let rev = self.core.followed().expect("only where one is followed").to_owned();
                let tree = rev.strip_prefix("r-").expect("the world names commits by trees").to_owned();
                Event::Aimed { evolution, rev, tree }
            }
            Cause::Fails(evolution, whose) => {
                self.left.failures -= 1;
                self.tasks.remove(&Task::Build(evolution.clone()));
                let fault = match whose {
                    Whose::Contents => {
                        let tree = self.tree_to_build();
                        Fault::Content { store_path: path(&tree), tree }
                    }
                    Whose::Makers => Fault::Maker,
                    Whose::Machines => Fault::Machine,
                };
                Event::BuildFailed { evolution, reason: "no".into(), fault }
            }
            Cause::Verdict(task, verdict) => self.verdict(task, verdict),
            Cause::Carried(well) => {
                let plan = self.plan.take().expect("only with a plan");
                if well {
                    self.execute_plan(&plan);
                    return Event::PlanDone { plan: plan.number, took_us: 0 };
                }
                self.left.failures -= 1;
                Event::PlanFailed { plan: plan.number, reason: "disk".into() }
            }
            Cause::Busy => {
                self.left.failures -= 1;
                let plan = self.plan.take().expect("only with a plan");
                if !plan.undo {
                    let steps = plan.steps.iter().filter(|step| matches!(step, Step::Route { .. })).copied().collect();
                    self.execute_plan(&Plan { steps, ..plan.clone() });
                }
                Event::PlanBusy { plan: plan.number, reason: "busy".into() }
            }
            Cause::Ready(slot) => {
                self.processes[slot.index()].as_mut().expect("only with a process").ready = true;
                Event::Ready { slot }
            }
            Cause::Exit(slot) => {
                self.left.exits -= 1;
                if self.processes[slot.index()].take().is_some_and(|process| process.drains) {
                    self.stopping[slot.index()] = false;
                }
                Event::Exited { slot, exit: "exit code 2".into(), ran_ms: 0 }
            }
            Cause::CannotDrain(slot) => {
                self.left.failures -= 1;
                self.processes[slot.index()] = None;
                self.stopping[slot.index()] = false;
                Event::StartFailed { slot, reason: "memory".into() }
            }
            Cause::Stopped(slot, waiting) => {
                self.left.waits -= u8::from(waiting);
                self.processes[slot.index()] = None;
                self.stopping[slot.index()] = false;
                Event::Stopped { slot, waiting }
            }
            Cause::Due(timer) => {
                if timer == Timer::Recheck {
                    self.left.rechecks -= 1;
                }
                Event::Due(timer)
            }
            Cause::Degrades => {
                self.left.failures -= 1;
                Event::Judged { verdict: Verdict::Fail, reason: "slow".into() }
            }
            Cause::Ask(request) => {
                self.left.requests -= 1;
                Event::Operator { who: operator(), request }
            }
        }
    }

    fn new_tree(&mut self) -> String {
        self.built += 1;
        format!("t{}", self.built)
    }

    /// The tree of the evolution's commit, or of the commit that its blueprint makes.
    fn tree_to_build(&mut self) -> String {
        let rev = self.core.evolution().and_then(|it| it.rev.clone());
        let tree = rev.and_then(|rev| rev.strip_prefix("r-").map(str::to_owned));
        tree.unwrap_or_else(|| self.new_tree())
    }

    fn answer(&mut self, task: Task, well: bool) -> Event {
        self.tasks.remove(&task);
        if !well {
            self.left.failures -= 1;
        }
        match task {
            Task::Diagnose(evolution) => Event::Diagnosed { evolution, context: "c".into() },
            Task::Install(evolution) if !well => {
                Event::BuildFailed { evolution, reason: "no".into(), fault: Fault::Machine }
            }
            Task::Install(evolution) | Task::Build(evolution) => {
                let tree = self.tree_to_build();
                let version = Version { store_path: path(&tree), rev: format!("r-{tree}"), tree, drv: String::new() };
                Event::Built { evolution, version, base_rev: String::new(), files_changed: vec![] }
            }
            Task::Prepare(store_path) if !well => Event::GenerationFailed { store_path, reason: "disk".into() },
            Task::Prepare(store_path) => {
                let known = self.generations.iter().find(|(_, path)| *path == store_path).map(|(n, _)| *n);
                let generation = known.unwrap_or_else(|| {
                    let next = self.generations.last().map_or(1, |(n, _)| n + 1);
                    self.generations.push((next, store_path.clone()));
                    next
                });
                Event::GenerationPrepared { store_path, generation }
            }
            Task::Validate(..) | Task::Judge => unreachable!("answered by a verdict"),
        }
    }

    fn verdict(&mut self, task: Task, verdict: Verdict) -> Event {
        self.tasks.remove(&task);
        if verdict != Verdict::Pass {
            self.left.failures -= 1;
        }
        match task {
            Task::Validate(evolution, judged, id) => {
                let store_path = judged.store_path.clone();
                if verdict == Verdict::Pass {
                    self.passed.insert(judged);
                }
                let report = ReportDigest { id, store_path, verdict, summary: "unit".into() };
                Event::Validated { evolution, report }
            }
            Task::Judge => Event::Judged { verdict, reason: "data".into() },
            _ => unreachable!("not answered by a verdict"),
        }
    }

    /// The supervisor dies, with its unfinished tasks; another one takes over.
    pub fn crash(&mut self, reboot: bool) {
        self.left.crashes -= 1;
        let phase = self.core.phase();
        self.recovered_in = Some(phase);
        self.tasks.clear();
        if let Some(plan) = self.plan.take() {
            // The worst case: half of the plan was executed.
            if let Some(step) = plan.steps.first() {
                let half = Plan { steps: vec![*step], ..plan.clone() };
                self.execute_plan(&half);
            }
        }
        let had = self.candidate_share(self.routing);
        // A share in the journal counts as given, because the record comes before the effect. In a rollback only the share that is
        // really left counts.
        let before = match phase {
            Phase::RollingBack { .. } => had,
            _ => had.max(self.candidate_share(self.core.routing())),
        };
        self.end_strays(reboot);
        self.stopping = [false; 2];
        let running = self.running();
        self.take(Event::Recovered { running, rebooted: reboot }, usize::MAX);
        let trial = matches!(phase, Phase::Canary { .. } | Phase::Promoting { .. } | Phase::RollingBack { .. });
        if trial && self.candidate_share(self.routing) > before {
            self.broken.push("I5: a candidate has more traffic after a crash");
        }
    }

    /// Ends the processes that do not survive: after a reboot all of them, else the draining instances.
    pub fn end_strays(&mut self, reboot: bool) {
        for process in &mut self.processes {
            if reboot || process.as_ref().is_some_and(|process| process.drains) {
                *process = None;
            }
        }
    }

    /// The running instances that another supervisor finds.
    pub fn running(&self) -> [Option<Running>; 2] {
        let found = |process: &Process| Running { store_path: process.store_path.clone(), ready: process.ready };
        self.processes.each_ref().map(|process| process.as_ref().map(found))
    }

    fn candidate_share(&self, routing: Option<Routing>) -> u32 {
        match (self.core.phase(), self.core.active_slot(), routing) {
            (Phase::Canary { .. } | Phase::Promoting { .. } | Phase::RollingBack { .. }, Some(slot), Some(routing)) => {
                routing.share_ppm(slot.other())
            }
            _ => 0,
        }
    }

    /// Executes one action.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Happens(cause) => {
                let event = self.event(cause);
                self.take(event, usize::MAX);
            }
            Action::Crashes { cause, carried, reboot } => {
                let event = self.event(cause);
                self.take(event, carried);
                self.crash(reboot);
            }
            Action::Loses { backup } => self.lose(backup),
        }
    }
}
