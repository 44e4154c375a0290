//! A lifecycle that gets single events at times that the test chooses, and the effects that it returned.

use rei::interface::types::{EvolutionId, IncidentClass, MaintenanceAction, ReportId, Severity, Verdict, Version};
use rei::lifecycle::{
    Caller, Effect, Event, Fault, Finding, Lifecycle, Maintenance, Phase, Plan, Policy, ReportDigest, Request, Running,
    Slot, Timer,
};
use rei::time::Timestamp;

use crate::world::path;

/// The lifecycle, the time, and all effects so far.
pub struct Desk {
    pub core: Lifecycle,
    pub now: Timestamp,
    pub effects: Vec<Effect>,
}

/// A version of this tree that is built as this store path.
pub fn version(tree: &str, built_as: &str) -> Version {
    Version { store_path: path(built_as), rev: format!("r-{tree}"), tree: tree.to_owned(), drv: String::new() }
}

impl Desk {
    /// The first version, of tree `t1`, serves.
    pub fn serving(policy: Policy) -> Self {
        let mut desk =
            Self { core: Lifecycle::default(), now: Timestamp::from_unix_ms(1_000_000), effects: Vec::new() };
        desk.tell(Event::Configured { policy });
        desk.push("t1");
        desk.builds("t1", "t1");
        desk.tell(Event::GenerationPrepared { store_path: path("t1"), generation: 1 });
        desk.tell(Event::Ready { slot: Slot::A });
        assert_eq!(desk.core.phase(), Phase::Steady);
        desk
    }

    pub fn tell(&mut self, event: Event) {
        self.effects.extend(self.core.step(self.now, event));
    }

    /// Moves the time forward; every timer that becomes due is an event, in order.
    pub fn later(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some((timer, at)) = self.next_timer().filter(|(_, at)| *at <= until) {
            self.now = self.now.max(at);
            self.tell(Event::Due(timer));
        }
        self.now = until;
    }

    fn next_timer(&self) -> Option<(Timer, Timestamp)> {
        let (timer, armed) = self.core.timers().iter().min_by_key(|(_, armed)| armed.at)?;
        Some((*timer, armed.at))
    }

    /// The followed ref names a commit with this tree.
    pub fn push(&mut self, tree: &str) {
        self.tell(Event::Followed { rev: format!("r-{tree}"), tree: tree.to_owned() });
    }

    /// A detector finds that Active crashed, with this fingerprint.
    pub fn finds(&mut self, fingerprint: &str) {
        let slot = self.core.active_slot().expect("something serves");
        self.finds_in(slot, fingerprint, IncidentClass::RuntimeFailure);
    }

    /// A detector reports a fault of the version in a slot.
    pub fn finds_in(&mut self, slot: Slot, fingerprint: &str, class: IncidentClass) {
        let finding = Finding {
            class,
            cause: "crash".to_owned(),
            severity: Severity::Critical,
            fingerprint: fingerprint.to_owned(),
            summary: "it crashed".to_owned(),
            evolve: true,
        };
        self.tell(Event::Found { slot: Some(slot), finding });
    }

    /// The current evolution.
    pub fn evolution(&self) -> EvolutionId {
        self.core.evolution().map(|it| it.id.clone()).expect("an evolution")
    }

    /// Ends Diagnosing, if that is the phase.
    pub fn diagnosed(&mut self) {
        if self.core.phase() == Phase::Diagnosing {
            self.tell(Event::Diagnosed { evolution: self.evolution(), context: "c".to_owned() });
        }
    }

    /// The current evolution builds a candidate with this tree and that store path.
    pub fn builds(&mut self, tree: &str, built_as: &str) {
        self.diagnosed();
        let (evolution, version) = (self.evolution(), version(tree, built_as));
        self.tell(Event::Built { evolution, version, base_rev: String::new(), files_changed: vec![] });
    }

    /// The build fails.
    pub fn fails(&mut self, fault: Fault) {
        self.diagnosed();
        self.tell(Event::BuildFailed { evolution: self.evolution(), reason: "no".to_owned(), fault });
    }

    /// The commit of the current evolution is resolved.
    pub fn aims(&mut self, tree: &str) {
        self.diagnosed();
        let (evolution, rev) = (self.evolution(), format!("r-{tree}"));
        self.tell(Event::Aimed { evolution, rev, tree: tree.to_owned() });
    }

