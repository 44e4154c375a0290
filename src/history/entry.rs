//! The body of a journal record: one event of the lifecycle, its effects, and the phase of the lifecycle after it.

use serde::{Deserialize, Deserializer, Serialize};

use crate::interface::types::EvolutionId;
use crate::lifecycle::{CanaryStage, Effect, Event, Lifecycle, Phase};
use crate::time::Timestamp;

/// The body of a journal record. The effects are written too, so that a reader knows them without a replay, and a
/// replay can be compared with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// The effects that the lifecycle decided.
    pub effects: Vec<Effect>,
    /// The phase of the lifecycle after the event. Records of the formats 1.0 and 1.1 do not contain it. No decision
    /// depends on it, so a replay does not compare it. If this version does not know the phase, it is read as `None`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "if_known", rename = "stands")]
    pub state: Option<StateSummary>,
}

impl Entry {
    /// The entry about `event`, which led to these effects and to the state `after`.
    pub fn new(event: Event, effects: Vec<Effect>, after: &Lifecycle) -> Self {
        Self { event, effects, state: Some(StateSummary::of(after)) }
    }
}

/// The phase of the lifecycle, with its evolution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSummary {
    /// The phase, with its stage.
    #[serde(flatten)]
    pub phase: Phase,
    /// The evolution under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolution: Option<EvolutionId>,
    /// In a canary step: the candidate's share of new connections, in parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_ppm: Option<u32>,
}

impl StateSummary {
    /// The phase and the evolution of this state.
    pub fn of(core: &Lifecycle) -> Self {
        Self {
            phase: core.phase(),
            evolution: core.evolution().map(|evolution| evolution.id.clone()),
            share_ppm: core.routing().filter(|_| is_canary_step(core.phase())).map(|routing| routing.other_ppm),
        }
    }
}

/// Whether the candidate gets a share of the new connections in this phase.
pub(super) const fn is_canary_step(phase: Phase) -> bool {
    matches!(phase, Phase::Canary { stage: CanaryStage::Share { .. } })
}

/// Reads the stored value; `None` if this version does not know it.
fn if_known<'de, D: Deserializer<'de>>(stored: D) -> Result<Option<StateSummary>, D::Error> {
    let stored = Option::<serde_json::Value>::deserialize(stored)?;
    Ok(stored.and_then(|stored| serde_json::from_value(stored).ok()))
}

/// The number of characters of an effect that an error shows: its name and its first fields.
const EFFECT_CHARS_MAX: usize = 300;

/// A record whose decisions differ from those that this program makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} holds a decision that this rei does not make: {recorded}, not {made}")]
pub struct Divergence {
    /// The number of the record.
    pub seq: u64,
    /// The recorded effect at the first difference, in JSON; `nothing` if there is none.
    pub recorded: String,
    /// The effect that this program decides at the same place, in JSON; `nothing` if there is none.
    pub made: String,
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The state after the last record that this program could replay.
    pub state: Lifecycle,
    /// The first record that this program could not replay. Another version of rei has written it.
    pub divergence: Option<Divergence>,
}

/// Rebuilds the state from the records after `state`. It stops before the first record whose decisions differ from the
/// decisions of this program. Decisions are compared and words are not: see [`Effect::decides_as`].
pub fn replay<'a>(mut state: Lifecycle, records: impl IntoIterator<Item = (u64, Timestamp, &'a Entry)>) -> Replayed {
    for (seq, at, entry) in records {
        let mut next = state.clone();
        let made = next.step(at, entry.event.clone());
        if let Some(divergence) = divergence(seq, &entry.effects, &made) {
            return Replayed { state, divergence: Some(divergence) };
        }
        state = next;
    }
    Replayed { state, divergence: None }
}

