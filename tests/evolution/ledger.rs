//! The replayed journal: phases, evolutions, and the routing of traffic over time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use rei::history::entry::Entry;
use rei::interface::types::MaintenanceAction;
use rei::journal::{Reader, Record};
use rei::lifecycle::{Effect, Event, Lifecycle, Phase, Slot, WHOLE_PPM};

use crate::load::Tally;

/// The longest time from a decision to its switch: a write and a system call, on a busy machine. Later connections are routed as
/// decided.
const SWITCH_MS: u64 = 400;
/// The number of new connections in an interval that is enough to check a share.
const SAMPLE_MIN: usize = 60;

/// A journal, with the state after each record.
pub struct Ledger {
    pub records: Vec<Record<Entry>>,
    pub states: Vec<Lifecycle>,
}

impl Ledger {
    /// Reads and verifies the whole journal.
    pub fn read(directory: &Path) -> Self {
        let reader = Reader::open(directory).expect("a journal");
        let mut records = Vec::new();
        let verified = reader.records(1, |record| {
            records.push(record);
            ControlFlow::Continue(())
        });
        verified.expect("a sound journal");
        let mut state = Lifecycle::default();
        let states = records.iter().map(|record: &Record<Entry>| {
            let effects = state.step(record.at, record.body.event.clone());
            assert_eq!(effects, record.body.effects, "the effects of record {} differ in the replay", record.seq);
            state.clone()
        });
        let states = states.collect();
        Self { records, states }
    }

    /// A line for each record, to find out why a test takes long.
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for (record, state) in self.records.iter().zip(&self.states) {
            let event = serde_json::to_value(&record.body.event).expect("JSON").to_string();
            let event: String = event.chars().take(220).collect();
            lines.push_str(&format!("{} {} {} {event}\n", record.seq, record.at, state.phase().name()));
        }
        lines
    }

    /// The phases in which supervisors were killed, with the phase after each recovery.
    pub fn recoveries(&self) -> Vec<(&'static str, &'static str)> {
        let recovered = |(at, record): (usize, &Record<Entry>)| {
            let before = self.states.get(at.checked_sub(1)?)?;
            matches!(record.body.event, Event::Recovered { .. })
                .then(|| (before.phase().name(), self.states[at].phase().name()))
        };
        self.records.iter().enumerate().filter_map(recovered).collect()
    }

    /// The recorded ends of each evolution, in order.
    pub fn ends(&self) -> BTreeMap<String, Vec<MaintenanceAction>> {
        let mut ends: BTreeMap<String, Vec<MaintenanceAction>> = BTreeMap::new();
        for (record, state) in self.records.iter().zip(&self.states) {
            if let Some(evolution) = state.evolution() {
                ends.entry(evolution.id.0.clone()).or_default();
            }
            for effect in &record.body.effects {
                if let Effect::Record(it) = effect
                    && it.action != MaintenanceAction::Restarted
                    && let Some(evolution) = &it.evolution
                {
                    ends.entry(evolution.0.clone()).or_default().push(it.action);
                }
            }
        }
        ends
    }

    /// The commits of all evolutions, in order; the first version has no evolution to a commit.
    pub fn commits(&self) -> Vec<String> {
        let mut commits: BTreeMap<&str, &str> = BTreeMap::new();
        let installed = |state: &&Lifecycle| state.phase() != Phase::Installing;
        for evolution in self.states.iter().filter(installed).filter_map(Lifecycle::evolution) {
            if let Some(rev) = &evolution.rev {
                commits.insert(&evolution.id.0, rev);
            }
        }
        commits.into_values().map(str::to_owned).collect()
    }

    /// Compares the answers with the decisions: only versions of the routing got a new connection, and no version got more than its
    /// share. `version_of` returns the answer of a store path. Returns the number of compared connections and of intervals.
    pub fn compare_with(&self, tally: &Tally, version_of: impl Fn(&str) -> String) -> (usize, usize) {
        let mut intervals: Vec<(u64, u64, BTreeMap<String, u32>)> = Vec::new();
        let mut taken_over = false;
        for (record, state) in self.records.iter().zip(&self.states) {
            let Some(routing) = state.routing() else { continue };
            let mut shares = BTreeMap::new();
            for slot in Slot::ALL {
                let version = state.slot(slot).version.as_ref().map(|version| version_of(&version.store_path));
                if let Some(version) = version.filter(|_| routing.share_ppm(slot) > 0) {
                    *shares.entry(version).or_default() += routing.share_ppm(slot);
                }
            }
            match state.phase() {
                // The time of the switch is not exact; both routings are right here.
                Phase::Promoting { .. } => {
                    let version = state.evolution().and_then(|it| it.version.as_ref());
                    shares.extend(version.map(|version| (version_of(&version.store_path), WHOLE_PPM)));
                }
                // The same here, but a supervisor that takes over must not undo a decision.
                Phase::RollingBack { .. } if matches!(record.body.event, Event::Recovered { .. }) => taken_over = true,
                Phase::RollingBack { .. } if !taken_over => {
                    shares.extend(intervals.last().into_iter().flat_map(|(_, _, before)| before.clone()));
                }
                _ => taken_over = false,
            }
            let at = record.at.as_unix_ms();
            if let Some(last) = intervals.last_mut() {
                last.1 = at;
                if last.2 == shares {
                    continue;
                }
            }
            intervals.push((at, at, shares));
        }
        if let Some(last) = intervals.last_mut() {
            last.1 = u64::MAX;
        }
        let (mut connections, mut compared) = (0, 0);
        let mut fresh: Vec<_> = tally.answers.iter().filter(|answer| answer.first).collect();
        fresh.sort_by_key(|answer| answer.connected_ms);
        for (begin, end, shares) in &intervals {
            // Connections that started shortly before the end may already have the next routing.
            let (from, to) = (begin + SWITCH_MS, end.saturating_sub(SWITCH_MS));
            let within = fresh.iter().filter(|it| it.connected_ms >= from && it.connected_ms < to);
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            within.for_each(|it| *seen.entry(it.version.as_str()).or_default() += 1);
            let all: usize = seen.values().sum();
            connections += all;
            compared += usize::from(all > 0);
            for (version, count) in seen {
                let share = f64::from(shares.get(version).copied().unwrap_or(0)) / f64::from(WHOLE_PPM);
                assert!(
                    share > 0.0,
                    "{version} answered {count} of {all} connections, while the routing was {shares:?}, from {begin} to {end}"
                );
                let (n, expected) = (all as f64, share * all as f64);
                let excess = (count as f64 - expected) / (n * share * (1.0 - share)).sqrt().max(1.0);
                assert!(
                    all < SAMPLE_MIN || excess < 6.0,
                    "{version} answered {count} of {all} connections, while the routing was {shares:?}, from {begin} to {end}"
                );
            }
        }
        (connections, compared)
    }
}
