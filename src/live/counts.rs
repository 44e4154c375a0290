//! The requests of one route.

use serde::{Deserialize, Serialize};

use super::class::Class;
use super::latencies::Latencies;

/// How requests ended, and how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Requests by class, in the order of [`Class::ALL`].
    classes: [u64; Class::ALL.len()],
    /// How long requests took. A source may know the duration of some requests only, or of none.
    pub latencies: Latencies,
    /// Requests whose durations are known by their sum, and the sum in microseconds: wide steps of a histogram hide what the
    /// mean shows. Only metrics have it.
    pub measured: u64,
    /// The sum.
    pub sum_us: u64,
    /// Bytes that clients sent, with headers; 0 if the source does not know.
    pub bytes_in: u64,
    /// Bytes that clients got, with headers; 0 if the source does not know.
    pub bytes_out: u64,
}

impl Counts {
    /// Counts `count` requests that ended like this.
    pub fn add(&mut self, class: Class, count: u64) {
        let cell = &mut self.classes[class.index()];
        *cell = cell.saturating_add(count);
    }

    /// Takes out requests of a class that were counted, at most all of them.
    pub fn take(&mut self, class: Class, count: u64) {
        let cell = &mut self.classes[class.index()];
        *cell = cell.saturating_sub(count);
    }

    /// Counts one request with its duration in microseconds.
    pub fn request(&mut self, class: Class, us: u64) {
        self.add(class, 1);
        self.latencies.add(us, 1);
    }

    /// The requests of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class.index()]
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.classes.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The requests that the service failed.
    pub fn failed(&self) -> u64 {
        Class::ALL.into_iter().filter(|class| class.is_failure()).fold(0, |sum, it| sum.saturating_add(self.of(it)))
    }

    /// The mean duration in microseconds, of the requests that are known by their sum.
    pub fn mean_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.measured)
    }

    /// The memory of these counts, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.latencies.bytes()
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for class in Class::ALL {
            self.add(class, other.of(class));
        }
        self.latencies.merge(&other.latencies);
        self.measured = self.measured.saturating_add(other.measured);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
    }
}
