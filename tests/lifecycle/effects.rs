//! The world executes the effects of the lifecycle, and records forbidden effects.

use super::*;

impl World {
    /// I8: the rolled-back version is in quarantine, its files and its build.
    fn check_rolled_back(&mut self, from: Option<&Version>) {
        let is_known = |version: &Version| {
            let same = |entry: &Quarantined| entry.tree == version.tree && entry.store_path == version.store_path;
            self.core.quarantine().iter().any(same)
        };
        if !from.is_none_or(is_known) {
            self.broken.push("I8: a version that was rolled back is not in quarantine");
        }
    }

    pub(super) fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Diagnose { evolution, .. } => self.tasks.insert(Task::Diagnose(evolution)),
            Effect::Build { evolution, rev, .. } => {
                // The tree of an operator's request is not known yet.
                let tree = rev.as_ref().and_then(|rev| rev.strip_prefix("r-"));
                if tree.is_some_and(|tree| self.core.is_quarantined(tree)) {
                    self.broken.push("I8: quarantined content is built");
                }
                self.tasks.insert(Task::Build(evolution))
            }
            Effect::Install { evolution } => self.tasks.insert(Task::Install(evolution)),
            Effect::Validate { evolution, version, report, active, .. } => {
                if self.core.active().is_none_or(|it| it.version != active) {
                    self.broken.push("a candidate is compared with another version than Active");
                }
                self.refuse_quarantined(&version.store_path);
                self.tasks.insert(Task::Validate(evolution, Judged::of(&version), report))
            }
            Effect::Cancel { evolution } => {
                self.tasks.retain(|task| {
                    !matches!(task,
                    Task::Diagnose(of) | Task::Build(of) | Task::Validate(of, ..) if *of == evolution)
                });
                true
            }
            Effect::PrepareGeneration { store_path, way_back, .. } => {
                let current = self.core.active().map(|active| active.generation).filter(|generation| *generation > 0);
                if way_back != current {
                    self.broken.push("I3: the way back of a generation is not Active's");
                }
                self.tasks.insert(Task::Prepare(store_path))
            }
            Effect::Start { slot, version, .. } => self.start(slot, version),
            Effect::Stop { slot, drain } => {
                let gets_connections = self.core.routing().is_some_and(|routing| routing.share_ppm(slot) > 0);
                if drain == gets_connections {
                    self.broken.push("a stop does not say whether new connections come to its slot");
                }
                if let Some(process) = &mut self.processes[slot.index()] {
                    process.asked_to_end = true;
                }
                self.stopping[slot.index()] = true;
                true
            }
            Effect::Drain { slot, version } => self.drain(slot, version),
            Effect::Refresh { .. } => true,
            Effect::Execute(plan) => {
                self.plan = Some(plan);
                true
            }
            Effect::Route { routing } => {
                self.routing = Some(routing);
                true
            }
            Effect::Restore { routing, generation } => {
                if generation.is_none() {
                    self.broken.push("what only routes has its own name");
                }
                self.routing = Some(routing);
                self.current = generation.or(self.current);
                true
            }
            Effect::Judge => self.tasks.insert(Task::Judge),
            Effect::Prune { keep, in_use } => {
                let newest: Vec<u64> = self.generations.iter().rev().take(keep as usize).map(|(n, _)| *n).collect();
                let current = self.current;
                self.generations.retain(|(n, _)| newest.contains(n) || in_use.contains(n) || current == Some(*n));
                true
            }
            Effect::GiveUp { .. } => {
                self.gave_up = true;
                true
            }
            Effect::Record(Maintenance { action, from, .. }) => {
                match action {
                    MaintenanceAction::Unchanged => {
                        self.unchanged = true;
                        self.free += 1;
                    }
                    MaintenanceAction::Deferred => self.free += 1,
                    MaintenanceAction::RolledBack => self.check_rolled_back(from.as_ref()),
                    MaintenanceAction::Promoted | MaintenanceAction::Rejected | MaintenanceAction::Restarted => {}
                }
                true
            }
            Effect::Shadow { slot, active } => {
                let is_ready = self.processes[slot.index()].as_ref().is_some_and(|process| process.ready);
                let has_share = self.core.routing().is_some_and(|routing| routing.share_ppm(slot) > 0);
                if !is_ready || has_share || self.core.active_slot() != Some(active) {
                    self.broken.push("a candidate is asked that is not ready or has users");
                }
                true
            }
            Effect::Observe { .. } | Effect::SetTimer { .. } | Effect::ClearTimer { .. } => true,
        };
    }

    fn refuse_quarantined(&mut self, store_path: &str) {
        if self.core.is_quarantined(store_path) {
            self.broken.push("I8: quarantined content is judged or started");
        }
    }

    fn start(&mut self, slot: Slot, version: Version) -> bool {
        if self.core.phase() != Phase::Steady {
            self.refuse_quarantined(&version.store_path);
        }
        if self.processes[slot.index()].is_some() {
            self.broken.push("I5: a second process is started in a slot");
        }
        let process = Process { store_path: version.store_path, ready: false, asked_to_end: false, drains: false };
        self.processes[slot.index()] = Some(process);
        self.stopping[slot.index()] = false;
        true
    }

    fn drain(&mut self, slot: Slot, version: Version) -> bool {
        if self.core.active().is_none_or(|active| active.version != version) {
            self.broken.push("a queue is drained by another version than Active");
        }
        if self.core.routing().is_none_or(|routing| routing.share_ppm(slot) > 0) {
            self.broken.push("a queue is drained that still gets new connections");
        }
        self.start(slot, version);
        if let Some(process) = &mut self.processes[slot.index()] {
            (process.asked_to_end, process.drains) = (true, true);
        }
        self.stopping[slot.index()] = true;
        true
    }

    pub(super) fn execute_plan(&mut self, plan: &Plan) {
        for step in &plan.steps {
            match *step {
                Step::SwitchProfile { to, .. } => {
                    if !self.generations.iter().any(|(n, path)| *n == to && *path == plan.store_path) {
                        self.broken.push(
                            "I3: the profile is switched to a generation that is missing or belongs to another version",
                        );
                    }
                    self.current = Some(to);
                }
                Step::Route { to, .. } => self.routing = Some(to),
            }
        }
    }
}
