//! Pages of example states, at a fixed time and width.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::cli::ui::Paint;
use crate::history::{EvolutionStep, EvolutionView};
use crate::interface::operations::*;
use crate::interface::types::*;
use crate::time::Timestamp;

const WIDTH: usize = 100;

fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_795_359_670_250 + second * 1000)
}

fn look() -> Look {
    Look { paint: Paint { color: false }, width: WIDTH, now: at(1000) }
}

fn version(letter: char, rev: &str) -> Version {
    let hash = letter.to_string().repeat(32);
    Version {
        store_path: format!("/nix/store/{hash}-greeter-1.2"),
        rev: rev.repeat(5),
        tree: "7a".repeat(20),
        drv: format!("/nix/store/{hash}-greeter-1.2.drv"),
    }
}

fn usage() -> ProcessUsage {
    ProcessUsage {
        pid: Some(4121),
        uptime_ms: Some(903_000),
        restarts: Some(0),
        rss_bytes: Some(91_226_112),
        fds: Some(37),
        cpu_ms: Some(1200),
        processes: Some(2),
    }
}

fn traffic(is_slow: bool) -> TrafficStatus {
    let p99_us = if is_slow { 212_000 } else { 11_000 };
    let (requests, failed) = if is_slow { (1_204, 31) } else { (22_870, 0) };
    TrafficStatus {
        source: "tap".into(),
        window_ms: 60_000,
        requests,
        failed,
        client_errors: 4,
        latency: LatencySummary { count: requests, p50_us: 3_000, p90_us: 8_000, p99_us, max_us: 250_000 },
        routes: vec![
            RouteStatus { route: "GET /orders/{}".into(), requests: requests / 4, failed, p99_us },
            RouteStatus { route: "GET /".into(), requests: requests / 2, failed: 0, p99_us: 9_000 },
        ],
        ..TrafficStatus::default()
    }
}

/// The log of a version, with errors that the version before it did not write.
fn log_traffic(is_new: bool) -> TrafficStatus {
    let error = |message: &str, lines| ErrorStatus { message: message.into(), lines, is_new };
    TrafficStatus {
        source: "log".into(),
        error_lines: 210,
        errors: vec![error("no connection of pool {} after {} us", 200), error("user {} not found", 10)],
        ..traffic(is_new)
    }
}

fn running(role: Role, slot: &str, share: f64, state: InstanceState) -> VersionStatus {
    let (letter, rev, generation) = match role {
        Role::Active => ('b', "9f86d081", Some(42)),
        Role::Candidate => ('c', "c3ab8ff1", None),
        Role::Previous => ('a', "8ea502fa", Some(41)),
    };
    let log_dropped_bytes = Some(if role == Role::Previous { 3 << 20 } else { 0 });
    let started_at = Some(at(97));
    let instance = InstanceStatus { id: format!("{slot}-1"), state, started_at, usage: usage(), log_dropped_bytes };
    let slot = Some(slot.to_owned());
    let traffic = match role {
        Role::Previous => Vec::new(),
        Role::Candidate => vec![traffic(true), log_traffic(true)],
        Role::Active => vec![traffic(false)],
    };
    VersionStatus { version: version(letter, rev), role, generation, slot, share, instances: vec![instance], traffic }
}

fn incident(number: u64, severity: Severity, cause: &str, summary: &str) -> RuntimeIncident {
    RuntimeIncident {
        schema: SCHEMA.to_owned(),
        id: IncidentId::numbered(number),
        class: IncidentClass::RuntimeFailure,
        cause: cause.to_owned(),
        severity,
        runtime: RuntimeRef { store_path: Some(version('a', "8ea502fa").store_path), ..RuntimeRef::default() },
        fingerprint: "sha256:00ff00ff".to_owned(),
        first_seen: at(1),
        last_seen: at(990),
        occurrences: 3,
        summary: summary.to_owned(),
        evidence: Vec::new(),
    }
}

