//! Simulates trials, and prints how often an honest version is called degraded and how soon a bad one is.
//!
//! `cargo run --release --example detection` prints the tables of README.md.

#[path = "../tests/live/world.rs"]
mod world;

use rei::interface::types::Verdict;
use world::{EVEN, HONEST, Version, World, run};

/// Honest trials of each row.
const HONEST_TRIALS: u64 = 10_000;
/// Bad trials of each cell, of which the median is shown.
const BAD_TRIALS: u64 = 100;
/// Seconds of an honest trial.
const SECONDS: u64 = 60;
/// Seconds after which a bad one is not found.
const SECONDS_MAX: u64 = 900;

fn main() {
    let trials = std::env::args().nth(1).and_then(|it| it.parse().ok()).unwrap_or(HONEST_TRIALS);
    let pauses = Version { pauses: 0.05, ..HONEST };
    let few = Version { errors: 0.001, ..HONEST };
    let many = Version { errors: 0.05, ..HONEST };
    println!("| honest trials of {SECONDS} s | called degraded | still in doubt at the end |\n|---|---|---|");
    for (name, world, version) in [
        ("independent requests", EVEN, HONEST),
        ("few failures", EVEN, few),
        ("many failures", EVEN, many),
        ("a share of 50 %", World { share: 0.5, ..EVEN }, HONEST),
        ("a share of 5 %", World { share: 0.05, ..EVEN }, HONEST),
        ("10 routes", World { routes: 10, ..EVEN }, HONEST),
        ("load, errors and durations change together", World { drifts: true, ..EVEN }, HONEST),
        ("each version pauses in 5 % of the seconds", EVEN, pauses),
        ("the same, a share of 5 %", World { share: 0.05, ..EVEN }, pauses),
        ("the same, a share of 50 %", World { share: 0.5, ..EVEN }, pauses),
        ("connections of 10 requests that end alike", World { connection: 10, ..EVEN }, HONEST),
        ("the same, many failures", World { connection: 10, ..EVEN }, many),
        ("the same, 1,000 a second", World { connection: 10, rate: 1_000.0, ..EVEN }, many),
        (
            "the same, 1,000 a second, a share of 5 %",
            World { connection: 10, share: 0.05, rate: 1_000.0, ..EVEN },
            many,
        ),
        ("5 % slower", EVEN, Version { factor: 1.05, ..HONEST }),
    ] {
        let reference = Version { factor: 1.0, ..version };
        let (mut degraded, mut doubt) = (0, 0);
        for seed in 0..trials {
            let (found, trial) = run(world, version, reference, SECONDS, seed);
            degraded += u64::from(found.is_some());
            doubt += u64::from(trial.judge().verdict == Verdict::Inconclusive);
        }
        let percent = |count: u64| 100.0 * count as f64 / trials as f64;
        println!("| {name} | {:.2} % | {:.1} % |", percent(degraded), percent(doubt));
    }
    println!();
    let rates = [10.0, 100.0, 1_000.0];
    println!("| share, and what is worse | 10 requests a second | 100 | 1,000 |\n|---|---|---|---|");
    for share in [0.05, 0.3] {
        for (name, version) in [
            ("errors of 3 %", Version { errors: 0.03, ..HONEST }),
            ("errors of 10 %", Version { errors: 0.1, ..HONEST }),
            ("errors of 30 %", Version { errors: 0.3, ..HONEST }),
            ("latency × 1.5", Version { factor: 1.5, errors: 0.0, ..HONEST }),
            ("latency × 3", Version { factor: 3.0, errors: 0.0, ..HONEST }),
        ] {
            let reference = Version { errors: 0.0, ..HONEST };
            let cell = |rate: f64| {
                let world = World { rate, share, ..EVEN };
                let found = |seed| run(world, version, reference, SECONDS_MAX, seed).0.unwrap_or(u64::MAX);
                let mut times: Vec<u64> = (0..BAD_TRIALS).map(found).collect();
                times.sort_unstable();
                let show = |at: usize| match times[at] {
                    u64::MAX => format!("> {SECONDS_MAX} s"),
                    seconds => format!("{seconds} s"),
                };
                format!("{} ({})", show(times.len() / 2), show(times.len() * 9 / 10))
            };
            let cells: Vec<String> = rates.map(cell).into();
            println!("| {:.0} %, {name} | {} |", share * 100.0, cells.join(" | "));
        }
    }
}
