//! What the journal holds: one event of the lifecycle with the effects that follow from it.

use serde::{Deserialize, Serialize};

use crate::lifecycle::{Effect, Event, Lifecycle};
use crate::time::Timestamp;

/// The body of a journal record. The effects are written too, so that a reader needs no replay to know what was done,
/// and a replay can be compared with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// What was to be done about it.
    pub effects: Vec<Effect>,
}

/// What of an effect an error shows, in characters: its name and its first fields.
const EFFECT_CHARS_MAX: usize = 300;

/// A record whose decisions are not those that this program makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} holds a decision that this rei does not make: {recorded}, not {made}")]
pub struct Divergence {
    /// The record.
    pub seq: u64,
    /// The first effect that differs, as it is recorded, in JSON; `nothing` if there is none.
    pub recorded: String,
    /// The effect that this program gives in its place, in JSON; `nothing` if there is none.
    pub made: String,
}

/// The state that a journal leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The state after the last record that this program follows.
    pub state: Lifecycle,
    /// The first record that it does not follow. Another version of rei has written it.
    pub divergence: Option<Divergence>,
}

/// Rebuilds the state from records that follow `state`, up to the first whose decisions are not those that the core makes
/// today. Decisions are compared, not words: see [`Effect::decides_as`].
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

    /// The journal of a rei of commit 694bbea, format 1.0: a first version, a crash, a repair, a rollback and a rejection. It was
    /// written by `rei demo`.
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
    fn the_state_that_an_earlier_rei_has_stored_is_known() {
        let (_directory, opened) = of_694bbea(true);
        assert_eq!((opened.warnings, opened.records.len()), (Vec::<String>::new(), 0));
        let (seq, state) = opened.snapshot.unwrap();
        assert_eq!((seq, state.phase().name(), state.active().unwrap().generation), (67, "Steady", 2));
        assert_eq!(state.quarantine().len(), 2);
        assert!(matches!(&state.quarantine()[1].reason, Reason::Text(text) if text.contains("protected")));
    }

    #[test]
    fn the_records_of_an_earlier_rei_are_followed_until_it_decided_otherwise() {
        let (_directory, opened) = of_694bbea(false);
        let records = opened.records.iter().map(|record| (record.seq, record.at, &record.body));
        let Replayed { state, divergence } = replay(Lifecycle::default(), records);
        // Every word up to here is another one today. The first canary is where the decisions part: it had no deadline.
        let divergence = divergence.unwrap();
        assert_eq!((divergence.seq, opened.records.len()), (32, 67));
        assert!(divergence.recorded.contains("judges the canary at 20 %"), "{divergence}");
        assert!(divergence.made.contains("ends_wait_for_data"), "{divergence}");
        assert_eq!((state.phase().name(), state.active().unwrap().generation), ("Canary", 1));
    }
}