fn health() -> RuntimeHealthReport {
    let probe = LatencySummary { count: 60, p50_us: 900, p90_us: 1500, p99_us: 9000, max_us: 1_203_000 };
    RuntimeHealthReport {
        window_ms: 60_000,
        status: HealthStatus::Degraded,
        ready: Some(true),
        latency: BTreeMap::from([("probe".to_owned(), probe)]),
        errors: BTreeMap::from([("probe".to_owned(), ErrorCount { total: 60, failed: 3 })]),
        checks: vec![
            HealthCheck { name: "cache".to_owned(), status: HealthStatus::Ok, critical: false, message: None },
            HealthCheck {
                name: "database".to_owned(),
                status: HealthStatus::Failed,
                critical: true,
                message: Some("connection\nrefused\x1b[31m".to_owned()),
            },
        ],
        unavailable: vec!["policy_anomalies".to_owned(), "fds".to_owned()],
        ..RuntimeHealthReport::default()
    }
}

/// The candidate has all traffic, and Previous is warm.
fn observing() -> Status {
    Status {
        schema: SCHEMA.to_owned(),
        runtime: "greeter".to_owned(),
        phase: Phase::Observing,
        phase_since: at(974),
        waits_for: Some("confirms the promotion".to_owned()),
        deadline: Some(at(1004)),
        active: Some(running(Role::Active, "b", 1.0, InstanceState::Serving)),
        candidate: None,
        previous: Some(running(Role::Previous, "a", 0.0, InstanceState::Standby)),
        health: Some(health()),
        open_incidents: vec![incident(1, Severity::Critical, "crash_loop", "exit code 2: index out of bounds")],
        evolution: Some(EvolutionStatus {
            id: EvolutionId::numbered(7),
            incident_id: Some(IncidentId::numbered(1)),
            blueprint: "repair".to_owned(),
            step: Some("observation".to_owned()),
            attempt: 1,
            candidate_id: Some(CandidateId::numbered(7)),
            report_id: Some(ReportId::numbered(9)),
            shadow: None,
            started_at: at(100),
        }),
        attention: None,
        paused: false,
        budget: BudgetStatus { left: 5, per_hour: 6, next_at: None, spent_fingerprints: Vec::new() },
        quarantined: 1,
        listen: vec![
            ListenStatus { name: "http".to_owned(), address: "127.0.0.1:8080".to_owned() },
            ListenStatus { name: "admin".to_owned(), address: "unix:/run/greeter.sock".to_owned() },
        ],
        recordings: Vec::new(),
        state: Some(StateStatus {
            directory: "/var/lib/rei/greeter".to_owned(),
            bytes: 45_000_000,
            evidence_bytes: 3_200_000,
            evidence_bytes_max: 512 << 20,
            runs: 12,
            runs_max: 200,
            measured_at: at(1),
        }),
        supervisor: SupervisorStatus {
            pid: 4000,
            version: "0.1.0".to_owned(),
            started_at: at(0),
            uptime_ms: 1_000_000,
            rss_bytes: Some(7_000_000),
        },
    }
}

#[test]
fn a_version_under_observation() {
    insta::assert_snapshot!(status(&observing(), look()));
}

#[test]
fn an_operator_is_needed() {
    let waits = "an operator's `rei approve`: every check passed".to_owned();
    let steady = observing();
    let asked = Status {
        phase: Phase::AwaitingApproval,
        waits_for: Some(waits),
        deadline: None,
        active: Some(running(Role::Active, "a", 0.95, InstanceState::Serving)),
        candidate: Some(running(Role::Candidate, "b", 0.05, InstanceState::Starting)),
        previous: None,
        health: Some(RuntimeHealthReport { status: HealthStatus::Ok, ..RuntimeHealthReport::default() }),
        attention: Some("the budget of 6 evolutions an hour is spent".to_owned()),
        paused: true,
        budget: BudgetStatus {
            left: 0,
            per_hour: 6,
            next_at: Some(at(4600)),
            spent_fingerprints: vec!["sha256:00".to_owned()],
        },
        ..steady
    };
    insta::assert_snapshot!(status(&asked, look()));
}

