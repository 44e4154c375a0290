//! Simulated traffic of two versions: each second has so many requests, which end and take as long as the world says.

use rei::live::{Class, Counts, Latencies, Limits, Route, Sample, Trial};
use rei::time::Timestamp;

/// A generator with a seed (SplitMix64), so that each run is the same.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5151)
    }

    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        (0..n).filter(|_| self.chance(p)).count() as u64
    }
}

/// How one version behaves.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The part of requests that fail.
    pub errors: f64,
    /// How many times as long requests take.
    pub factor: f64,
    /// Pauses in a second: all requests of that second take a second, or half of them fail.
    pub pauses: f64,
}

pub const HONEST: Version = Version { errors: 0.01, factor: 1.0, pauses: 0.0 };

/// What both versions share.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Requests in a second to both together, and the candidate's part.
    pub rate: f64,
    pub share: f64,
    pub routes: u64,
    /// Load, errors and durations change over time, for both.
    pub drifts: bool,
    /// Requests of a connection, which end and take equally long.
    pub connection: u64,
}

pub const EVEN: World = World { rate: 100.0, share: 0.3, routes: 1, drifts: false, connection: 1 };

/// A run of a trial.
pub struct Run {
    world: World,
    dice: Dice,
    second: u64,
    routes: Vec<Route>,
    buckets: Vec<u8>,
}

impl Run {
    pub fn new(world: World, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let routes = (0..world.routes).map(|index| Route::named("GET", &format!("/{index}"))).collect();
        // Durations around 20 ms with a long tail.
        let buckets = (0..512).map(|_| Latencies::bucket((20_000.0 * (0.6 * dice.normal()).exp()) as u64)).collect();
        Self { world, dice, second: 0, routes, buckets }
    }

    pub fn at(&self) -> Timestamp {
        Timestamp::from_unix_ms(1_000_000_000_000 + self.second * 1_000)
    }

    /// What one version has in one second.
    fn side(&mut self, part: f64, version: Version, phase: f64) -> Sample {
        let World { rate, drifts, connection, .. } = self.world;
        let wave = if drifts { 1.0 + 0.8 * (self.second as f64 / 7.0 + phase).sin() } else { 1.0 };
        // With the load, errors and durations of both rise.
        let (errors, slower) = (version.errors * wave * wave, version.factor * wave.max(0.5));
        let shift = (8.0 * slower.log2()).round() as i16;
        let paused = self.dice.chance(version.pauses);
        let mut sample = Sample::default();
        let connections = self.dice.poisson(rate * part * wave / connection as f64);
        for index in 0..self.routes.len() {
            let here = self.dice.of_route(connections, self.routes.len() as u64);
            let failed = self.dice.binomial(here, if paused { 0.5 } else { errors });
            let mut counts = Counts::default();
            counts.add(Class::ServerError, failed * connection);
            counts.add(Class::Success, (here - failed) * connection);
            for _ in 0..here {
                let usual = self.buckets[(self.dice.unit() * 512.0) as usize];
                let bucket = u8::try_from((i16::from(usual) + shift).clamp(0, 175)).unwrap();
                let bucket = if paused { bucket.max(Latencies::bucket(500_000)) } else { bucket };
                counts.latencies.add_to(bucket, connection);
            }
            if here > 0 {
                *sample.route(self.routes[index].clone()) = counts;
            }
        }
        sample
    }

    /// The next second: the candidate's requests and the reference's.
    pub fn next(&mut self, candidate: Version, reference: Version) -> (Sample, Sample) {
        let phase = 0.0;
        let one = self.side(self.world.share, candidate, phase);
        let other = self.side(1.0 - self.world.share, reference, phase);
        self.second += 1;
        (one, other)
    }
}

impl Dice {
    /// The connections of one of several equal routes: each has an equal part of the mean.
    fn of_route(&mut self, all: u64, routes: u64) -> u64 {
        if routes == 1 { all } else { self.poisson(all as f64 / routes as f64) }
    }
}

pub fn limits() -> Limits {
    Limits { requests_min: 50, failures: None, p99_us: None }
}

/// Runs a trial; the second in which the candidate was called degraded, and the last trial.
pub fn run(world: World, candidate: Version, reference: Version, seconds: u64, seed: u64) -> (Option<u64>, Trial) {
    run_as(world, candidate, reference, seconds, seed, Clone::clone)
}

/// The same, as a source sees it.
pub fn run_as(
    world: World,
    candidate: Version,
    reference: Version,
    seconds: u64,
    seed: u64,
    seen: fn(&Sample) -> Sample,
) -> (Option<u64>, Trial) {
    let mut run = Run::new(world, seed);
    let mut trial = Trial::beside(limits());
    for _ in 0..3 {
        trial.learn(&seen(&run.next(reference, reference).1));
    }
    for second in 1..=seconds {
        let at = run.at();
        let (one, other) = run.next(candidate, reference);
        trial.block(at, &seen(&one), &seen(&other));
        if trial.has_failed() {
            return (Some(second), trial);
        }
    }
    (None, trial)
}
