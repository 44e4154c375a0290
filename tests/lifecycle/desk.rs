//! A lifecycle that is told events one by one at times of the test's choice, and what it wanted done.

use rei::interface::types::{EvolutionId, MaintenanceAction, ReportId, Verdict, Version};
use rei::lifecycle::{Effect, Event, Lifecycle, Maintenance, Phase, Plan, Policy, ReportDigest, Slot, Timer};
use rei::time::Timestamp;

use crate::world::path;

/// The lifecycle, the time, and all that it wanted so far.
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

    /// The followed ref names a commit with this tree.
    pub fn push(&mut self, tree: &str) {
        self.tell(Event::Followed { rev: format!("r-{tree}"), tree: tree.to_owned() });
    }

    /// The evolution under way.
    pub fn evolution(&self) -> EvolutionId {
        self.core.evolution().map(|it| it.id.clone()).expect("an evolution")
    }

    /// Ends Diagnosing, where that is the phase.
    pub fn diagnosed(&mut self) {
        if self.core.phase() == Phase::Diagnosing {
            self.tell(Event::Diagnosed { evolution: self.evolution(), context: "c".to_owned() });
        }
    }

    /// The candidate of the evolution under way has this tree and is built as that store path.
    pub fn builds(&mut self, tree: &str, built_as: &str) {
        self.diagnosed();
        let (evolution, version) = (self.evolution(), version(tree, built_as));
        self.tell(Event::Built { evolution, version, base_rev: String::new(), files_changed: vec![] });
    }

    /// The judge's word about the candidate.
    pub fn judged(&mut self, verdict: Verdict) {
        let store_path = self.core.evolution().and_then(|it| it.version.clone()).expect("a candidate").store_path;
        let report = ReportDigest { id: ReportId::numbered(1), store_path, verdict, summary: "unit".to_owned() };
        self.tell(Event::Validated { evolution: self.evolution(), report });
    }

    /// From a built candidate of this tree to its confirmation.
    pub fn promoted(&mut self, tree: &str, generation: u64) {
        self.judged(Verdict::Pass);
        self.tell(Event::GenerationPrepared { store_path: path(tree), generation });
        let slot = self.core.active_slot().expect("something serves").other();
        self.tell(Event::Ready { slot });
        self.judge_says(Verdict::Pass);
        let plan = self.plan();
        self.tell(Event::Carried { plan, took_us: 1 });
        self.judge_says(Verdict::Pass);
        self.tell(Event::Stopped { slot: slot.other() });
        assert_eq!(self.core.phase(), Phase::Steady);
    }

    /// The step's or window's time is over, and the judge says this.
    pub fn judge_says(&mut self, verdict: Verdict) {
        self.tell(Event::Due(Timer::Window));
        self.tell(Event::Judged { verdict, reason: "data".to_owned() });
    }

    /// The number of the last plan.
    pub fn plan(&self) -> u64 {
        let plan = self.effects.iter().rev().find_map(|it| match it {
            Effect::Carry(Plan { number, .. }) => Some(*number),
            _ => None,
        });
        plan.expect("a plan")
    }

    /// How evolutions ended so far, in order.
    pub fn ends(&self) -> Vec<&Maintenance> {
        let ends = self.effects.iter().filter_map(|it| match it {
            Effect::Record(it) if it.action != MaintenanceAction::Restarted => Some(it),
            _ => None,
        });
        ends.collect()
    }

    /// How the last one ended.
    pub fn end(&self) -> MaintenanceAction {
        self.ends().last().expect("an end").action
    }

    /// The tree that candidates are compared with.
    pub fn base(&self) -> &str {
        &self.core.active().expect("something serves").version.tree
    }
}
