//! Holds what really is against the journal: a function of facts.
//!
//! | witness | is ahead of the journal when |
//! |---|---|
//! | records | some are of another version of rei, which this one does not follow |
//! | sealed head | it has seen a record that the journal does not have, or another in its place |
//! | instances | one lives that a record behind the journal's last one started |
//! | profile | its current generation is higher than any that the journal knows; or the journal has no record |
//! | roots | one is of a candidate that the journal does not know; or the journal has no record |
//!
//! The other direction is normal: a record is on disk before its effect, so after a crash reality may be behind the journal,
//! and a new supervisor carries it on.

use crate::interface::types::Version;
use crate::journal::HeadStatus;
use crate::lifecycle::{Lifecycle, Slot};

/// What the journal says, as far as others can contradict it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The last record; 0 for none.
    pub records: u64,
    /// The instances in the slots.
    pub instances: Vec<String>,
    /// Active's slot and generation.
    pub active: Option<(Slot, Generation)>,
    /// Generations that it knows, whatever became of them.
    pub generations: Vec<u64>,
    /// Store paths in quarantine: one may be current still where a switch back was not carried out.
    pub quarantined: Vec<String>,
    /// The number of the last candidate.
    pub candidates: u64,
}

/// A generation of the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its number; 0 for a version that has none.
    pub number: u64,
    /// Its store path.
    pub store_path: String,
}

/// An instance that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Its id.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// The record that started it.
    pub seq: u64,
    /// Its slot.
    pub slot: Slot,
    /// Whether it only empties a queue.
    pub drains: bool,
    /// What it runs, where that can be told.
    pub store_path: Option<String>,
}

/// Records that another version of rei has written, and that this one does not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfollowed {
    /// The first of them; all behind it are of no use.
    pub first: u64,
    /// Why it is not followed.
    pub why: String,
}

/// What really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the journal says.
    pub told: Told,
    /// Records at the journal's end that are not followed, and the number of the last.
    pub unfollowed: Option<(Unfollowed, u64)>,
    /// How the journal stands to its sealed head.
    pub head: HeadStatus,
    /// The profile's current generation.
    pub current: Option<Generation>,
    /// All its generations, oldest first.
    pub generations: Vec<Generation>,
    /// The instances that live.
    pub instances: Vec<Living>,
    /// The garbage collector's roots, by name.
    pub roots: Vec<String>,
    /// Whether two versions may run side by side.
    pub overlap: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing contradicts the journal.
    Agreement,
    /// Reality is ahead.
    Ahead {
        /// What the journal does not account for, each in a line for a person.
        facts: Vec<String>,
    },
}

/// What is adopted where reality is ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// The instance of slot A and of slot B, by its place in [`Facts::instances`].
    pub occupants: [Option<usize>; 2],
    /// What serves, and from which slot.
    pub serves: Option<(Slot, Generation)>,
}

impl Told {
    /// What a journal of so many records says.
    pub fn by(core: &Lifecycle, records: u64) -> Self {
        let evolution = core.evolution();
        let generation = |version: &Version, number| Generation { number, store_path: version.store_path.clone() };
        let deployed = core.active().into_iter().chain(core.previous()).chain(core.active_by_journal());
        let target = evolution.and_then(|it| it.target.as_ref());
        let prior = evolution.and_then(|it| it.prior_previous.as_ref());
        let known = deployed.chain(target).chain(prior).map(|deployed| deployed.generation);
        Self {
            records,
            instances: Slot::ALL
                .iter()
                .filter_map(|slot| Some(core.slot(*slot).instance.as_ref()?.id.clone()))
                .collect(),
            active: core.active_slot().zip(core.active().map(|active| generation(&active.version, active.generation))),
            generations: known
                .chain(core.known_good().keys().copied())
                .chain(evolution.and_then(|it| it.generation))
                .collect(),
            quarantined: core.quarantine().iter().map(|entry| entry.store_path.clone()).collect(),
            candidates: core.candidates(),
        }
    }
}

/// The number of a candidate that a root belongs to; `None` for one of no evolution.
pub fn candidate_of(root: &str) -> Option<u64> {
    root.strip_prefix("cand_")?.split('-').next()?.parse().ok()
}

