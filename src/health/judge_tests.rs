//! The judge, by table and by simulation: what it must see, what it must let pass, and how often it errs.

use std::time::Duration;

use super::evidence::COLD;
use super::tests::{at, crash, feed, incidents, monitor, ok, probe};
use super::*;
use crate::config::LatencyBound;
use crate::interface::types::{HealthStatus, PolicyAnomaly, ProcessUsage, RuntimeHealthReport, RuntimeRef, Verdict};

fn bounds() -> Bounds {
    Bounds { latency: None, errors: None, samples_min: 10, compares_probes: true }
}

/// A process that has answered before.
fn warm() -> Monitor {
    let mut monitor = monitor();
    monitor.evidence.process.measured = COLD;
    monitor
}

fn watched(signals: impl IntoIterator<Item = Signal>) -> Monitor {
    let mut monitor = warm();
    for (second, signal) in signals.into_iter().enumerate() {
        monitor.observe(at(second as u64), signal);
    }
    monitor
}

fn judged(candidate: &Monitor, baseline: Option<&Monitor>, bounds: &Bounds) -> Analysis {
    judge(candidate, baseline.map(Comparison::Beside), at(0), candidate.evidence.now, bounds)
}

#[test]
fn no_data_is_inconclusive_and_says_what_it_waits_for() {
    let none = judged(&monitor(), Some(&watched((0..60).map(|_| ok(5)))), &bounds());
    assert_eq!(none.verdict, Verdict::Inconclusive);
    assert_eq!(none.waits_for.as_deref(), Some("10 more probes"));
    let few = judged(&watched((0..7).map(|_| ok(5))), None, &bounds());
    assert_eq!((few.verdict, few.waits_for.as_deref()), (Verdict::Inconclusive, Some("3 more probes")));
    let stale = watched((0..60).map(|_| ok(5)));
    assert_eq!(judge(&stale, None, at(500), at(600), &bounds()).verdict, Verdict::Inconclusive);
}

#[test]
fn a_healthy_candidate_passes_with_and_without_a_baseline() {
    let candidate = watched((0..30).map(|i| ok(5 + i % 4)));
    let active = watched((0..30).map(|i| ok(5 + (i + 1) % 4)));
    for baseline in [None, Some(&active)] {
        let analysis = judged(&candidate, baseline, &Bounds::of(&incidents()));
        assert_eq!((analysis.verdict, analysis.waits_for), (Verdict::Pass, None), "{:?}", analysis.reasons);
    }
}

#[test]
fn seven_of_ten_samples_a_hundred_times_slower_fail() {
    let candidate = watched((0..10).map(|i| ok(if i < 3 { 5 } else { 200 })));
    let active = watched((0..10).map(|_| ok(2)));
    let analysis = judged(&candidate, Some(&active), &bounds());
    assert_eq!(analysis.verdict, Verdict::Fail);
    assert!(analysis.reasons.iter().any(|it| it.contains("higher than the baseline")), "{:?}", analysis.reasons);
}

