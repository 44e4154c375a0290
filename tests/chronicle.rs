//! The chronicle says of any journal what the core itself knows, although it replays nothing.

#[expect(dead_code, reason = "shared with the model checker, which uses all of it")]
#[path = "lifecycle/world.rs"]
mod world;

use proptest::prelude::*;
use rei::journal::Record;
use rei::lifecycle::{Event, Policy, Running, Standby};
use rei::supervisor::chronicle::Chronicle;
use rei::supervisor::record::Entry;
use world::{Cause, Left, NOW, World, policy};

/// A world whose every event is told to a chronicle as well.
struct Told {
    world: World,
    chronicle: Chronicle,
    seq: u64,
    /// Ids of the evolutions that ended, with those that a core began.
    begun: Vec<String>,
}

impl Told {
    fn tell(&mut self, event: &Event) {
        let effects = self.world.core.clone().step(NOW, event.clone());
        let body = Entry { event: event.clone(), effects };
        self.seq += 1;
        self.chronicle.take(&Record { seq: self.seq, at: NOW, prev: String::new(), body });
    }

    fn happens(&mut self, cause: Cause, carried: usize) {
        let event = self.world.event(cause);
        self.tell(&event);
        self.world.take(event, carried);
    }

    fn crashes(&mut self, reboot: bool) {
        let processes = if reboot { [None, None] } else { self.world.processes.clone() };
        let running = processes.map(|it| it.map(|it| Running { store_path: it.store_path, ready: it.ready }));
        // What the world tells its core, told here first: both are made from the same processes.
        self.tell(&Event::Recovered { running, rebooted: reboot });
        self.world.crash(reboot);
    }

    fn agrees(&mut self, after: &str) -> Result<(), TestCaseError> {
        let (core, told) = (&self.world.core, &self.chronicle);
        let phase = serde_json::to_value(told.phase()).unwrap();
        let name: String = phase.as_str().unwrap().split('_').map(capital).collect();
        prop_assert_eq!(name, core.phase().name(), "after {}", after);
        let id = core.evolution().map(|evolution| evolution.id.clone());
        prop_assert_eq!(told.evolution(), id.as_ref(), "after {}", after);
        if let Some(id) = id.filter(|id| self.begun.last() != Some(&id.0)) {
            self.begun.push(id.0);
        }
        let open = |incident: &rei::lifecycle::OpenIncident| (incident.id.clone(), incident.occurrences);
        let known: Vec<_> = core.incidents().values().map(open).collect();
        let read: Vec<_> = told.open_incidents().map(|it| (it.id.clone(), it.occurrences)).collect();
        prop_assert_eq!(read, known, "after {}", after);
        Ok(())
    }
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_chronicle_knows_what_the_core_knows(
        overlap: bool, approve: bool, cold: bool, draws in proptest::collection::vec(any::<u16>(), 0..300)
    ) {
        let left = Left { commits: 6, findings: 6, exits: 6, crashes: 4, requests: 6, failures: 6, rechecks: 20 };
        let standby = if cold { Standby::Cold } else { Standby::Keep };
        let world = World::new(Policy { per_hour: 9, per_incident: 3, ..policy(overlap, approve, standby) }, left);
        let mut told = Told { world, chronicle: Chronicle::last(1000), seq: 0, begun: Vec::new() };
        for draw in draws {
            let causes = told.world.causes();
            let Some(cause) = causes.get(usize::from(draw) % causes.len().max(1)) else { break };
            let crash = told.world.left.crashes > 0 && draw % 11 == 0;
            told.happens(cause.clone(), if crash { usize::from(draw % 3) } else { usize::MAX });
            told.agrees(&format!("{cause:?}"))?;
            if crash {
                told.crashes(draw % 2 == 0);
                told.agrees("a crash")?;
            }
        }
        // Every evolution that was ever under way is in the history, and none twice.
        let mut listed: Vec<String> = told.chronicle.history().into_iter().map(|entry| entry.id).collect();
        listed.retain(|id| id.starts_with("evo_"));
        listed.sort();
        prop_assert!(told.begun.iter().all(|id| listed.contains(id)), "{:?} of {listed:?}", told.begun);
        let count = listed.len();
        listed.dedup();
        prop_assert_eq!(listed.len(), count);
    }
}