/// Holds the witnesses against the journal.
pub fn reconcile(it: &Facts) -> Verdict {
    let told = &it.told;
    let mut facts = Vec::new();
    if let Some((Unfollowed { first, why }, last)) = &it.unfollowed {
        facts.push(format!("records {first} to {last} are of another version of rei, which decides otherwise: {why}"));
    }
    match it.head {
        HeadStatus::Short { records: 0, sealed } => {
            facts.push(format!("the sealed head has seen record {sealed}, and there is no journal"));
        }
        HeadStatus::Short { records, sealed } => {
            let first = records + 1;
            facts.push(format!("the sealed head has seen record {sealed}: records {first} to {sealed} are lost"));
        }
        HeadStatus::Other { seq } => {
            facts.push(format!("record {seq} is not the one that the sealed head has seen"));
        }
        HeadStatus::Whole | HeadStatus::NoHead | HeadStatus::DamagedHead => {}
    }
    for instance in it.instances.iter().filter(|it| it.seq > told.records && !told.instances.contains(&it.id)) {
        let Living { id, pid, seq, .. } = instance;
        facts.push(format!("record {seq} started the instance {id} (pid {pid}), and the journal does not have it"));
    }
    if let Some(Generation { number, store_path }) = &it.current
        && told.generations.iter().all(|known| known < number)
        && !told.quarantined.contains(store_path)
    {
        facts.push(format!(
            "the profile's current generation is {number} ({store_path}), which the journal does not know"
        ));
    }
    let unknown = |root: &&String| candidate_of(root).is_some_and(|number| number > told.candidates);
    if let Some(root) = it.roots.iter().rfind(unknown) {
        facts.push(format!("the root {root} is of a candidate that the journal does not know"));
    }
    if told.records == 0 && facts.is_empty() && !it.generations.is_empty() {
        facts.push("the profile has generations, and there is no journal".to_owned());
    }
    if facts.is_empty() {
        return Verdict::Agreement;
    }
    facts.push("what lost records put into quarantine is not known any more, and would be judged again".to_owned());
    Verdict::Ahead { facts }
}

/// What serves where reality is ahead: the profile's current generation, which was judged once; by the instance that runs it,
/// or, where none does, by a new one in a slot that is free. Without a profile it is what runs, or else what the journal says.
pub fn adopt(it: &Facts) -> Adoption {
    let newest = |wanted: &dyn Fn(&Living) -> bool| {
        let fit = it.instances.iter().enumerate().filter(|(_, living)| !living.drains && wanted(living));
        fit.max_by_key(|(_, living)| living.seq)
    };
    let occupants = Slot::ALL.map(|slot| newest(&|living| living.slot == slot).map(|(at, _)| at));
    let in_a_slot = |at: &usize| occupants.contains(&Some(*at));
    let told = it.told.active.as_ref();
    let Some(current) = it.current.as_ref().or(told.map(|(_, generation)| generation)) else {
        let serves = newest(&|_| true).map(|(_, living)| (living.slot, number_of(it, living)));
        return Adoption { occupants, serves };
    };
    let lone = occupants.iter().flatten().count() == 1;
    let runs_it = |living: &Living| match &living.store_path {
        Some(path) => *path == current.store_path,
        None => lone,
    };
    if let Some((_, living)) = newest(&runs_it).filter(|(at, _)| in_a_slot(at)) {
        return Adoption { occupants, serves: Some((living.slot, current.clone())) };
    }
    let usual = told.map_or(Slot::A, |(slot, _)| *slot);
    let free = [usual, usual.other()].into_iter().find(|slot| occupants[slot.index()].is_none());
    let other = newest(&|_| true);
    let serves = match (other, free) {
        // One version at a time, or no place beside what runs: what runs serves on.
        (Some((_, living)), None) => (living.slot, number_of(it, living)),
        (Some((_, living)), Some(_)) if !it.overlap => (living.slot, number_of(it, living)),
        (_, Some(slot)) => (slot, current.clone()),
        (None, None) => (usual, current.clone()),
    };
    Adoption { occupants, serves: Some(serves) }
}

