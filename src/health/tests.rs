//! The three laws, the detectors and the judge, by table and by property.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{CrashBound, ErrorBound, GrowthBound, Incidents, LatencyBound};
use crate::interface::types::{
    ErrorCount, HealthCheck, HealthStatus, IncidentClass, IncidentId, PolicyAnomaly, ProcessUsage, RuntimeHealthReport,
    RuntimeRef, Severity, Verdict,
};
use crate::live::{Class, Route, Sample, Source};
use crate::time::Timestamp;

const PROBED: Sources = Sources { probe_ms: Some(1_000), watchdog: false, interface_ms: None };

pub(super) fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_790_000_000_000 + second * 1_000)
}

pub(super) fn incidents() -> Incidents {
    Incidents {
        crash: CrashBound { restarts: 3, within: Duration::from_secs(60) },
        latency: Some(LatencyBound { p99: Duration::from_millis(250), r#for: Duration::from_secs(10) }),
        errors: Some(ErrorBound { ratio: 0.05, r#for: Duration::from_secs(10) }),
        memory: Some(GrowthBound { per_hour: 100 << 20, r#for: Duration::from_secs(600) }),
        fds: Some(GrowthBound { per_hour: 100, r#for: Duration::from_secs(600) }),
        repeats: 2,
    }
}

pub(super) fn monitor() -> Monitor {
    Monitor::new(RuntimeRef::default(), &incidents(), PROBED, at(0))
}

pub(super) fn probe(outcome: ProbeOutcome, latency_ms: u64) -> Signal {
    Signal::Probe(Probe { outcome, latency_us: latency_ms * 1_000, detail: String::new() })
}

pub(super) fn ok(latency_ms: u64) -> Signal {
    probe(ProbeOutcome::Ok, latency_ms)
}

pub(super) fn crash(reason: &str) -> Signal {
    let frames = vec!["svc::store::lookup (src/store.rs:4)".into(), "svc::handle (src/main.rs:9)".into()];
    Signal::Exited(Exit { code: Some(101), ran_ms: 3_200, reason: Some(reason.into()), frames, ..Exit::default() })
}

/// Feeds one signal a second from `first` and returns the findings with their seconds.
pub(super) fn feed(
    monitor: &mut Monitor,
    seconds: std::ops::Range<u64>,
    signal: impl Fn(u64) -> Signal,
) -> Vec<(u64, Finding)> {
    let one = |monitor: &mut Monitor, second| monitor.observe(at(second), signal(second));
    seconds.flat_map(|second| one(monitor, second).into_iter().map(move |found| (second, found))).collect()
}

fn check(report: &RuntimeHealthReport, name: &str) -> HealthCheck {
    report.checks.iter().find(|check| check.name == name).unwrap().clone()
}

#[test]
fn nothing_known_is_unknown_and_named() {
    let report = monitor().report(at(0));
    assert_eq!((report.status, report.ready, report.provider.as_str()), (HealthStatus::Unknown, None, "joined"));
    assert_eq!(report.policy_anomalies, None);
    for name in ["ready", "latency.probe", "errors.probe", "process.rss_bytes", "policy_anomalies", "native"] {
        assert!(report.unavailable.iter().any(|it| it == name), "{name}");
    }
    assert_eq!(check(&report, "errors").status, HealthStatus::Unknown);
}

#[test]
fn good_probes_are_ok_until_they_are_stale() {
    let mut monitor = monitor();
    assert!(feed(&mut monitor, 0..20, |_| ok(5)).is_empty());
    let report = monitor.report(at(20));
    assert_eq!((report.status, report.latency["probe"].p99_us), (HealthStatus::Ok, 5_000));
    assert_eq!(report.errors["probe"], ErrorCount { total: 20, failed: 0 });
    assert_eq!(monitor.report(at(200)).status, HealthStatus::Unknown);
}

#[test]
fn without_a_probe_a_live_process_that_is_ready_is_ok() {
    let mut monitor = Monitor::new(RuntimeRef::default(), &incidents(), Sources::default(), at(0));
    let usage = ProcessUsage { pid: Some(7), ..ProcessUsage::default() };
    monitor.observe(at(1), Signal::Usage(usage));
    assert_eq!(monitor.status(), HealthStatus::Unknown, "nobody said it is ready");
    monitor.observe(at(1), Signal::Ready(true));
    assert_eq!(monitor.status(), HealthStatus::Ok);
    assert_eq!(check(&monitor.report(at(2)), "hang").status, HealthStatus::Unknown, "no process watches it");
    monitor.tick(at(120));
    assert_eq!(monitor.status(), HealthStatus::Unknown);
}

#[test]
fn the_first_crash_is_recorded_and_the_second_equal_one_asks_for_an_evolution() {
    let mut monitor = monitor();
    let first = monitor.observe(at(1), crash("index out of bounds: the len is 3 but the index is 7"));
    assert_eq!(monitor.status(), HealthStatus::Failed, "it is down");
    monitor.observe(at(2), Signal::Restarted);
    assert_eq!(monitor.status(), HealthStatus::Unknown, "it runs and nothing more is known");
    let second = monitor.observe(at(90), crash("index out of bounds: the len is 8 but the index is 9"));
    let (first, second) = (&first[0], &second[0]);
    assert_eq!(
        (first.cause, first.class, first.severity),
        (Cause::Crash, IncidentClass::RuntimeFailure, Severity::Critical)
    );
    assert_eq!((first.occurrence, first.evolve, second.occurrence, second.evolve), (1, false, 2, true));
    assert_eq!(first.fingerprint, second.fingerprint);
    let other = &monitor.observe(at(200), crash("called `Option::unwrap()` on a `None` value"))[0];
    assert!(other.fingerprint != first.fingerprint && !other.evolve);
    insta::assert_snapshot!(first.summary, @"index out of bounds: the len is 3 but the index is 7 (exit code 101 after 3.2 s)");
    let incident = first.incident(IncidentId::numbered(1), RuntimeRef::default(), at(1));
    assert_eq!((incident.cause.as_str(), incident.occurrences), ("crash", 1));
}

#[test]
fn a_remembered_crash_counts_after_the_supervisor_was_restarted() {
    let mut before = monitor();
    let first = before.observe(at(1), crash("boom")).remove(0);
    let mut after = monitor();
    after.remember(&first.fingerprint, first.occurrence);
    assert!(after.observe(at(50), crash("boom"))[0].evolve);
}

#[test]
fn a_crash_without_words_is_known_by_its_signal() {
    let of = |code, signal| {
        let exit = Exit { code, signal, ..Exit::default() };
        monitor().observe(at(1), Signal::Exited(exit)).remove(0)
    };
    assert_eq!(of(None, Some(11)).summary, "ended with signal 11 (SIGSEGV) after 0 s");
    let prints = [of(None, Some(11)), of(None, Some(6)), of(Some(0), None)].map(|it| it.fingerprint);
    assert!(prints[0] != prints[1] && prints[1] != prints[2], "SIGSEGV, SIGABRT and an exit are three faults");
}

#[test]
fn a_crash_loop_opens_once_and_asks_only_if_the_crashes_did_not() {
    let looping = |reason: fn(u64) -> &'static str| {
        let mut monitor = monitor();
        let mut found = Vec::new();
        for i in 0..8 {
            found.extend(monitor.observe(at(i * 5), crash(reason(i))));
            found.extend(monitor.observe(at(i * 5 + 1), Signal::Restarted));
        }
        found.into_iter().filter(|it| it.cause == Cause::CrashLoop).collect::<Vec<_>>()
    };
    let equal = looping(|_| "boom");
    assert_eq!(equal.iter().map(|it| it.evolve).collect::<Vec<_>>(), [false], "the crash itself has asked");
    let words = |i| ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"][i as usize];
    assert_eq!(looping(words).iter().map(|it| it.evolve).collect::<Vec<_>>(), [true]);
}

#[test]
fn hangs_are_seen_by_each_of_their_three_signs() {
    let signs = [
        ("probe", probe(ProbeOutcome::TimedOut, 500), 3),
        ("watchdog", Signal::WatchdogMissed, 1),
        ("report", Signal::ReportMissed, 3),
    ];
    for (name, sign, needed) in signs {
        let mut monitor = monitor();
        feed(&mut monitor, 0..20, |_| ok(5));
        let found = feed(&mut monitor, 20..30, |_| sign.clone());
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!((found[0].0, found[0].1.cause), (20 + needed - 1, Cause::Hang), "{name}");
        assert_eq!(monitor.status(), HealthStatus::Failed, "{name}");
    }
}

#[test]
fn refusals_in_a_row_are_failed_but_no_hang() {
    let mut monitor = monitor();
    feed(&mut monitor, 0..20, |_| ok(5));
    let found = feed(&mut monitor, 20..60, |_| probe(ProbeOutcome::Failed, 1));
    assert_eq!(monitor.status(), HealthStatus::Failed);
    assert_eq!(found.iter().map(|(_, it)| it.cause).collect::<Vec<_>>(), [Cause::Errors], "one incident, once");
}

#[test]
fn latency_over_the_bound_opens_after_its_time() {
    let mut monitor = monitor();
    feed(&mut monitor, 0..60, |_| ok(5));
    let found = feed(&mut monitor, 60..120, |_| ok(400));
    assert_eq!(found.iter().map(|(_, it)| it.cause).collect::<Vec<_>>(), [Cause::Latency]);
    assert!((70..75).contains(&found[0].0), "{}", found[0].0);
    assert_eq!(monitor.status(), HealthStatus::Degraded);
}

#[test]
fn without_a_bound_latency_is_learned_from_steady_state() {
    let bounds = Incidents { latency: None, ..incidents() };
    let mut monitor = Monitor::new(RuntimeRef::default(), &bounds, PROBED, at(0));
    feed(&mut monitor, 0..100, |second| ok(4 + second % 3));
    let learning = monitor.detections().into_iter().find(|(cause, _)| *cause == Cause::Latency).unwrap().1;
    assert_eq!(learning.verdict, Verdict::Inconclusive);
    assert_eq!(learning.waits_for.unwrap(), "110 more healthy probes");
    assert!(feed(&mut monitor, 100..300, |second| ok(4 + second % 3)).is_empty());
    assert!(feed(&mut monitor, 300..400, |_| ok(20)).is_empty(), "six times the median, and below the floor");
    assert_eq!(feed(&mut monitor, 400..500, |_| ok(40)).len(), 1);
}

/// Requests of users, of which some failed.
pub(super) fn traffic(total: u64, failed: u64) -> Signal {
    let mut sample = Sample::default();
    let counts = sample.route(Route::of_request("GET", &format!("/{}", total % 100)));
    counts.add(Class::Success, total.saturating_sub(failed));
    counts.add(Class::ServerError, failed.min(total));
    counts.latencies.add(total, total);
    Signal::Traffic(Source::Tap, Box::new(sample))
}

#[test]
fn failed_traffic_is_an_error_condition_of_its_own() {
    let mut monitor = monitor();
    feed(&mut monitor, 0..20, |_| ok(5));
    let found = feed(&mut monitor, 20..60, |_| traffic(100, 20));
    assert_eq!(found.iter().map(|(_, it)| it.cause).collect::<Vec<_>>(), [Cause::Errors]);
    assert_eq!(monitor.report(at(60)).errors["traffic"], ErrorCount { total: 4_000, failed: 800 });
}

#[test]
fn growth_opens_and_a_restart_begins_anew() {
    let usage = |second: u64| {
        let rss_bytes = Some((100 << 20) + second * (1 << 18));
        Signal::Usage(ProcessUsage { pid: Some(7), rss_bytes, fds: Some(10 + second), ..ProcessUsage::default() })
    };
    let mut monitor = monitor();
    let found = feed(&mut monitor, 0..700, usage);
    assert_eq!(found.iter().map(|(_, it)| it.cause).collect::<Vec<_>>(), [Cause::MemoryGrowth, Cause::FdGrowth]);
    monitor.observe(at(701), Signal::Restarted);
    let report = monitor.report(at(702));
    assert_eq!(check(&report, "memory_growth").status, HealthStatus::Unknown);
}

#[test]
fn anomalies_are_found_at_once_and_a_flood_of_them_shares_one_incident() {
    let mut monitor = monitor();
    let anomaly =
        |word: &str| Signal::PolicyAnomaly(PolicyAnomaly { kind: "unexpected_exec".into(), detail: word.into() });
    let found = monitor.observe(at(1), anomaly("/bin/sh"));
    assert_eq!((found[0].class, found[0].evolve), (IncidentClass::PolicyViolation, true));
    assert!(monitor.observe(at(2), anomaly("/bin/sh")).is_empty(), "told once a minute");
    assert_eq!(monitor.observe(at(70), anomaly("/bin/sh"))[0].occurrence, 3, "and all counted");
    let letters = |i: u8| format!("{}{}", char::from(b'a' + i % 26), char::from(b'a' + i / 26));
    let mut prints: Vec<String> =
        (0..200).flat_map(|i| monitor.observe(at(80), anomaly(&letters(i)))).map(|found| found.fingerprint).collect();
    prints.dedup();
    assert!(prints.len() <= 9, "{}", prints.len());
    assert_eq!(monitor.report(at(81)).policy_anomalies.unwrap().len(), 32);
}

#[test]
fn garbage_is_told_and_paced_and_asks_when_it_repeats() {
    let mut monitor = monitor();
    let found = feed(&mut monitor, 0..90, |second| Signal::ReportGarbage { detail: format!("byte {second}") });
    assert_eq!(found.iter().map(|(second, it)| (*second, it.evolve)).collect::<Vec<_>>(), [(0, false), (60, true)]);
    assert_eq!(found[0].1.class, IncidentClass::ObservabilitySignal);
}

#[test]
fn a_wish_for_an_upgrade_is_told_once() {
    let mut monitor = monitor();
    let wish = |rev: &str| {
        let report = RuntimeHealthReport { upgrade_wanted: Some(rev.into()), ..RuntimeHealthReport::default() };
        Signal::NativeReport(Box::new(report))
    };
    assert_eq!(monitor.observe(at(1), wish("abc"))[0].class, IncidentClass::UpgradeRequest);
    assert!(monitor.observe(at(2), wish("abc")).is_empty());
    assert_eq!(monitor.observe(at(3), wish("def")).len(), 1);
    assert!(monitor.observe(at(4), wish("abc")).is_empty(), "two revs in turn are no flood");
    assert_eq!(monitor.report(at(4)).upgrade_wanted.as_deref(), Some("abc"));
}

#[test]
fn the_own_report_lowers_and_is_renamed() {
    let mut monitor = monitor();
    feed(&mut monitor, 0..20, |_| ok(5));
    let failing = HealthCheck { name: "db".into(), status: HealthStatus::Failed, critical: true, message: None };
    let mut own =
        RuntimeHealthReport { status: HealthStatus::Ok, checks: vec![failing], ..RuntimeHealthReport::default() };
    own.latency.insert("probe".into(), Default::default());
    own.ready = Some(false);
    monitor.observe(at(20), Signal::NativeReport(Box::new(own)));
    let report = monitor.report(at(21));
    assert_eq!((report.status, report.ready), (HealthStatus::Failed, Some(false)));
    assert_eq!(report.latency["probe"].count, 20, "the runtime's figures do not stand for the supervisor's");
    assert!(report.latency.contains_key("runtime.probe"));
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_the_watch() {
    let mut monitor = monitor();
    feed(&mut monitor, 1_000_000..1_000_020, |_| ok(5));
    assert_eq!(monitor.report(at(0)).status, HealthStatus::Unknown, "what was seen is of no known time");
    let found = feed(&mut monitor, 0..60, |_| probe(ProbeOutcome::Failed, 1));
    assert_eq!(found.len(), 1);
    monitor.observe(Timestamp::from_unix_ms(at(60).as_unix_ms() - 1_500), ok(5));
    assert_eq!(monitor.report(at(60)).errors["probe"].total, 61, "a small step back loses nothing");
}

// Properties.

fn status() -> impl Strategy<Value = HealthStatus> {
    use HealthStatus::{Degraded, Failed, Ok, Unknown};
    prop_oneof![Just(Ok), Just(Degraded), Just(Failed), Just(Unknown)]
}

fn own_report() -> impl Strategy<Value = RuntimeHealthReport> {
    let check = ("[a-z]{0,300}", status(), any::<bool>()).prop_map(|(name, status, critical)| HealthCheck {
        name,
        status,
        critical,
        message: Some("x".repeat(5_000)),
    });
    let anomalies = proptest::option::of(proptest::collection::vec("[a-z]{0,12}", 0..40));
    (status(), any::<Option<bool>>(), proptest::collection::vec(check, 0..40), anomalies).prop_map(
        |(status, ready, checks, anomalies)| {
            let anomaly = |detail: String| PolicyAnomaly { kind: "unexpected_file".into(), detail };
            let policy_anomalies = anomalies.map(|all| all.into_iter().map(anomaly).collect());
            RuntimeHealthReport { status, ready, checks, policy_anomalies, ..RuntimeHealthReport::default() }
        },
    )
}

fn signal() -> impl Strategy<Value = Signal> {
    let outcome =
        prop_oneof![4 => Just(ProbeOutcome::Ok), 1 => Just(ProbeOutcome::Failed), 1 => Just(ProbeOutcome::TimedOut)];
    prop_oneof![
        8 => (outcome, any::<u32>()).prop_map(|(outcome, us)| {
            Signal::Probe(Probe { outcome, latency_us: us.into(), detail: String::new() })
        }),
        1 => ("[a-z]{0,2000}", any::<i32>()).prop_map(|(reason, code)| {
            let frames = vec![reason.clone(); 20];
            Signal::Exited(Exit { code: Some(code), reason: Some(reason), frames, ..Exit::default() })
        }),
        1 => Just(Signal::Restarted),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(rss, fds)| {
            Signal::Usage(ProcessUsage { pid: Some(1), rss_bytes: Some(rss), fds: Some(fds), ..Default::default() })
        }),
        1 => own_report().prop_map(|report| Signal::NativeReport(Box::new(report))),
        1 => ".{0,300}".prop_map(|detail| Signal::ReportGarbage { detail }),
        1 => Just(Signal::ReportMissed),
        1 => Just(Signal::Watchdog),
        1 => Just(Signal::WatchdogMissed),
        1 => any::<bool>().prop_map(Signal::Ready),
        1 => ("[a-z]{0,300}", ".{0,300}").prop_map(|(kind, detail)| Signal::PolicyAnomaly(PolicyAnomaly { kind, detail })),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(total, failed)| traffic(total, failed)),
    ]
}

/// Signals with steps of time between them, forwards, none and backwards.
fn history() -> impl Strategy<Value = Vec<(i64, Signal)>> {
    let step = prop_oneof![6 => 0_i64..3_000, 2 => -10_000_i64..0, 1 => 0_i64..200_000, 1 => Just(i64::MIN / 4)];
    proptest::collection::vec((step, signal()), 0..120)
}

fn replay(history: &[(i64, Signal)], mut each: impl FnMut(&mut Monitor, Timestamp, Vec<Finding>)) -> Monitor {
    let mut monitor = monitor();
    let mut now = at(0).as_unix_ms();
    for (step, signal) in history {
        now = now.saturating_add_signed(*step);
        let found = monitor.observe(Timestamp::from_unix_ms(now), signal.clone());
        each(&mut monitor, Timestamp::from_unix_ms(now), found);
    }
    monitor
}

fn rank(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Ok => 0,
        HealthStatus::Unknown => 1,
        HealthStatus::Degraded => 2,
        HealthStatus::Failed => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn never_ok_without_a_good_probe_in_the_window(history in history()) {
        // The reference: when the last good probe of the present process came, as the monitor's own clock saw it.
        let mut good = None;
        let mut before = at(0);
        let mut signals = history.iter().map(|(_, signal)| signal);
        replay(&history, |monitor, _, _| {
            let signal = signals.next().unwrap();
            if monitor.evidence.now < before {
                good = None;
            }
            before = monitor.evidence.now;
            match signal {
                Signal::Probe(probe) if probe.outcome == ProbeOutcome::Ok => good = Some(monitor.evidence.now),
                Signal::Exited(_) | Signal::Restarted => good = None,
                _ => {}
            }
            if monitor.status() == HealthStatus::Ok {
                assert!(good.is_some_and(|good| monitor.evidence.now.ms_since(good) <= 60_000), "ok without evidence");
            }
        });
    }

    #[test]
    fn the_own_report_never_raises(history in history(), own in own_report()) {
        let mut without = replay(&history, |_, _, _| {});
        let mut with = without.clone();
        let last = without.evidence.now;
        let own = RuntimeHealthReport { policy_anomalies: None, ..own };
        // A report also ends the row of missed ones; that row is evidence of its own, so it is not begun here.
        prop_assume!(!without.open().any(|cause| cause == Cause::Hang));
        with.observe(last, Signal::NativeReport(Box::new(own)));
        without.evidence.process.report = None;
        without.tick(last);
        prop_assert!(rank(with.status()) >= rank(without.status()), "{:?} over {:?}", with.status(), without.status());
        let (with, without) = (with.report(last).ready, without.report(last).ready);
        prop_assert!(with == without || with == Some(false));
    }

    #[test]
    fn memory_is_bounded_and_every_step_keeps_the_laws(history in history()) {
        replay(&history, |monitor, at, found| {
            assert!(monitor.bytes() < MONITOR_BYTES_MAX, "{} bytes", monitor.bytes());
            for finding in found {
                assert!(finding.occurrence >= 1 && finding.fingerprint.starts_with("sha256:"));
                assert!(finding.summary.len() < 1_000);
                assert_eq!(finding.class, finding.cause.class());
            }
            let report = monitor.report(at);
            let json = serde_json::to_vec(&report).unwrap();
            assert!(json.len() < 100_000, "{} bytes", json.len());
            for name in &report.unavailable {
                assert!(!report.errors.contains_key(name.trim_start_matches("errors.")), "{name}");
            }
        });
    }

    #[test]
    fn a_judgement_has_reasons_and_passes_only_what_is_ok(history in history(), window in 0_u64..300_000) {
        let candidate = replay(&history, |_, _, _| {});
        let now = candidate.evidence.now;
        let since = Timestamp::from_unix_ms(now.as_unix_ms().saturating_sub(window));
        let analysis = judge(&candidate, None, since, now, &Bounds::of(&incidents()));
        prop_assert!(!analysis.reasons.is_empty());
        prop_assert_eq!(analysis.waits_for.is_some(), analysis.verdict == Verdict::Inconclusive);
        if analysis.verdict == Verdict::Pass {
            prop_assert_eq!(candidate.status(), HealthStatus::Ok);
        }
    }

    #[test]
    fn normalising_is_stable_and_bounded(text in ".{0,1000}") {
        let once = normalise(&text);
        prop_assert_eq!(&normalise(&once), &once);
        prop_assert!(once.len() <= text.len());
    }

    #[test]
    fn numbers_do_not_change_a_fingerprint(a in any::<u64>(), b in any::<u64>()) {
        let of = |n: u64| fingerprint("crash", &format!("order {n} failed at 0x{n:x}"), &[format!("handle (a.py:{n})")]);
        prop_assert_eq!(of(a), of(b));
    }
}