#[test]
fn a_slow_tail_fails_where_the_bulk_is_alike() {
    let tail = |seconds| watched((0..seconds).map(|i| ok(if i % 20 == 0 { 150 } else { 5 })));
    let flat = |seconds| watched((0..seconds).map(|_| ok(5)));
    assert_eq!(judged(&tail(120), Some(&flat(120)), &bounds()).verdict, Verdict::Fail, "6 of 120");
    assert_eq!(judged(&tail(60), Some(&flat(60)), &bounds()).verdict, Verdict::Inconclusive, "3 of 60 ask for more");
    let candidate = tail(60);
    assert_eq!(judged(&candidate, None, &bounds()).verdict, Verdict::Pass, "without a bound and a baseline");
    let bound = LatencyBound { p99: Duration::from_millis(100), r#for: Duration::from_secs(10) };
    let bounded = Bounds { latency: Some(bound), ..bounds() };
    assert_eq!(judged(&candidate, None, &bounded).verdict, Verdict::Fail);
    let one = watched((0..30).map(|i| ok(if i == 20 { 150 } else { 5 })));
    assert_eq!(judged(&one, None, &bounded).verdict, Verdict::Inconclusive, "one slow probe waits for more");
    let more = watched((0..60).map(|i| ok(if i == 20 { 150 } else { 5 })));
    assert_eq!(judged(&more, None, &bounded).verdict, Verdict::Pass, "and passes when more are fine");
}

#[test]
fn a_cold_start_is_no_regression_and_passes_when_it_is_over() {
    let starting = |slow: u64, seconds| {
        let mut candidate = monitor();
        feed(&mut candidate, 0..seconds, |i| ok(if i < slow { 200 } else { 5 }));
        candidate
    };
    let active = watched((0..120).map(|_| ok(5)));
    let early = judged(&starting(8, 15), Some(&active), &bounds());
    assert_eq!(
        (early.verdict, early.waits_for.unwrap().as_str()),
        (Verdict::Inconclusive, "5 more probes of the warm process")
    );
    assert_eq!(judged(&starting(8, 30), Some(&active), &Bounds::of(&incidents())).verdict, Verdict::Pass);
    assert_eq!(judged(&starting(30, 30), Some(&active), &bounds()).verdict, Verdict::Fail, "it stays slow");
    let bound = LatencyBound { p99: Duration::from_millis(100), r#for: Duration::from_secs(10) };
    let bounded = Bounds { latency: Some(bound), ..bounds() };
    assert_eq!(judged(&starting(8, 30), Some(&active), &bounded).verdict, Verdict::Fail, "the bound is for all");
    let mut again = starting(8, 30);
    again.observe(at(30), Signal::Restarted);
    feed(&mut again, 31..38, |_| ok(200));
    let analysis = judge(&again, Some(Comparison::Beside(&active)), at(0), at(38), &bounds());
    assert_eq!(analysis.verdict, Verdict::Inconclusive, "another process is cold again: {:?}", analysis.reasons);
}

#[test]
fn small_shifts_are_no_regression() {
    let active = watched((0..120).map(|i| ok(10 + i % 5)));
    let candidate = watched((0..120).map(|i| ok(11 + i % 5)));
    assert_eq!(judged(&candidate, Some(&active), &bounds()).verdict, Verdict::Pass, "10 % is inside the band");
}

#[test]
fn sparse_failures_fail_against_a_clean_baseline() {
    let sparse = |i: u64| if i % 100 == 50 { probe(ProbeOutcome::Failed, 1) } else { ok(5) };
    let candidate = watched((0..300).map(sparse));
    let clean = watched((0..300).map(|_| ok(5)));
    let bounded = Bounds::of(&incidents());
    assert_eq!(judged(&candidate, Some(&clean), &bounded).verdict, Verdict::Fail, "1 % of 300 against none of 300");
    assert_eq!(judged(&candidate, None, &bounded).verdict, Verdict::Pass, "the operator allows 5 %");
    assert_eq!(judged(&candidate, None, &bounds()).verdict, Verdict::Fail, "nothing excuses them");
    let alike = watched((0..300).map(sparse));
    assert_eq!(judged(&candidate, Some(&alike), &bounds()).verdict, Verdict::Pass, "Active fails as often");
}

#[test]
fn a_baseline_without_data_does_not_excuse_the_candidate() {
    let candidate = watched((0..30).map(|i| if i % 5 == 0 { probe(ProbeOutcome::Failed, 1) } else { ok(5) }));
    assert_eq!(judged(&candidate, Some(&monitor()), &bounds()).verdict, Verdict::Fail);
}

#[test]
fn one_crash_hang_or_anomaly_fails_at_once() {
    let anomaly = PolicyAnomaly { kind: "unexpected_network".into(), detail: "10.0.0.1".into() };
    for event in [crash("boom"), Signal::WatchdogMissed, Signal::PolicyAnomaly(anomaly)] {
        let mut candidate = watched((0..30).map(|_| ok(5)));
        candidate.observe(at(30), event.clone());
        candidate.observe(at(31), Signal::Watchdog);
        candidate.observe(at(31), Signal::Restarted);
        feed(&mut candidate, 31..80, |_| ok(5));
        let analysis = judge(&candidate, None, at(0), at(80), &bounds());
        assert_eq!(analysis.verdict, Verdict::Fail, "{event:?}: recovery does not undo it");
        let later = judge(&candidate, None, at(60), at(80), &bounds());
        assert_eq!(later.verdict, Verdict::Pass, "{event:?} was before this window: {:?}", later.reasons);
    }
}

/// A process that is measured each second of its life; its memory in MiB.
fn growing(seconds: u64, incidents: &crate::config::Incidents, mib: impl Fn(u64) -> u64) -> Monitor {
    let sources = Sources { probe_ms: Some(1_000), watchdog: false, interface_ms: None };
    let mut monitor = Monitor::new(RuntimeRef::default(), incidents, sources, at(0));
    for second in 0..seconds {
        let uptime_ms = Some(second * 1_000);
        let rss_bytes = Some(mib(second) << 20);
        let usage = ProcessUsage { pid: Some(7), uptime_ms, rss_bytes, fds: Some(20), ..ProcessUsage::default() };
        monitor.observe(at(second), Signal::Usage(usage));
        monitor.observe(at(second), ok(5));
    }
    monitor
}

#[test]
fn a_warm_up_like_actives_passes_and_a_leak_fails() {
    let quick = crate::config::Incidents {
        memory: Some(crate::config::GrowthBound { per_hour: 100 << 20, r#for: Duration::from_secs(10) }),
        ..incidents()
    };
    let warm = |second: u64| 40 + second.min(40) * 9;
    let active = growing(300, &quick, warm);
    for seconds in [20, 25, 30, 60] {
        let analysis = judged(&growing(seconds, &quick, warm), Some(&active), &bounds());
        assert_eq!(analysis.verdict, Verdict::Pass, "after {seconds} s: {:?}", analysis.reasons);
    }
    // Without a bound of the operator too: nobody promotes a leak.
    let unbounded = crate::config::Incidents { memory: None, ..incidents() };
    let leak = growing(25, &unbounded, |second| warm(second) + second * 8);
    let analysis = judged(&leak, Some(&active), &bounds());
    assert_eq!(analysis.verdict, Verdict::Fail, "{:?}", analysis.reasons);
    assert!(analysis.reasons[0].starts_with("memory grew by "), "{:?}", analysis.reasons);
}

/// What is signalled each second.
type EachSecond = Box<dyn Fn(u64) -> Signal>;

/// Findings open no incident in a trial, so whatever would ask for an evolution of Active has to fail the candidate. A wish
/// for an upgrade is no fault.
#[test]
fn whatever_asks_for_an_evolution_fails_a_candidate_at_once() {
    let usage = |second: u64| {
        let rss_bytes = Some((100 << 20) + second * (1 << 18));
        Signal::Usage(ProcessUsage { pid: Some(7), rss_bytes, fds: Some(10 + second), ..ProcessUsage::default() })
    };
    let wish = RuntimeHealthReport { upgrade_wanted: Some("abc".into()), ..RuntimeHealthReport::default() };
    let anomaly = PolicyAnomaly { kind: "unexpected_exec".into(), detail: "/bin/sh".into() };
    let histories: Vec<(Cause, EachSecond)> = vec![
        (Cause::Crash, Box::new(|second| if second % 2 == 0 { crash("boom") } else { Signal::Restarted })),
        (Cause::CrashLoop, Box::new(|_| Signal::Restarted)),
        (Cause::Hang, Box::new(|_| probe(ProbeOutcome::TimedOut, 5_000))),
        (Cause::Latency, Box::new(|_| ok(400))),
        (Cause::Errors, Box::new(|_| probe(ProbeOutcome::Failed, 1))),
        (Cause::Errors, Box::new(|_| super::tests::traffic(100, 20))),
        (Cause::MemoryGrowth, Box::new(usage)),
        (Cause::FdGrowth, Box::new(usage)),
        (Cause::PolicyAnomaly, Box::new(move |_| Signal::PolicyAnomaly(anomaly.clone()))),
        (Cause::InterfaceGarbage, Box::new(|second| Signal::ReportGarbage { detail: format!("byte {second}") })),
        (Cause::UpgradeWanted, Box::new(move |_| Signal::NativeReport(Box::new(wish.clone())))),
    ];
    for (cause, signal) in histories {
        let mut candidate = warm();
        let asks = |monitor: &mut Monitor, second| {
            monitor.observe(at(second), signal(second)).iter().any(|found| found.cause == cause && found.evolve)
        };
        let second = (0..1_000).find(|&second| asks(&mut candidate, second));
        let second = second.unwrap_or_else(|| panic!("{cause:?} asks for nothing"));
        let analysis = judge(&candidate, None, at(0), at(second), &bounds());
        let expected = cause != Cause::UpgradeWanted;
        assert_eq!(analysis.verdict == Verdict::Fail, expected, "{cause:?} at {second}: {:?}", analysis.reasons);
    }
}

#[test]
fn the_candidates_own_word_can_hold_and_fail_but_not_pass_it() {
    for (word, verdict) in [
        (HealthStatus::Failed, Verdict::Fail),
        (HealthStatus::Degraded, Verdict::Inconclusive),
        (HealthStatus::Ok, Verdict::Pass),
    ] {
        let mut candidate = watched((0..30).map(|_| ok(5)));
        let own = RuntimeHealthReport { status: word, ..RuntimeHealthReport::default() };
        candidate.observe(at(30), Signal::NativeReport(Box::new(own.clone())));
        assert_eq!(judged(&candidate, None, &bounds()).verdict, verdict);
        let mut silent = monitor();
        silent.observe(at(1), Signal::NativeReport(Box::new(own)));
        assert_ne!(judged(&silent, None, &bounds()).verdict, Verdict::Pass);
    }
}

#[test]
fn a_learned_baseline_judges_as_the_one_beside() {
    let active = watched((0..120).map(|_| ok(5)));
    let learned = active.learned().unwrap();
    let json = serde_json::to_string(&learned).unwrap();
    let learned: Baseline = serde_json::from_str(&json).unwrap();
    let slow = watched((0..30).map(|_| ok(60)));
    let analysis = judge(&slow, Some(Comparison::Before(&learned, None)), at(0), at(30), &bounds());
    assert_eq!(analysis.verdict, Verdict::Fail);
    assert_eq!(monitor().learned(), None, "nothing known, nothing learned");
}

/// A baseline of two minutes, and Previous and the candidate in the window after them.
fn after(before: u64, previous: impl Fn(u64) -> u64, candidate: impl Fn(u64) -> u64, seconds: u64) -> Analysis {
    let mut active = watched((0..120).map(|i| ok(before + i % 3)));
    let learned = active.learned().unwrap();
    feed(&mut active, 120..120 + seconds, |i| ok(previous(i)));
    let mut under_trial = warm();
    feed(&mut under_trial, 120..120 + seconds, |i| ok(candidate(i)));
    judge(&under_trial, Some(Comparison::Before(&learned, Some(&active))), at(120), at(120 + seconds), &bounds())
}

#[test]
fn what_is_slow_beside_a_slow_previous_is_held() {
    let busy = after(5, |i| 20 + i % 4, |i| 20 + i % 5, 60);
    assert_eq!(busy.verdict, Verdict::Inconclusive, "{:?}", busy.reasons);
    assert!(busy.waits_for.unwrap().contains("less busy"));
    let stalls = |i: u64| if i.is_multiple_of(7) { 90 } else { 5 };
    assert_eq!(after(5, |i| stalls(i + 3), stalls, 60).verdict, Verdict::Inconclusive, "stalls of both");
    let slow = after(5, |i| 5 + i % 3, |i| 20 + i % 5, 10);
    assert_eq!(slow.verdict, Verdict::Fail, "Previous is as fast as ever: {:?}", slow.reasons);
    assert_eq!(after(5, |_| 5, stalls, 60).verdict, Verdict::Fail, "Previous has no stalls");
    let worse = after(5, |i| 20 + i % 4, |i| 60 + i % 5, 20);
    assert_eq!(worse.verdict, Verdict::Fail, "slower than the busy machine makes Previous");
    let first = after(5, |i| if i == 121 { 40 } else { 5 }, |_| 60, 10);
    assert_eq!(first.verdict, Verdict::Fail, "one stall of Previous excuses nothing");
}

#[test]
fn a_previous_that_hangs_or_is_down_is_no_control() {
    let learned = watched((0..60).map(|_| ok(5))).learned().unwrap();
    let slow = watched((0..60).map(|_| ok(60)));
    for end in [probe(ProbeOutcome::TimedOut, 60), crash("killed")] {
        let mut previous = slow.clone();
        feed(&mut previous, 57..60, |_| end.clone());
        let reference = Some(Comparison::Before(&learned, Some(&previous)));
        assert_eq!(judge(&slow, reference, at(0), at(60), &bounds()).verdict, Verdict::Fail, "{end:?}");
    }
}

#[test]
fn an_operators_bound_is_no_matter_of_comparison() {
    let slow = watched((0..60).map(|_| ok(60)));
    let learned = watched((0..60).map(|_| ok(5))).learned().unwrap();
    let bound = LatencyBound { p99: Duration::from_millis(50), r#for: Duration::from_secs(10) };
    let bounded = Bounds { latency: Some(bound), ..bounds() };
    let reference = Some(Comparison::Before(&learned, Some(&slow)));
    assert_eq!(judge(&slow, reference, at(0), at(60), &bounded).verdict, Verdict::Fail);
    assert_eq!(judge(&slow, reference, at(0), at(60), &bounds()).verdict, Verdict::Inconclusive);
}

#[test]
fn who_takes_the_processors_is_not_excused_by_the_slowness_it_makes() {
    let using = |per_second_ms: u64, latency: u64| {
        let mut monitor = warm();
        for second in 0..60 {
            let cpu_ms = Some(second * per_second_ms);
            monitor.observe(at(second), Signal::Usage(ProcessUsage { pid: Some(9), cpu_ms, ..Default::default() }));
            monitor.observe(at(second), ok(latency));
        }
        monitor
    };
    let learned = using(100, 5).learned().unwrap();
    assert_eq!(learned.processors_milli, Some(100));
    let previous = using(10, 40);
    let word = |candidate: Monitor| {
        judge(&candidate, Some(Comparison::Before(&learned, Some(&previous))), at(0), at(60), &bounds()).verdict
    };
    assert_eq!(word(using(1_900, 40)), Verdict::Fail, "takes two processors");
    assert_eq!(word(using(150, 40)), Verdict::Inconclusive, "half as much again of next to nothing");
    assert_eq!(word(using(0, 40)), Verdict::Inconclusive);
}

#[test]
fn without_a_probe_signs_of_life_must_suffice_and_are_named() {
    let alive = ProcessUsage { pid: Some(9), ..ProcessUsage::default() };
    let mut candidate = Monitor::new(RuntimeRef::default(), &incidents(), Sources::default(), at(0));
    candidate.observe(at(0), Signal::Ready(true));
    assert_eq!(judge(&candidate, None, at(0), at(1), &bounds()).verdict, Verdict::Inconclusive);
    feed(&mut candidate, 0..20, |_| Signal::Usage(alive));
    let analysis = judge(&candidate, None, at(0), at(20), &bounds());
    assert_eq!(analysis.verdict, Verdict::Pass);
    assert!(analysis.reasons.iter().any(|it| it.contains("no probe is configured")));
}

// How often it errs. The supervisor asks every second, and one fail reverts: what counts is whether any answer in a
// window of five minutes is wrong, not whether the last one is.

/// Numbers that look random and are the same each time (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Log-normal around `median_us`: the usual shape of latencies.
    fn latency_us(&mut self, median_us: f64, sigma: f64) -> u64 {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        (median_us * (sigma * normal).exp()) as u64
    }
}

/// The share of worlds in which some answer of a window is a fail.
fn failing(
    worlds: u64,
    seconds: u64,
    candidate: impl Fn(&mut Dice) -> Signal,
    active: impl Fn(&mut Dice) -> Signal,
) -> f64 {
    let mut failed = 0;
    for world in 0..worlds {
        let mut dice = Dice(world.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut one, mut other) = (warm(), warm());
        let fails = (0..seconds).any(|second| {
            one.observe(at(second), candidate(&mut dice));
            other.observe(at(second), active(&mut dice));
            second % 5 == 0
                && judge(&one, Some(Comparison::Beside(&other)), at(0), at(second), &bounds()).verdict == Verdict::Fail
        });
        failed += u64::from(fails);
    }
    failed as f64 / worlds as f64
}

fn answered(latency_us: u64) -> Signal {
    Signal::Probe(Probe { outcome: ProbeOutcome::Ok, latency_us, detail: String::new() })
}

#[test]
fn alike_versions_are_seldom_told_apart() {
    for (sigma, most) in [(0.3, 0.02), (0.7, 0.05)] {
        let same = |dice: &mut Dice| answered(dice.latency_us(8_000.0, sigma));
        let wrong = failing(60, 300, same, same);
        assert!(wrong <= most, "sigma {sigma}: {wrong}");
    }
    let flaky = |dice: &mut Dice| if dice.unit() < 0.005 { probe(ProbeOutcome::Failed, 1) } else { ok(5) };
    let wrong = failing(60, 300, flaky, flaky);
    assert!(wrong <= 0.10, "failures: {wrong}");
}

#[test]
fn worse_versions_are_nearly_always_seen() {
    let good = |dice: &mut Dice| answered(dice.latency_us(8_000.0, 0.4));
    let slower = |dice: &mut Dice| answered(dice.latency_us(14_000.0, 0.4));
    let seen = failing(60, 120, slower, good);
    assert!(seen >= 0.98, "slower: {seen}");
    let stalls = |dice: &mut Dice| answered(if dice.unit() < 0.06 { 400_000 } else { dice.latency_us(8_000.0, 0.4) });
    let seen = failing(60, 120, stalls, good);
    assert!(seen >= 0.95, "stalls: {seen}");
    let fails = |dice: &mut Dice| if dice.unit() < 0.08 { probe(ProbeOutcome::Failed, 1) } else { good(dice) };
    let seen = failing(60, 120, fails, good);
    assert!(seen >= 0.95, "failures: {seen}");
}