#[test]
fn a_journal_behind_reality_is_settled_by_an_operator() {
    let attention = Some("the journal is behind reality, so nothing is decided".to_owned());
    let held = Status { phase: Phase::Held, attention, evolution: None, ..observing() };
    let page = status(&held, look());
    let words = ["held", "behind reality", "rei journal accept reality", "rei journal accept journal"];
    assert!(words.iter().all(|words| page.contains(words)), "{page}");
    assert!(!page.contains("rei resume"), "it settles nothing: {page}");
}

#[test]
fn nothing_was_installed_yet() {
    let empty = Status { runtime: "greeter".to_owned(), phase: Phase::Empty, ..Status::default() };
    insta::assert_snapshot!(status(&empty, Look { now: Timestamp::from_unix_ms(4000), ..look() }));
}

#[test]
fn a_narrow_page_is_wrapped_and_colour_changes_no_word() {
    let narrow = Look { width: 60, ..look() };
    let plain = status(&observing(), narrow);
    insta::assert_snapshot!(plain);
    for width in [20, 60, 100, 200] {
        let colored = status(&observing(), Look { width, paint: Paint { color: true }, ..look() });
        let bare = anstrip(&crate::cli::terminal::shown(&colored));
        assert_eq!(bare, status(&observing(), Look { width, ..look() }), "at {width}");
        assert_ne!(bare, colored);
    }
    assert!(plain.lines().all(|line| line.chars().count() <= 60), "{plain}");
}

/// The text without its colours.
fn anstrip(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest: String = parts.filter_map(|part| part.split_once('m')).map(|(_, rest)| rest).collect();
    first + rest.as_str()
}

fn entry(number: u64, action: Option<MaintenanceAction>, summary: &str, by: Option<&str>) -> HistoryEntry {
    HistoryEntry {
        schema: SCHEMA.to_owned(),
        id: EvolutionId::numbered(number).0,
        started_at: at(100 * number),
        finished_at: action.map(|_| at(100 * number + 93)),
        action,
        summary: summary.to_owned(),
        decided_by: by.map(str::to_owned),
        incident_id: None,
        candidate_id: Some(CandidateId::numbered(number)),
        report_id: Some(ReportId::numbered(number)),
        from: Some(version('a', "8ea502fa")),
        to: action.map(|_| version('b', "9f86d081")),
    }
}

#[test]
fn the_history_is_aligned_and_cut_at_the_width() {
    use MaintenanceAction::{Deferred, Promoted, Rejected, Restarted, RolledBack};
    let long = "upgrade to 9f86d0819f86: slower than Active: p99 120 ms over 40 ms for 30 s while 5 % were served";
    let act =
        HistoryEntry { id: "rec_0012".to_owned(), finished_at: Some(at(300)), ..entry(3, Some(Restarted), "", None) };
    let entries = [
        entry(8, None, "repair of inc_0001: building", None),
        entry(7, Some(Promoted), "repair of inc_0001: every window passed", Some("supervisor")),
        entry(6, Some(RolledBack), long, Some("operator:ada")),
        entry(5, Some(Rejected), "upgrade to 9f86d0819f86: unit: 2 of 40 tests failed", Some("supervisor")),
        entry(4, Some(Deferred), "x", Some("supervisor")),
        HistoryEntry { summary: "exit code 2".to_owned(), ..act },
    ];
    insta::assert_snapshot!(history(&entries, look()));
}

