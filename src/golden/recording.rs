//! Makes a golden run out of a stream of live exchanges.
//!
//! The tap offers each exchange that it saw whole. The sample is in memory; what leaves it is a run without credentials.

use super::capture::{Captured, Redacted};
use super::format::{EXCHANGES_MAX, GoldenRun, Header, Recording};
use super::reservoir::{Reservoir, SampleLimits};
use crate::time::Timestamp;

/// A recording that is under way.
#[derive(Debug)]
pub struct Recorder {
    begun: Timestamp,
    sample: Reservoir,
    /// Exchanges are not taken now: a canary or a window is under way, in which the service may answer what it never would.
    is_paused: bool,
    /// Exchanges that came during a pause.
    paused: u64,
}

impl Recorder {
    /// A recording that begins now. The same seed and the same exchanges give the same run.
    pub fn new(limits: SampleLimits, seed: u64, begun: Timestamp) -> Self {
        let exchanges = limits.exchanges.min(EXCHANGES_MAX);
        let sample = Reservoir::new(SampleLimits { exchanges, ..limits }, seed);
        Self { begun, sample, is_paused: false, paused: 0 }
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

    /// Ends the recording: the run with the exchanges of the sample, in the order of time, without credentials.
    pub fn finish(self, name: &str, listener: &str) -> GoldenRun {
        let Self { begun, sample, .. } = self;
        let seen = sample.seen();
        let mut header = Header::of_live(name, listener, begun, Recording::default());
        let (mut exchanges, mut removed_credentials) = (Vec::new(), 0);
        for captured in sample.finish() {
            let Redacted { exchange, normalisers, removed } = captured.redacted(begun);
            removed_credentials += removed as u64;
            for rule in normalisers {
                if !header.normalisers.contains(&rule) {
                    header.normalisers.push(rule);
                }
            }
            exchanges.push(exchange);
        }
        let sampled = exchanges.len() as u64;
        header.recording = Some(Recording { seen, sampled, removed_credentials, ..Recording::default() });
        GoldenRun { header, exchanges }
    }
}
