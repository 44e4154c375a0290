//! One full sample of each type: written, compared with the definition file, and read back.

use std::collections::BTreeMap;

use rei::history::entry::{Entry, StateSummary};
use rei::interface::operations::{
    BudgetStatus, EvolutionStatus, GoldenRecording, HistoryEntry, InstanceState, InstanceStatus, ListenStatus,
    MonitorEvent, Phase, QuarantineEntry, RouteStatus, ShowKind, ShowReply, StateStatus, Status, SupervisorStatus,
    TrafficStatus, VersionStatus,
};
use rei::interface::types::*;
use rei::interface::{evolution, operations};
use rei::time::Timestamp;
use rei::{lifecycle, narrate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zlink::idl::{CustomType, Interface, Type};

fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_795_359_670_000 + second * 1000)
}

fn version() -> Version {
    Version {
        store_path: "/nix/store/abc-greeter".into(),
        rev: "8ea502f".into(),
        tree: "77aa".into(),
        drv: "/nix/store/abc-greeter.drv".into(),
    }
}

fn runtime_ref() -> RuntimeRef {
    RuntimeRef {
        name: "greeter".into(),
        store_path: Some("/nix/store/abc-greeter".into()),
        commit: Some("8ea502f".into()),
        role: Some(Role::Active),
        generation: Some(41),
        instance: Some("a-1".into()),
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

fn evidence() -> Evidence {
    Evidence { path: "incidents/inc_0001/stderr.txt".into(), sha256: "ab12".into(), bytes: 512 }
}

pub fn health_report() -> RuntimeHealthReport {
    let probe = LatencySummary { count: 60, p50_us: 900, p90_us: 1500, p99_us: 9000, max_us: 12_000 };
    RuntimeHealthReport {
        schema: SCHEMA.into(),
        runtime: runtime_ref(),
        seq: 118,
        observed_at: at(0),
        window_ms: 60_000,
        provider: "joined".into(),
        status: HealthStatus::Degraded,
        ready: Some(true),
        process: usage(),
        latency: BTreeMap::from([("probe".into(), probe)]),
        errors: BTreeMap::from([("probe".into(), ErrorCount { total: 60, failed: 3 })]),
        checks: vec![HealthCheck {
            name: "database".into(),
            status: HealthStatus::Ok,
            critical: true,
            message: Some("2 ms".into()),
        }],
        policy_anomalies: Some(vec![PolicyAnomaly { kind: "unexpected_exec".into(), detail: "/bin/sh".into() }]),
        upgrade_wanted: Some("main".into()),
        unavailable: vec!["retries".into()],
        other: BTreeMap::new(),
    }
}

pub fn incident() -> RuntimeIncident {
    RuntimeIncident {
        schema: SCHEMA.into(),
        id: IncidentId::numbered(1),
        class: IncidentClass::RuntimeFailure,
        cause: "crash".into(),
        severity: Severity::Critical,
        runtime: runtime_ref(),
        fingerprint: "sha256:00ff".into(),
        first_seen: at(1),
        last_seen: at(2),
        occurrences: 2,
        summary: "exit code 2".into(),
        evidence: vec![evidence()],
    }
}

pub fn evolution_context() -> EvolutionContext {
    EvolutionContext {
        schema: SCHEMA.into(),
        id: ContextId::numbered(1),
        incident_id: Some(IncidentId::numbered(1)),
        incident: Some(incident()),
        collected_by: "supervisor".into(),
        complete: false,
        missing: vec!["reproduction".into()],
        logs: vec![evidence()],
        stack_traces: vec![StackTrace {
            language: "go".into(),
            reason: "send on closed channel".into(),
            frames: vec!["main.emit".into()],
            thread: Some("goroutine 7".into()),
        }],
        exit_status: Some("exit code 2".into()),
        reproduction_runs: vec![ReproductionRun {
            path: "golden/one.jsonl".into(),
            tries: 3,
            failures: 3,
            reproduces: Some(true),
            detail: "fails each time".into(),
        }],
        health: vec![health_report()],
        source: Some(version()),
        memory: vec![RecordId::numbered(1)],
        runtime_context: Some(json!({ "queue": 7 })),
        redactions: 2,
        digest: "sha256:11ee".into(),
    }
}

pub fn candidate() -> CandidateRuntime {
    CandidateRuntime {
        schema: SCHEMA.into(),
        id: CandidateId::numbered(1),
        evolution_id: EvolutionId::numbered(1),
        incident_id: Some(IncidentId::numbered(1)),
        context_digest: Some("sha256:11ee".into()),
        version: version(),
        parent: "/nix/store/old-greeter".into(),
        base_rev: "1111111".into(),
        files_changed: vec!["src/main.rs".into()],
        blueprint: "repair".into(),
        created_at: at(3),
    }
}

pub fn validation_report() -> ValidationReport {
    ValidationReport {
        schema: SCHEMA.into(),
        id: ReportId::numbered(1),
        candidate_id: CandidateId::numbered(1),
        store_path: "/nix/store/abc-greeter".into(),
        active_store_path: "/nix/store/old-greeter".into(),
        validator: "supervisor".into(),
        verdict: Verdict::Inconclusive,
        checks: vec![CheckResult {
            name: "boot".into(),
            verdict: Verdict::Pass,
            summary: "ready after 12 ms".into(),
            details: vec!["stopped on SIGTERM".into()],
            drv: Some("/nix/store/xyz-boot.drv".into()),
            duration_ms: Some(300),
        }],
        started_at: at(4),
        finished_at: at(5),
    }
}

fn maintenance_record() -> RuntimeMaintenanceRecord {
    RuntimeMaintenanceRecord {
        schema: SCHEMA.into(),
        id: RecordId::numbered(1),
        incident_id: Some(IncidentId::numbered(1)),
        evolution_id: Some(EvolutionId::numbered(1)),
        candidate_id: Some(CandidateId::numbered(1)),
        validation_id: Some(ReportId::numbered(1)),
        action: MaintenanceAction::RolledBack,
        decided_by: "supervisor".into(),
        reason: "slow under load".into(),
        from: Some(version()),
        to: None,
        at: at(6),
        journal_seq: 77,
    }
}

pub fn status() -> Status {
    let active = VersionStatus {
        version: version(),
        role: Role::Active,
        generation: Some(41),
        slot: Some("a".into()),
        share: 0.95,
        instances: vec![InstanceStatus {
            id: "a-1".into(),
            state: InstanceState::Serving,
            started_at: Some(at(0)),
            usage: usage(),
            log_dropped_bytes: Some(0),
        }],
        traffic: vec![TrafficStatus {
            source: "tap".into(),
            window_ms: 60_000,
            requests: 1_200,
            failed: 3,
            routes: vec![RouteStatus { route: "GET /users/{}".into(), requests: 900, failed: 3, p99_us: 12_000 }],
            ..TrafficStatus::default()
        }],
    };
    Status {
        schema: SCHEMA.into(),
        runtime: "greeter".into(),
        phase: Phase::Canary,
        phase_since: at(7),
        waits_for: Some("50 requests on the candidate".into()),
        deadline: Some(at(60)),
        candidate: Some(VersionStatus { role: Role::Candidate, generation: None, share: 0.05, ..active.clone() }),
        active: Some(active),
        previous: None,
        health: Some(health_report()),
        open_incidents: vec![incident()],
        evolution: Some(EvolutionStatus {
            id: EvolutionId::numbered(1),
            incident_id: None,
            blueprint: "upgrade".into(),
            step: Some("canary 5 %".into()),
            attempt: 1,
            candidate_id: Some(CandidateId::numbered(1)),
            report_id: Some(ReportId::numbered(1)),
            shadow: Some("12 exchanges of 3 routes compared".into()),
            started_at: at(2),
        }),
        attention: Some("approve cand_0001".into()),
        paused: false,
        budget: BudgetStatus {
            left: 5,
            per_hour: 6,
            next_at: Some(at(3600)),
            spent_fingerprints: vec!["sha256:00ff".into()],
        },
        quarantined: 1,
        listen: vec![ListenStatus { name: "http".into(), address: "127.0.0.1:8080".into() }],
        recordings: vec![GoldenRecording {
            name: "live".into(),
            seen: 9,
            kept: 3,
            limit: 500,
            ..GoldenRecording::default()
        }],
        state: Some(StateStatus {
            directory: "/var/lib/rei/greeter".into(),
            bytes: 45_000_000,
            evidence_bytes: 3_200_000,
            evidence_bytes_max: 512 << 20,
            runs: 12,
            runs_max: 200,
            measured_at: at(1),
        }),
        supervisor: SupervisorStatus {
            pid: 4000,
            version: "0.1.0".into(),
            started_at: at(0),
            uptime_ms: 9000,
            rss_bytes: Some(7_000_000),
        },
    }
}

pub fn history_entry() -> HistoryEntry {
    HistoryEntry {
        schema: SCHEMA.into(),
        id: "evo_0001".into(),
        started_at: at(1),
        finished_at: Some(at(2)),
        action: Some(MaintenanceAction::Promoted),
        summary: "repaired crash".into(),
        decided_by: Some("operator:ada".into()),
        incident_id: Some(IncidentId::numbered(1)),
        candidate_id: Some(CandidateId::numbered(1)),
        report_id: Some(ReportId::numbered(1)),
        from: None,
        to: Some(version()),
    }
}

pub fn show_reply() -> ShowReply {
    ShowReply {
        schema: SCHEMA.into(),
        kind: ShowKind::Record,
        id: "rec_0001".into(),
        object: serde_json::to_value(maintenance_record()).unwrap(),
        evidence: vec![evidence()],
    }
}

/// As the supervisor makes it of an entry of its journal.
pub fn monitor_event() -> MonitorEvent {
    let evolution = EvolutionId::numbered(1);
    let event = lifecycle::Event::Diagnosed { evolution: evolution.clone(), context: "sha256:c".into() };
    let state = StateSummary { phase: lifecycle::Phase::Building, evolution: Some(evolution), share_ppm: None };
    let words = narrate::event(&event, &narrate::Scene::default());
    let entry = Entry { event, effects: vec![], state: Some(state) };
    MonitorEvent {
        schema: SCHEMA.into(),
        seq: 9,
        at: at(8),
        kind: words.kind.name().into(),
        text: words.sentence,
        data: json!(entry),
    }
}

pub fn quarantine_entry() -> QuarantineEntry {
    QuarantineEntry {
        candidate_id: CandidateId::numbered(1),
        tree: "77aa".into(),
        store_path: None,
        reason: "deletes a test".into(),
        at: at(9),
    }
}

/// Checks that every field of `value` is in the definition with its type, and that no required field is missing.
fn conforms(value: &Value, ty: &Type<'_>, interface: &Interface<'_>, path: &str) {
    let fits = match ty {
        Type::Bool => value.is_boolean(),
        Type::Int => value.is_i64() || value.is_u64(),
        Type::Float => value.is_number(),
        Type::String => value.is_string(),
        Type::ForeignObject => value.is_object(),
        Type::Optional(inner) => {
            if !value.is_null() {
                conforms(value, inner.inner(), interface, path);
            }
            true
        }
        Type::Array(inner) => {
            let items = value.as_array().unwrap_or_else(|| panic!("{path} is no array: {value}"));
            items.iter().for_each(|item| conforms(item, inner.inner(), interface, &format!("{path}[]")));
            true
        }
        Type::Map(inner) => {
            let items = value.as_object().unwrap_or_else(|| panic!("{path} is no object: {value}"));
            items.values().for_each(|item| conforms(item, inner.inner(), interface, &format!("{path}{{}}")));
            true
        }
        Type::Custom(name) => match interface.custom_types().find(|custom| custom.name() == name.as_str()) {
            Some(CustomType::Object(object)) => {
                let facts = value.as_object().unwrap_or_else(|| panic!("{path} is no object: {value}"));
                let fields: Vec<_> = object.fields().collect();
                for field in &fields {
                    let fact = facts.get(field.name().as_str()).unwrap_or(&Value::Null);
                    conforms(fact, field.ty(), interface, &format!("{path}.{}", field.name()));
                }
                for fact in facts.keys() {
                    assert!(fields.iter().any(|field| field.name() == fact.as_str()), "{path}.{fact} is undefined");
                }
                true
            }
            Some(CustomType::Enum(listed)) => {
                listed.variants().any(|variant| Some(variant.name().as_str()) == value.as_str())
            }
            None => panic!("{path}: {name} is undefined"),
        },
        Type::Any | Type::Enum(_) | Type::Object(_) => panic!("{path}: the definitions use no such type"),
    };
    assert!(fits, "{path} is no {ty}: {value}");
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(sample: T, ty: &str, definition: &str) {
    let written = serde_json::to_value(&sample).unwrap();
    let interface = Interface::try_from(definition).unwrap();
    conforms(&written, &Type::Custom(ty.try_into().unwrap()), &interface, ty);
    assert_eq!(serde_json::from_value::<T>(written).unwrap(), sample);
}

#[test]
fn each_type_is_written_as_defined_and_read_back() {
    let evolution = evolution::DEFINITION;
    round_trip(health_report(), "RuntimeHealthReport", evolution);
    round_trip(incident(), "RuntimeIncident", evolution);
    round_trip(evolution_context(), "EvolutionContext", evolution);
    round_trip(candidate(), "CandidateRuntime", evolution);
    round_trip(validation_report(), "ValidationReport", evolution);
    let supervisor = operations::DEFINITION;
    round_trip(status(), "StatusView", supervisor);
    round_trip(history_entry(), "HistoryEntry", supervisor);
    round_trip(show_reply(), "ShowReply", supervisor);
    round_trip(monitor_event(), "MonitorEvent", supervisor);
    round_trip(quarantine_entry(), "QuarantineEntry", supervisor);
    round_trip(maintenance_record(), "RuntimeMaintenanceRecord", evolution);
}

#[test]
fn every_value_of_every_enum_is_defined() {
    let interface = Interface::try_from(operations::DEFINITION).unwrap();
    let conforms = |value: Value, ty: &str| conforms(&value, &Type::Custom(ty.try_into().unwrap()), &interface, ty);
    use MaintenanceAction::{Deferred, Promoted, Rejected, Restarted, RolledBack, Unchanged};
    use Phase::{AwaitingApproval, Building, Canary, Diagnosing, Observing, RollingBack, Steady, Validating};
    for phase in [Steady, Diagnosing, Building, Validating, AwaitingApproval, Canary, Observing, RollingBack] {
        conforms(json!(phase), "Phase");
    }
    for action in [Promoted, Rejected, Unchanged, RolledBack, Restarted, Deferred] {
        conforms(json!(action), "MaintenanceAction");
    }
    use IncidentClass::{BehavioralDegradation, ObservabilitySignal, PolicyViolation, RuntimeFailure, UpgradeRequest};
    for class in [RuntimeFailure, BehavioralDegradation, PolicyViolation, ObservabilitySignal, UpgradeRequest] {
        conforms(json!(class), "IncidentClass");
    }
}

#[test]
fn a_runtime_may_omit_optional_fields_and_add_unknown_ones() {
    let report: RuntimeHealthReport = serde_json::from_value(json!({ "status": "ok", "queue_depth": 3 })).unwrap();
    assert_eq!((report.status, report.ready), (HealthStatus::Ok, None));
    assert_eq!(report.other["queue_depth"], json!(3));
    assert_eq!(serde_json::to_value(&report).unwrap()["queue_depth"], json!(3));
    assert!(serde_json::from_value::<RuntimeHealthReport>(json!({})).is_err(), "a report needs a status");
    let half = json!({ "status": "ok", "latency": { "api": { "count": 7 } } });
    assert!(serde_json::from_value::<RuntimeHealthReport>(half).is_err(), "a latency needs its figures");
}