#[test]
fn the_quarantine_is_listed() {
    let entry = QuarantineEntry {
        candidate_id: CandidateId::numbered(1),
        tree: "7a".repeat(20),
        store_path: Some(version('c', "").store_path),
        reason: "unit: deletes a test".to_owned(),
        at: at(9),
    };
    let entries = [QuarantineEntry { store_path: None, ..entry.clone() }, entry];
    insta::assert_snapshot!(quarantine(&entries, look()));
}

fn shown(kind: ShowKind, id: &str, object: serde_json::Value) -> ShowReply {
    ShowReply { schema: SCHEMA.to_owned(), kind, id: id.to_owned(), object, evidence: Vec::new() }
}

fn step(name: &str, from: u64, to: Option<u64>, detail: Option<&str>) -> EvolutionStep {
    EvolutionStep {
        name: name.to_owned(),
        started_at: at(from),
        finished_at: to.map(at),
        duration_ms: to.map(|to| (to - from) * 1000),
        detail: detail.map(str::to_owned),
        journal_seq: from,
    }
}

#[test]
fn an_evolution_is_a_timeline() {
    let view = EvolutionView {
        entry: entry(9, None, "repair of inc_0001: canary", None),
        blueprint: "repair".to_owned(),
        rev: None,
        asked_by: Some("operator:ada".to_owned()),
        files_changed: (0..14).map(|number| format!("src/file{number}.rs")).collect(),
        steps: vec![
            step("diagnosing", 900, Some(902), None),
            step("building: edit", 902, Some(960), Some("/nix/store/cccccccccccccccccccccccccccccccc-greeter-1.2")),
            step("validating", 960, Some(995), Some("pass (val_0009)")),
            step("canary 5 %", 995, None, Some("50 more requests on the candidate")),
        ],
    };
    let object = serde_json::to_value(view).unwrap();
    insta::assert_snapshot!(show(&shown(ShowKind::Evolution, "evo_0009", object), look()));
}

#[test]
fn a_report_is_a_table_of_checks() {
    let check = |name: &str, verdict, summary: &str, details: &[&str]| CheckResult {
        name: name.to_owned(),
        verdict,
        summary: summary.to_owned(),
        details: details.iter().map(|detail| (*detail).to_owned()).collect(),
        drv: (verdict == Verdict::Fail).then(|| "/nix/store/dddddddddddddddddddddddddddddddd-golden.drv".to_owned()),
        duration_ms: (verdict != Verdict::Inconclusive).then_some(1300),
    };
    let report = ValidationReport {
        schema: SCHEMA.to_owned(),
        id: ReportId::numbered(9),
        candidate_id: CandidateId::numbered(7),
        store_path: version('c', "").store_path,
        active_store_path: version('a', "").store_path,
        validator: "supervisor".to_owned(),
        verdict: Verdict::Fail,
        checks: vec![
            check("unit", Verdict::Pass, "40 checks of Active's flake pass", &["not shown"]),
            check("golden/login", Verdict::Fail, "2 of 12 exchanges differ", &["-status: 200", "+status: 500"]),
            check("performance", Verdict::Inconclusive, "Active itself was too slow", &[]),
        ],
        started_at: at(1),
        finished_at: at(36),
    };
    let object = serde_json::to_value(report).unwrap();
    insta::assert_snapshot!(show(&shown(ShowKind::Report, "val_0009", object), look()));
}

#[test]
fn an_incident_names_its_evidence() {
    let object = serde_json::to_value(incident(1, Severity::Critical, "crash", "exit code 2: out of bounds")).unwrap();
    let file = |path: &str, bytes| Evidence { path: path.to_owned(), sha256: "ab12".to_owned(), bytes };
    let evidence = vec![file("incidents/inc_0001/context.json", 9216), file("incidents/inc_0001/log.txt", 512)];
    let shown = ShowReply { evidence, ..shown(ShowKind::Incident, "inc_0001", object) };
    insta::assert_snapshot!(show(&shown, look()));
}

