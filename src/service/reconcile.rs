//! Compares reality with the journal. It is a pure function of facts.
//!
//! | witness | it is ahead of the journal if |
//! |---|---|
//! | records | another version of rei wrote some of them, and this version decides otherwise |
//! | sealed head | it has seen a record that the journal does not have, or that differs from the journal's record |
//! | instances | a record after the journal's last one started a living instance |
//! | profile | its current generation is higher than any that the journal knows; or the journal has no record |
//! | roots | a root belongs to a candidate that the journal does not know; or the journal has no record |
//!
//! The other direction is normal: a record is on disk before its effect. So after a crash reality may be behind the
//! journal, and the new supervisor executes the missing effects.

use crate::interface::types::Version;
use crate::journal::HeadStatus;
use crate::lifecycle::{Lifecycle, Slot};

/// The content of the journal that the other witnesses can contradict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journaled {
    /// The number of the last record; 0 if there is none.
    pub records: u64,
    /// The instances in the slots.
    pub instances: Vec<String>,
    /// Active's slot and generation.
    pub active: Option<(Slot, Generation)>,
    /// All generations that the journal knows, including those that are not in use any more.
    pub generations: Vec<u64>,
    /// Store paths in quarantine. One of them may still be current if a switch back was not executed.
    pub quarantined: Vec<String>,
    /// The number of the last candidate.
    pub candidates: u64,
}

/// A generation of the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its number; 0 for a version without a generation.
    pub number: u64,
    /// Its store path.
    pub store_path: String,
}

/// A living instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Its id.
    pub id: String,
    /// The pid of its main process.
    pub pid: u32,
    /// The number of the record that started it.
    pub seq: u64,
    /// Its slot.
    pub slot: Slot,
    /// Whether it only drains a queue of connections.
    pub drains: bool,
    /// The store path that it runs, if it is known.
    pub store_path: Option<String>,
}

/// Records that another version of rei has written, and that this version cannot replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfollowed {
    /// The number of the first of them. All later records are unusable too.
    pub first: u64,
    /// Why that record cannot be replayed.
    pub why: String,
}

/// The state of the machine, and the content of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The content of the journal.
    pub journaled: Journaled,
    /// Records at the journal's end that cannot be replayed, and the number of the last record.
    pub unfollowed: Option<(Unfollowed, u64)>,
    /// The result of comparing the journal with its sealed head.
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

/// The result of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No witness contradicts the journal.
    Agreement,
    /// Reality is ahead.
    Ahead {
        /// The facts that the journal does not contain, one line each, for a person.
        facts: Vec<String>,
    },
}

/// The instances and the version to adopt if reality is ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// The instance of slot A and of slot B, by its index in [`Facts::instances`].
    pub instances: [Option<usize>; 2],
    /// The slot and the generation that serve.
    pub serves: Option<(Slot, Generation)>,
}

impl Journaled {
    /// The content of a journal with this number of records, after replay.
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

/// The number of the candidate that a root belongs to; `None` for a root that belongs to no evolution.
pub fn candidate_of(root: &str) -> Option<u64> {
    root.strip_prefix("cand_")?.split('-').next()?.parse().ok()
}

/// Compares the witnesses with the journal.
pub fn reconcile(it: &Facts) -> Verdict {
    let journaled = &it.journaled;
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
    for instance in it.instances.iter().filter(|it| it.seq > journaled.records && !journaled.instances.contains(&it.id))
    {
        let Living { id, pid, seq, .. } = instance;
        facts.push(format!("record {seq} started the instance {id} (pid {pid}), and the journal does not have it"));
    }
    if let Some(Generation { number, store_path }) = &it.current
        && journaled.generations.iter().all(|known| known < number)
        && !journaled.quarantined.contains(store_path)
    {
        facts.push(format!(
            "the profile's current generation is {number} ({store_path}), which the journal does not know"
        ));
    }
    let unknown = |root: &&String| candidate_of(root).is_some_and(|number| number > journaled.candidates);
    if let Some(root) = it.roots.iter().rfind(unknown) {
        facts.push(format!("the root {root} belongs to a candidate that the journal does not know"));
    }
    if journaled.records == 0 && facts.is_empty() && !it.generations.is_empty() {
        facts.push("the profile has generations, and there is no journal".to_owned());
    }
    if facts.is_empty() {
        return Verdict::Agreement;
    }
    facts.push(
        "the quarantine entries of lost records are not known any more, so that content would be judged again"
            .to_owned(),
    );
    Verdict::Ahead { facts }
}

/// Decides which version serves if reality is ahead. It is the profile's current generation, because that was judged
/// once. The instance that runs it serves; if no instance runs it, a new instance in a free slot serves. Without a
/// profile the running version serves, and if nothing runs, the version that is Active in the journal.
pub fn adopt(it: &Facts) -> Adoption {
    let newest = |is_match: &dyn Fn(&Living) -> bool| {
        let fit = it.instances.iter().enumerate().filter(|(_, living)| !living.drains && is_match(living));
        fit.max_by_key(|(_, living)| living.seq)
    };
    let instances = Slot::ALL.map(|slot| newest(&|living| living.slot == slot).map(|(at, _)| at));
    let in_a_slot = |at: &usize| instances.contains(&Some(*at));
    let active = it.journaled.active.as_ref();
    let Some(current) = it.current.as_ref().or(active.map(|(_, generation)| generation)) else {
        let serves = newest(&|_| true).map(|(_, living)| (living.slot, number_of(it, living)));
        return Adoption { instances, serves };
    };
    let is_only_one = instances.iter().flatten().count() == 1;
    let runs_it = |living: &Living| match &living.store_path {
        Some(path) => *path == current.store_path,
        None => is_only_one,
    };
    if let Some((_, living)) = newest(&runs_it).filter(|(at, _)| in_a_slot(at)) {
        return Adoption { instances, serves: Some((living.slot, current.clone())) };
    }
    let usual = active.map_or(Slot::A, |(slot, _)| *slot);
    let free = [usual, usual.other()].into_iter().find(|slot| instances[slot.index()].is_none());
    let other = newest(&|_| true);
    let serves = match (other, free) {
        // Only one version may run at a time, or no slot is free: the running version continues to serve.
        (Some((_, living)), None) => (living.slot, number_of(it, living)),
        (Some((_, living)), Some(_)) if !it.overlap => (living.slot, number_of(it, living)),
        (_, Some(slot)) => (slot, current.clone()),
        (None, None) => (usual, current.clone()),
    };
    Adoption { instances, serves: Some(serves) }
}

/// The generation of the version that an instance runs.
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