/// The generation of what an instance runs.
fn number_of(it: &Facts, living: &Living) -> Generation {
    let store_path = living.store_path.clone().unwrap_or_default();
    let number = it.generations.iter().rfind(|known| known.store_path == store_path).map_or(0, |known| known.number);
    Generation { number, store_path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        Generation { number, store_path: format!("/store/v{number}") }
    }

    fn living(seq: u64, slot: Slot, runs: u64) -> Living {
        let store_path = Some(format!("/store/v{runs}"));
        Living { id: format!("x-{seq}-{slot}"), pid: 7, seq, slot, drains: false, store_path }
    }

    /// A journal of 20 records, whose Active is generation 2 in slot B; and everything agrees.
    fn agreeing() -> Facts {
        Facts {
            told: Told {
                records: 20,
                instances: vec!["x-17-B".into()],
                active: Some((Slot::B, generation(2))),
                generations: vec![1, 2],
                quarantined: vec!["/store/v9".into()],
                candidates: 3,
            },
            unfollowed: None,
            head: HeadStatus::Whole,
            current: Some(generation(2)),
            generations: vec![generation(1), generation(2)],
            instances: vec![living(17, Slot::B, 2)],
            roots: vec!["builder".into(), "cand_0003".into(), "cand_0003-drv".into(), "cand_x20-1".into()],
            overlap: true,
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = agreeing();
        change(&mut facts);
        facts
    }

    #[test]
    fn what_a_crash_leaves_is_no_contradiction() {
        let agree: [(&str, Facts); 9] = [
            ("all is there", agreeing()),
            ("an upgrade from a rei without a head", with(|it| it.head = HeadStatus::NoHead)),
            ("a head that was damaged", with(|it| it.head = HeadStatus::DamagedHead)),
            ("nothing runs", with(|it| it.instances.clear())),
            ("an instance is older than the journal's", with(|it| it.instances.push(living(4, Slot::A, 1)))),
            ("the switch was not carried out", with(|it| it.current = Some(generation(1)))),
            ("a generation was prepared and not recorded", with(|it| it.generations.push(generation(3)))),
            ("a switch back was not carried out", with(|it| it.current = Some(generation(9)))),
            (
                "the journal knows the instance since it was adopted",
                with(|it| {
                    it.told.instances.push("x-35-A".into());
                    it.instances.push(living(35, Slot::A, 2));
                }),
            ),
        ];
        for (what, facts) in agree {
            assert_eq!(reconcile(&facts), Verdict::Agreement, "{what}");
        }
        let first = Facts {
            told: Told::default(),
            unfollowed: None,
            head: HeadStatus::NoHead,
            current: None,
            generations: vec![],
            instances: vec![],
            roots: vec![],
            overlap: true,
        };
        assert_eq!(reconcile(&first), Verdict::Agreement, "a first start");
    }

    #[test]
    fn each_witness_alone_is_enough() {
        let nothing = |it: &mut Facts| it.told = Told::default();
        let other = Unfollowed { first: 19, why: "record 19 holds a decision".into() };
        let ahead: [(&str, Facts); 9] = [
            ("records 19 to 20 are of another", with(|it| it.unfollowed = Some((other, 20)))),
            ("records 21 to 41 are lost", with(|it| it.head = HeadStatus::Short { records: 20, sealed: 41 })),
            ("record 20 is not the one", with(|it| it.head = HeadStatus::Other { seq: 20 })),
            ("record 35 started the instance", with(|it| it.instances.push(living(35, Slot::A, 3)))),
            ("current generation is 3 (/store/v3)", with(|it| it.current = Some(generation(3)))),
            ("the root cand_0005-drv", with(|it| it.roots.push("cand_0005-drv".into()))),
            ("current generation is 2", with(nothing)),
            (
                "there is no journal",
                with(|it| {
                    nothing(it);
                    (it.current, it.instances, it.roots) = (None, vec![], vec![]);
                }),
            ),
            (
                "has seen record 41, and there is no journal",
                with(|it| {
                    nothing(it);
                    (it.current, it.generations, it.instances, it.roots) = (None, vec![], vec![], vec![]);
                    it.head = HeadStatus::Short { records: 0, sealed: 41 };
                }),
            ),
        ];
        for (what, facts) in ahead {
            let Verdict::Ahead { facts } = reconcile(&facts) else { panic!("{what}") };
            assert!(facts.iter().any(|fact| fact.contains(what)), "{what}: {facts:?}");
            assert!(facts.last().is_some_and(|fact| fact.contains("quarantine")), "{facts:?}");
        }
    }

    #[test]
    fn the_profile_says_what_serves_and_the_instance_that_runs_it_goes_on() {
        let serves = |facts: &Facts| adopt(facts).serves.map(|(slot, it)| (slot, it.number));
        let v3 =
            |it: &mut Facts| (it.current, it.generations) = (Some(generation(3)), (1..=3).map(generation).collect());
        let cases: [(&str, Facts, (Slot, u64)); 9] = [
            ("it runs", agreeing(), (Slot::B, 2)),
            (
                "it runs in the slot that the journal does not have",
                with(|it| {
                    v3(it);
                    it.instances = vec![living(17, Slot::B, 2), living(35, Slot::A, 3)];
                }),
                (Slot::A, 3),
            ),
            ("a canary is no Active", with(|it| it.instances.push(living(35, Slot::A, 3))), (Slot::B, 2)),
            (
                "it does not run, and a canary does",
                with(|it| it.instances = vec![living(35, Slot::A, 3)]),
                (Slot::B, 2),
            ),
            ("nothing runs", with(|it| it.instances.clear()), (Slot::B, 2)),
            ("nothing can be told of the only one", with(|it| it.instances[0].store_path = None), (Slot::B, 2)),
            (
                "versions exclude each other, and another runs",
                with(|it| {
                    it.overlap = false;
                    it.instances = vec![living(35, Slot::A, 1)];
                }),
                (Slot::A, 1),
            ),
            ("no profile", with(|it| it.current = None), (Slot::B, 2)),
            ("it was started again", with(|it| it.instances.push(living(18, Slot::B, 2))), (Slot::B, 2)),
        ];
        for (what, facts, expected) in cases {
            assert_eq!(serves(&facts), Some(expected), "{what}");
        }
        let nothing = with(|it| (it.told, it.current, it.instances) = (Told::default(), None, vec![]));
        assert_eq!(adopt(&nothing), Adoption::default());
        let unknown = with(|it| (it.told, it.current, it.generations) = (Told::default(), None, vec![]));
        assert_eq!(serves(&unknown), Some((Slot::B, 0)), "what runs is better than nothing");
    }

    #[test]
    fn a_slot_has_its_newest_instance_and_none_that_only_drains() {
        let facts = with(|it| {
            it.instances = vec![living(17, Slot::B, 2), living(19, Slot::B, 2), living(20, Slot::A, 1)];
            it.instances[2].drains = true;
        });
        assert_eq!(adopt(&facts).occupants, [None, Some(1)]);
    }
}