    /// An operator requests an evolution.
    pub fn asked(&mut self, rev: Option<&str>) {
        let request = Request::Evolve { rev: rev.map(str::to_owned), blueprint: None };
        let who = Caller::Operator("ada".to_owned());
        assert_eq!((self.core.refusal(&who, &request), self.core.answers(&who, &request)), (None, None));
        self.tell(Event::Operator { who, request });
    }

    /// The evolution that answers an operator's request for this commit.
    pub fn answer(&self, rev: Option<&str>) -> Option<EvolutionId> {
        let who = Caller::Operator("ada".to_owned());
        self.core.answers(&who, &Request::Evolve { rev: rev.map(str::to_owned), blueprint: None }).cloned()
    }

    /// The judge's verdict on the candidate.
    pub fn judged(&mut self, verdict: Verdict) {
        let store_path = self.core.evolution().and_then(|it| it.version.clone()).expect("a candidate").store_path;
        let report = ReportDigest { id: ReportId::numbered(1), store_path, verdict, summary: "unit".to_owned() };
        self.tell(Event::Validated { evolution: self.evolution(), report });
    }

    /// Runs everything from a built candidate of this tree to its confirmation, and to the stop of the version before.
    pub fn promoted(&mut self, tree: &str, generation: u64) {
        self.confirmed(tree, generation);
        let slot = self.core.active_slot().expect("something serves");
        self.tell(Event::Stopped { slot: slot.other(), waiting: false });
        assert_eq!(self.core.phase(), Phase::Steady);
    }

    /// Runs everything from a built candidate of this tree to its window.
    pub fn observed(&mut self, tree: &str, generation: u64) {
        self.judged(Verdict::Pass);
        self.tell(Event::GenerationPrepared { store_path: path(tree), generation });
        let slot = self.core.active_slot().expect("something serves").other();
        self.tell(Event::Ready { slot });
        self.judge_says(Verdict::Pass);
        let plan = self.plan();
        self.tell(Event::PlanDone { plan, took_us: 1 });
        assert!(matches!(self.core.phase(), Phase::Observing { .. }));
    }

    /// Runs everything from a built candidate of this tree to its confirmation.
    pub fn confirmed(&mut self, tree: &str, generation: u64) {
        self.observed(tree, generation);
        self.judge_says(Verdict::Pass);
        assert_eq!(self.core.phase(), Phase::Steady);
    }

    /// The time of the step or window is over, with this verdict.
    pub fn judge_says(&mut self, verdict: Verdict) {
        self.tell(Event::Due(Timer::Window));
        self.tell(Event::Judged { verdict, reason: "data".to_owned() });
    }

    /// The number of the last plan.
    pub fn plan(&self) -> u64 {
        assert_ne!(self.plan_or_none(), 0, "a plan");
        self.plan_or_none()
    }

    /// The number of the last plan, or 0 without a plan.
    pub fn plan_or_none(&self) -> u64 {
        let plan = self.effects.iter().rev().find_map(|it| match it {
            Effect::Execute(Plan { number, .. }) => Some(*number),
            _ => None,
        });
        plan.unwrap_or(0)
    }

    /// The supervisor dies and another one takes over; instances survive unless the machine was rebooted.
    pub fn crash(&mut self, rebooted: bool) {
        let running = Slot::ALL.map(|slot| {
            let state = self.core.slot(slot);
            let version = state.version.as_ref().filter(|_| !rebooted)?;
            use rei::lifecycle::RunState::{Ready, Starting};
            matches!(state.run, Ready | Starting)
                .then(|| Running { store_path: version.store_path.clone(), ready: state.run == Ready })
        });
        self.tell(Event::Recovered { running, rebooted });
    }

    /// The ends of all evolutions so far, in order.
    pub fn ends(&self) -> Vec<&Maintenance> {
        let ends = self.effects.iter().filter_map(|it| match it {
            Effect::Record(it) if it.action != MaintenanceAction::Restarted => Some(it),
            _ => None,
        });
        ends.collect()
    }

    /// The end of the last evolution.
    pub fn end(&self) -> MaintenanceAction {
        self.ends().last().expect("an end").action
    }

    /// The number of started evolutions.
    pub fn begun(&self) -> usize {
        self.effects.iter().filter(|it| matches!(it, Effect::Diagnose { .. })).count()
    }

    /// The tree with which candidates are compared.
    pub fn base(&self) -> &str {
        &self.core.active().expect("something serves").version.tree
    }
}
