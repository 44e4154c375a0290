//! The requests of the version in a slot, as each source saw them.

use std::collections::BTreeMap;

use crate::time::Timestamp;

use super::sample::{Sample, Source};

/// What an operator sees covers this time, in milliseconds; at least half of it.
const RECENT_MS: u64 = 60_000;
/// The reference for a later candidate covers this time, in milliseconds; at least half of it.
const REFERENCE_MS: u64 = 900_000;

/// The requests of one version, by source. It keeps at most five samples for each source.
#[derive(Clone, Debug, Default)]
pub struct Series {
    sources: BTreeMap<Source, Seen>,
}

/// What one source saw.
#[derive(Clone, Debug)]
struct Seen {
    requests: u64,
    pending: Sample,
    recent: Window,
    reference: Window,
}

/// What a source saw in a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recent {
    /// What came in that time.
    pub sample: Sample,
    /// The time that it covers, in milliseconds.
    pub span_ms: u64,
}

impl Series {
    /// Adds what a source saw since its last sample.
    pub fn add(&mut self, at: Timestamp, source: Source, sample: &Sample) {
        let seen = self.sources.entry(source).or_insert_with(|| Seen {
            requests: 0,
            pending: Sample::default(),
            recent: Window::new(RECENT_MS, at),
            reference: Window::new(REFERENCE_MS, at),
        });
        seen.requests = seen.requests.saturating_add(sample.total().total());
        seen.pending.merge(sample);
        seen.recent.add(at, sample);
        seen.reference.add(at, sample);
    }

    /// Takes what each source saw since the last call.
    pub fn take_pending(&mut self) -> BTreeMap<Source, Sample> {
        self.sources.iter_mut().map(|(source, seen)| (*source, std::mem::take(&mut seen.pending))).collect()
    }

    /// The source that saw most requests, for all that takes only one; `None` if no source saw any.
    pub fn main_source(&self) -> Option<Source> {
        let seen = self.sources.iter().filter(|(_, seen)| seen.requests > 0);
        seen.max_by_key(|(_, seen)| seen.requests).map(|(source, _)| *source)
    }

    /// The clock was set back: forgets all that depends on a time.
    pub fn rewind(&mut self) {
        *self = Self::default();
    }

    /// The memory of all samples, in bytes.
    pub fn bytes(&self) -> usize {
        let seen = |it: &Seen| size_of::<Seen>() + it.pending.bytes() + it.recent.bytes() + it.reference.bytes();
        self.sources.values().map(seen).sum()
    }

    /// What came in about the last minute, by source.
    pub fn recent(&self, at: Timestamp) -> impl Iterator<Item = (Source, Recent)> + '_ {
        self.sources.iter().map(move |(source, seen)| (*source, seen.recent.read(at)))
    }

    /// What came in about the last quarter of an hour, by source: the reference for a version that comes after this one.
    pub fn reference(&self, at: Timestamp) -> BTreeMap<Source, Recent> {
        self.sources.iter().map(|(source, seen)| (*source, seen.reference.read(at))).collect()
    }
}

/// The samples of a sliding time, in two halves: the older one is dropped when the newer one is full.
#[derive(Clone, Debug)]
struct Window {
    half_ms: u64,
    older: Option<(Timestamp, Sample)>,
    newer: (Timestamp, Sample),
}

impl Window {
    fn new(span_ms: u64, at: Timestamp) -> Self {
        Self { half_ms: span_ms / 2, older: None, newer: (at, Sample::default()) }
    }

    /// The halves as they are at `at`.
    fn turn(&mut self, at: Timestamp) {
        let age_ms = at.ms_since(self.newer.0);
        if age_ms >= self.half_ms.saturating_mul(2) {
            (self.older, self.newer) = (None, (at, Sample::default()));
        } else if age_ms >= self.half_ms {
            self.older = Some(std::mem::replace(&mut self.newer, (at, Sample::default())));
        }
    }

    fn bytes(&self) -> usize {
        self.older.as_ref().map_or(0, |(_, sample)| sample.bytes()) + self.newer.1.bytes()
    }

    fn add(&mut self, at: Timestamp, sample: &Sample) {
        self.turn(at);
        self.newer.1.merge(sample);
    }

    fn read(&self, at: Timestamp) -> Recent {
        let mut window = self.clone();
        window.turn(at);
        let began = window.older.as_ref().map_or(window.newer.0, |(began, _)| *began);
        let mut sample = window.older.map(|(_, sample)| sample).unwrap_or_default();
        sample.merge(&window.newer.1);
        Recent { sample, span_ms: at.ms_since(began) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{Class, Route};

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000)
    }

    fn one() -> Sample {
        let mut sample = Sample::default();
        sample.route(Route::unnamed()).request(Class::Success, 1_000);
        sample
    }

    #[test]
    fn a_window_forgets_and_a_silence_empties_it() {
        let mut series = Series::default();
        for second in 0..300 {
            series.add(at(second), Source::Tap, &one());
        }
        let (_, recent) = series.recent(at(299)).next().unwrap();
        let requests = recent.sample.total().total();
        assert!((30..=60).contains(&requests), "{requests} requests at one a second");
        assert_eq!(recent.span_ms / 1_000 + 1, requests, "the time is that of the requests");
        assert_eq!(series.reference(at(299))[&Source::Tap].sample.total().total(), 300);
        let (_, later) = series.recent(at(400)).next().unwrap();
        assert_eq!((later.sample.total().total(), later.span_ms), (0, 0));
    }

    #[test]
    fn what_is_pending_is_taken_once_and_the_main_source_saw_most() {
        let mut series = Series::default();
        assert_eq!(series.main_source(), None);
        series.add(at(0), Source::Tap, &one());
        series.add(at(0), Source::Log, &one());
        series.add(at(1), Source::Log, &one());
        assert_eq!(series.main_source(), Some(Source::Log));
        assert_eq!(series.take_pending()[&Source::Log].total().total(), 2);
        assert!(series.take_pending()[&Source::Log].is_empty());
    }
}