    /// A journal of 20 records, whose Active is generation 2 in slot B. All witnesses agree.
    fn agreeing() -> Facts {
        Facts {
            journaled: Journaled {
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
    fn the_state_after_a_crash_does_not_contradict_the_journal() {
        let agree: [(&str, Facts); 9] = [
            ("all witnesses agree", agreeing()),
            ("an upgrade from a rei without a head", with(|it| it.head = HeadStatus::NoHead)),
            ("a head that was damaged", with(|it| it.head = HeadStatus::DamagedHead)),
            ("nothing runs", with(|it| it.instances.clear())),
            ("an instance is older than the journal's", with(|it| it.instances.push(living(4, Slot::A, 1)))),
            ("the switch was not executed", with(|it| it.current = Some(generation(1)))),
            ("a generation was prepared and not recorded", with(|it| it.generations.push(generation(3)))),
            ("a switch back was not executed", with(|it| it.current = Some(generation(9)))),
            (
                "the journal knows the instance since it was adopted",
                with(|it| {
                    it.journaled.instances.push("x-35-A".into());
                    it.instances.push(living(35, Slot::A, 2));
                }),
            ),
        ];
        for (what, facts) in agree {
            assert_eq!(reconcile(&facts), Verdict::Agreement, "{what}");
        }
        let first = Facts {
            journaled: Journaled::default(),
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
    fn one_witness_alone_can_contradict_the_journal() {
        let nothing = |it: &mut Facts| it.journaled = Journaled::default();
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
    fn the_current_generation_of_the_profile_serves_from_the_instance_that_runs_it() {
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
            ("a canary is not Active", with(|it| it.instances.push(living(35, Slot::A, 3))), (Slot::B, 2)),
            (
                "it does not run, and a canary does",
                with(|it| it.instances = vec![living(35, Slot::A, 3)]),
                (Slot::B, 2),
            ),
            ("nothing runs", with(|it| it.instances.clear()), (Slot::B, 2)),
            (
                "the store path of the only instance is not known",
                with(|it| it.instances[0].store_path = None),
                (Slot::B, 2),
            ),
            (
                "only one version may run at a time, and another one runs",
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
        let nothing = with(|it| (it.journaled, it.current, it.instances) = (Journaled::default(), None, vec![]));
        assert_eq!(adopt(&nothing), Adoption::default());
        let unknown = with(|it| (it.journaled, it.current, it.generations) = (Journaled::default(), None, vec![]));
        assert_eq!(
            serves(&unknown),
            Some((Slot::B, 0)),
            "the running version serves although its generation is not known"
        );
    }

    #[test]
    fn a_slot_gets_its_newest_instance_and_never_one_that_only_drains() {
        let facts = with(|it| {
            it.instances = vec![living(17, Slot::B, 2), living(19, Slot::B, 2), living(20, Slot::A, 1)];
            it.instances[2].drains = true;
        });
        assert_eq!(adopt(&facts).instances, [None, Some(1)]);
    }
}