fn divergence(seq: u64, recorded: &[Effect], made: &[Effect]) -> Option<Divergence> {
    let longest = recorded.len().max(made.len());
    let at = (0..longest).find(|&at| match (recorded.get(at), made.get(at)) {
        (Some(recorded), Some(made)) => !recorded.decides_as(made),
        (_, _) => true,
    })?;
    let text = |effect: Option<&Effect>| {
        let text = effect.map_or_else(|| "nothing".to_owned(), |it| serde_json::to_string(it).unwrap_or_default());
        text.chars().take(EFFECT_CHARS_MAX).collect()
    };
    Some(Divergence { seq, recorded: text(recorded.get(at)), made: text(made.get(at)) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::{Journal, Meta, Opened};
    use crate::lifecycle::{Reason, Timer};

    fn entry(stored: &str) -> Entry {
        serde_json::from_str(stored).unwrap()
    }

    #[test]
    fn an_entry_contains_the_phase_after_its_event() {
        let entry = Entry::new(Event::Due(Timer::Phase), vec![], &Lifecycle::default());
        let stored = serde_json::to_string(&entry).unwrap();
        assert_eq!(stored, r#"{"event":{"event":"due","phase":null},"effects":[],"stands":{"phase":"empty"}}"#);
        let stage = CanaryStage::Share { index: 1, judging: true };
        let state = StateSummary {
            phase: Phase::Canary { stage },
            evolution: Some(EvolutionId::numbered(2)),
            share_ppm: Some(50_000),
        };
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(
            stored,
            r#"{"phase":"canary","stage":{"stage":"share","index":1,"judging":true},"evolution":"evo_0002","share_ppm":50000}"#
        );
        assert_eq!(serde_json::from_str::<StateSummary>(&stored).unwrap(), state);
    }

    #[test]
    fn an_entry_of_an_earlier_or_a_later_rei_is_read() {
        let earlier = r#"{"event":{"event":"ready","slot":"A"},"effects":[]}"#;
        assert_eq!(entry(earlier).state, None);
        let later = r#"{"event":{"event":"ready","slot":"A"},"effects":[],"stands":{"phase":"of_a_later_rei"}}"#;
        assert_eq!(entry(later), entry(earlier));
    }

    fn timer(reason: Reason) -> Effect {
        Effect::SetTimer { timer: Timer::Phase, at: Timestamp::from_unix_ms(1), reason }
    }

    #[test]
    fn decisions_are_compared_and_words_are_not() {
        let words = timer("gives the build up".to_owned().into());
        assert_eq!(divergence(7, std::slice::from_ref(&words), &[timer(Reason::GivesUpBuild)]), None);
        let later =
            Effect::SetTimer { timer: Timer::Phase, at: Timestamp::from_unix_ms(2), reason: Reason::GivesUpBuild };
        let found = divergence(7, &[Effect::Judge, words], &[Effect::Judge, later]).unwrap();
        assert!(found.recorded.contains("gives the build up"), "{found}");
        let found = divergence(7, &[], &[Effect::Judge]).unwrap();
        assert_eq!((found.seq, &*found.recorded, &*found.made), (7, "nothing", r#"{"effect":"judge"}"#));
    }

    /// The journal of the rei of commit 694bbea, format 1.0: a first version, a crash, a repair, a rollback and a
    /// rejection. It was written by `rei demo`.
    fn of_694bbea(with_snapshot: bool) -> (tempfile::TempDir, Opened<Entry, Lifecycle>) {
        let (fixture, copy) = (
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal/694bbea"),
            tempfile::tempdir().unwrap(),
        );
        let mut files = vec!["000000000001.jsonl"];
        if with_snapshot {
            std::fs::create_dir(copy.path().join("snapshots")).unwrap();
            files.push("snapshots/000000000067.json");
        }
        for file in files {
            std::fs::copy(fixture.join(file), copy.path().join(file)).unwrap();
        }
        let (_, opened) =
            Journal::open(copy.path(), &Meta { runtime: "greeter".into(), created: Timestamp::default() }).unwrap();
        (copy, opened)
    }

    #[test]
    fn a_snapshot_of_an_earlier_rei_is_read() {
        let (_directory, opened) = of_694bbea(true);
        assert_eq!((opened.warnings, opened.records.len()), (Vec::<String>::new(), 0));
        let (seq, state) = opened.snapshot.unwrap();
        assert_eq!((seq, state.phase().name(), state.active().unwrap().generation), (67, "Steady", 2));
        assert_eq!(state.quarantine().len(), 2);
        assert!(matches!(&state.quarantine()[1].reason, Reason::Text(text) if text.contains("protected")));
    }

    #[test]
    fn the_records_of_an_earlier_rei_are_replayed_until_its_decisions_differ() {
        let (_directory, opened) = of_694bbea(false);
        let records = opened.records.iter().map(|record| (record.seq, record.at, &record.body));
        let Replayed { state, divergence } = replay(Lifecycle::default(), records);
        // Before this record only words differ. The decisions differ first at the first canary, which had no deadline
        // then.
        let divergence = divergence.unwrap();
        assert_eq!((divergence.seq, opened.records.len()), (32, 67));
        assert!(divergence.recorded.contains("judges the canary at 20 %"), "{divergence}");
        assert!(divergence.made.contains("ends_wait_for_data"), "{divergence}");
        assert_eq!((state.phase().name(), state.active().unwrap().generation), ("Canary", 1));
    }
}
