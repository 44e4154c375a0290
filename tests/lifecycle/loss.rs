//! A journal that loses its end, or everything: the facts that another supervisor finds, and what it may do.

use rei::interface::types::{MaintenanceAction, Role, Version};
use rei::journal::HeadStatus;
use rei::lifecycle::{Deployed, Effect, Event, FoundInstance, Instance, Reality, Slot};
use rei::service::reconcile::{Facts, Generation, Journaled, Living, Verdict, adopt, reconcile};

use super::{Action, Process, World};

/// The highest number that another supervisor finds if the journal has lost its end.
pub const NUMBERED: u64 = 9;

impl World {
    /// The possible losses of the journal.
    pub fn losses(&self) -> Vec<Action> {
        // There must be an instance to adopt, and a backup to restore.
        if self.left.losses == 0 || self.gave_up || self.current.is_none() || self.backup.is_none() {
            return Vec::new();
        }
        vec![Action::Loses { backup: true }, Action::Loses { backup: false }]
    }

    /// The supervisor dies, and the last records of the journal, or all records, are lost. Another supervisor takes over and adopts
    /// the running instances.
    pub fn lose(&mut self, backup: bool) {
        let policy = self.core.policy().cloned().expect("configured");
        let held = self.loss(backup);
        let before = (self.current, self.processes.clone());
        self.take(held, usize::MAX);
        self.take(Event::Configured { policy }, usize::MAX);
        let kept = |(was, is): (&Option<Process>, &Option<Process>)| was.is_none() || was == is;
        if self.current != before.0 || !before.1.iter().zip(&self.processes).all(kept) {
            self.broken.push("Held: the found state was changed");
        }
    }

    /// The event of the next supervisor after the loss of records.
    pub fn loss(&mut self, backup: bool) -> Event {
        self.left.losses -= 1;
        let overlap = self.core.policy().is_some_and(|policy| policy.overlap);
        let core = self.backup.as_deref().filter(|_| backup).cloned().unwrap_or_default();
        let slot = core.active_slot();
        let generation = |deployed: &Deployed| Generation {
            number: deployed.generation,
            store_path: deployed.version.store_path.clone(),
        };
        self.core = core;
        self.tasks.clear();
        self.plan = None;
        self.stopping = [false; 2];
        let generations: Vec<Generation> = self
            .generations
            .iter()
            .map(|(number, store_path)| Generation { number: *number, store_path: store_path.clone() })
            .collect();
        let living = Slot::ALL.into_iter().filter_map(|slot| {
            let process = self.processes[slot.index()].as_ref()?;
            let store_path = Some(process.store_path.clone());
            let drains = process.drains;
            Some(Living { id: format!("x-9-{slot}"), pid: 1, seq: 9, slot, drains, store_path })
        });
        let facts = Facts {
            unfollowed: None,
            journaled: Journaled {
                active: slot.zip(self.core.active().map(generation)),
                ..Journaled::by(&self.core, u64::from(backup))
            },
            head: HeadStatus::Short { records: u64::from(backup), sealed: 9 },
            current: generations.iter().find(|it| Some(it.number) == self.current).cloned(),
            generations,
            instances: living.collect(),
            roots: vec![],
            overlap,
        };
        self.end_strays(false);
        let Verdict::Ahead { facts: found } = reconcile(&facts) else { panic!("a head that is ahead is enough") };
        let adoption = adopt(&facts);
        let version = |store_path: &str| {
            let tree = store_path.rsplit('/').next().unwrap_or_default().to_owned();
            Version { store_path: store_path.to_owned(), rev: format!("r-{tree}"), tree, drv: String::new() }
        };
        let running = Slot::ALL.map(|slot| {
            let living = &facts.instances[adoption.instances[slot.index()]?];
            let instance = Instance { id: living.id.clone(), pid: 1, start_ticks: 1 };
            let ready = self.processes[slot.index()].as_ref().is_some_and(|process| process.ready);
            Some(FoundInstance { version: version(living.store_path.as_deref()?), instance, ready })
        });
        let serves = adoption
            .serves
            .map(|(slot, it)| (slot, Deployed { version: version(&it.store_path), generation: it.number }));
        Event::Held(Box::new(Reality { facts: found, running, serves, numbered: NUMBERED }))
    }

    /// Until an operator decides, the only allowed decision is to keep Active running.
    pub(super) fn check_held(&mut self, effects: &[Effect]) {
        let idle = |effect: &Effect| match effect {
            Effect::Route { .. } => true,
            Effect::Start { role, .. } => *role == Role::Active,
            Effect::SetTimer { .. } | Effect::ClearTimer { .. } => true,
            // A restart of Active.
            Effect::Record(record) => record.action == MaintenanceAction::Restarted,
            Effect::Restore { .. }
            | Effect::Diagnose { .. }
            | Effect::Build { .. }
            | Effect::Install { .. }
            | Effect::Validate { .. }
            | Effect::Cancel { .. }
            | Effect::PrepareGeneration { .. }
            | Effect::Stop { .. }
            | Effect::Drain { .. }
            | Effect::Refresh { .. }
            | Effect::Execute(_)
            | Effect::Observe { .. }
            | Effect::Shadow { .. }
            | Effect::Judge
            | Effect::Prune { .. }
            | Effect::GiveUp { .. } => false,
        };
        if !effects.iter().all(idle) {
            self.broken.push("Held: something was decided");
        }
    }
}