#[test]
fn a_context_a_candidate_and_a_record_have_pages() {
    let context = EvolutionContext {
        id: ContextId::numbered(1),
        incident_id: Some(IncidentId::numbered(1)),
        incident: Some(incident(1, Severity::Critical, "crash", "exit code 2")),
        missing: vec!["reproduction".to_owned()],
        stack_traces: vec![StackTrace {
            language: "go".to_owned(),
            reason: "send on closed channel".to_owned(),
            frames: (0..12).map(|number| format!("main.f{number}")).collect(),
            thread: None,
        }],
        exit_status: Some("exit code 2".to_owned()),
        reproduction_runs: vec![ReproductionRun {
            path: "x".to_owned(),
            tries: 3,
            failures: 3,
            reproduces: Some(true),
            detail: "GET /greet/x".to_owned(),
        }],
        source: Some(version('a', "8ea502fa")),
        redactions: 2,
        digest: "sha256:11ee".to_owned(),
        ..EvolutionContext::default()
    };
    let candidate = CandidateRuntime {
        id: CandidateId::numbered(7),
        evolution_id: EvolutionId::numbered(7),
        version: version('c', "c3ab8ff1"),
        parent: version('a', "").store_path,
        base_rev: "8ea502fa".repeat(5),
        files_changed: vec!["src/main.rs".to_owned()],
        blueprint: "repair".to_owned(),
        created_at: at(5),
        ..CandidateRuntime::default()
    };
    let record = RuntimeMaintenanceRecord {
        schema: SCHEMA.to_owned(),
        id: RecordId::numbered(3),
        incident_id: None,
        evolution_id: Some(EvolutionId::numbered(7)),
        candidate_id: Some(CandidateId::numbered(7)),
        validation_id: None,
        action: MaintenanceAction::RolledBack,
        decided_by: "supervisor".to_owned(),
        reason: "slow under load".to_owned(),
        from: Some(version('c', "c3ab8ff1")),
        to: Some(version('a', "8ea502fa")),
        at: at(6),
        journal_seq: 77,
    };
    let page = [
        show(&shown(ShowKind::Context, "ctx_0001", serde_json::to_value(context).unwrap()), look()),
        show(&shown(ShowKind::Candidate, "cand_0007", serde_json::to_value(candidate).unwrap()), look()),
        show(&shown(ShowKind::Record, "rec_0003", serde_json::to_value(record).unwrap()), look()),
        show(&shown(ShowKind::Record, "rec_0004", json!({ "of": "a newer supervisor" })), look()),
    ];
    insta::assert_snapshot!(page.join("\n\n"));
}

#[test]
fn an_event_is_one_line_whatever_it_says() {
    let event = MonitorEvent {
        schema: SCHEMA.to_owned(),
        seq: 9,
        at: at(8),
        kind: "phase".to_owned(),
        text: "steady → diagnosing\n\x1b[2J".to_owned(),
        data: json!({}),
    };
    assert_eq!(event_line(&event, look()), "15:01:18.250  phase       steady → diagnosing ");
}

#[test]
fn durations_and_sizes_are_read_at_a_glance() {
    let spans = [0, 999, 1000, 59_999, 60_000, 3_661_000, 86_400_000, 90_061_000];
    let told: Vec<String> = spans.into_iter().map(words::duration_ms).collect();
    assert_eq!(told, ["0 ms", "999 ms", "1 s", "59 s", "1 min", "1 h 1 min", "1 d", "1 d 1 h"]);
    let told: Vec<String> = [7, 1500, 1_203_000].into_iter().map(words::duration_us).collect();
    assert_eq!(told, ["7 µs", "1.5 ms", "1.20 s"]);
    let told: Vec<String> = [0, 1023, 1024, 1 << 30, u64::MAX].into_iter().map(words::bytes).collect();
    assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "16777215.9 TiB"]);
    assert_eq!([0.0, 0.05, 0.0025, 1.0].map(words::percent), ["0 %", "5 %", "0.25 %", "100 %"]);
}
