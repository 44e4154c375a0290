//! Makes a golden run out of a stream of live exchanges.
//!
//! The tap offers each exchange that it saw whole. The sample is in memory; what leaves it is a redacted run.

use std::collections::BTreeMap;

use super::capture::Captured;
use super::format::{EXCHANGES_MAX, GoldenRun, Header, Recording};
use super::redact::{RedactedRun, Redaction};
use super::reservoir::{Reservoir, SampleLimits};
use crate::redact::Secrets;
use crate::time::Timestamp;

/// A recording that is under way. A copy of it gives the run so far.
#[derive(Clone, Debug)]
pub struct Recorder {
    begun: Timestamp,
    sample: Reservoir,
    /// Exchanges are not taken now: a canary or a window is under way, in which the service may answer what it never would.
    is_paused: bool,
    /// Exchanges that came during a pause.
    paused: u64,
    /// The secrets of the configuration.
    secrets: Secrets,
}

impl Recorder {
    /// A recording that begins now. The same seed and the same exchanges give the same run.
    pub fn new(limits: SampleLimits, seed: u64, begun: Timestamp) -> Self {
        let exchanges = limits.exchanges.min(EXCHANGES_MAX);
        let sample = Reservoir::new(SampleLimits { exchanges, ..limits }, seed);
        Self { begun, sample, is_paused: false, paused: 0, secrets: Secrets::default() }
    }

    /// Also replaces these secrets, wherever a message has them.
    #[must_use]
    pub fn knowing(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    /// Begins or ends a pause.
    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Whether exchanges are not taken now.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Offers an exchange.
    pub fn offer(&mut self, exchange: Captured) {
        if self.is_paused {
            self.paused += 1;
        } else {
            self.sample.offer(exchange);
        }
    }

    /// Exchanges that were offered, that the sample holds, and that came during a pause.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.sample.seen(), self.sample.len() as u64, self.paused)
    }

    /// Ends the recording: the run with the exchanges of the sample, in the order of time, redacted.
    ///
    /// This is the only way from live traffic to a file.
    pub fn finish(self, name: &str, listener: &str) -> GoldenRun {
        let Self { begun, sample, secrets, .. } = self;
        let seen = sample.seen();
        let header = Header::of_live(name, listener, begun, Recording::default());
        let mut sample = sample.finish();
        // The tap's numbers of connections are long, and say when the tap was started.
        let mut numbers = BTreeMap::new();
        for captured in &mut sample {
            let next = numbers.len() as u64 + 1;
            captured.connection = *numbers.entry(captured.connection).or_insert(next);
        }
        let exchanges: Vec<_> = sample.into_iter().map(|captured| captured.exchange(begun)).collect();
        let sampled = exchanges.len() as u64;
        let mut run = GoldenRun { header, exchanges };
        let RedactedRun { places, not_kept } = Redaction::new(&secrets).run(&mut run);
        let (removed_credentials, not_redactable) = (places.len() as u64, not_kept.len() as u64);
        run.header.recording =
            Some(Recording { seen, sampled, removed_credentials, not_redactable, ..Recording::default() });
        run
    }
}
