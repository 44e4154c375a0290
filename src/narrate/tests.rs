//! Each event, effect and request has its sentence. The examples are written as a journal stores them.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::interface::types::{CandidateId, EvolutionId, IncidentId};
use crate::lifecycle::{Effect, Event, Reason, Request};

/// The names of all variants, from the error about an unknown one. They show which variant has no example.
fn names<T: DeserializeOwned>(tag: &str) -> BTreeSet<String> {
    let Err(error) = serde_json::from_value::<T>(json!({ tag: "?" })) else { panic!("there is no variant ?") };
    let listed = error.to_string();
    let listed = listed.split_once("expected").expect("a list of variants").1;
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of each example, after a check that each variant has an example.
fn sentences<T: DeserializeOwned>(tag: &str, examples: &[Value], words: impl Fn(&T) -> String) -> String {
    let shown: BTreeSet<String> = examples.iter().map(|it| it[tag].as_str().expect("a tag").to_owned()).collect();
    assert_eq!(shown, names::<T>(tag), "each {tag} has an example");
    let line = |example: &Value| {
        let it = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{example}: {error}"));
        format!("{}\n    {}", example[tag].as_str().expect("a tag"), words(&it))
    };
    examples.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn shown(words: &Words) -> String {
    let Words { kind, level, sentence, detail } = words;
    let detail = detail.as_ref().map_or_else(String::new, |detail| format!("\n    beside the step: {detail}"));
    format!("[{} {level:?}] {sentence}{detail}", kind.name())
}

fn version() -> Value {
    json!({ "store_path": "/nix/store/b-greeter", "rev": "9f86d0819f86d081", "tree": "7a7a7a7a", "drv": "" })
}

fn policy() -> Value {
    json!({
        "overlap": true, "standby": "keep", "approve": false, "canary": [], "observe_ms": 1, "hold_ms": 1,
        "on_inconclusive": "ask", "keep_generations": 10, "per_incident": 3, "per_hour": 6, "incident_blueprint": null,
        "class_blueprint": {}, "upgrade_blueprint": "upgrade",
        "bounds": {
            "diagnose_ms": 1, "build_ms": 1, "validate_ms": 1, "start_ms": 1, "stop_ms": 1, "backoff_ms": 1,
            "backoff_max_ms": 1, "stable_ms": 1, "recheck_ms": 1
        }
    })
}

fn events() -> Vec<Value> {
    let evolution = "evo_0002";
    let report = |verdict: &str, summary: &str| {
        let store_path = "/nix/store/b-greeter";
        json!({ "id": "val_0001", "store_path": store_path, "verdict": verdict, "summary": summary })
    };
    let asks = |who: Value, request: Value| json!({ "event": "operator", "who": who, "request": request });
    vec![
        json!({ "event": "configured", "policy": policy() }),
        json!({ "event": "recovered", "running": [null, null], "rebooted": false }),
        json!({
            "event": "held", "facts": ["slot A runs /nix/store/b-greeter", "generation 3 is current"],
            "running": [null, null], "serves": null, "numbered": 7
        }),
        json!({ "event": "followed", "rev": "9f86d0819f86d081", "tree": "7a7a7a7a" }),
        json!({
            "event": "found", "class": "runtime_failure", "cause": "memory_leak", "severity": "critical",
            "fingerprint": "sha256:f", "summary": "exit code 2: index out of bounds", "evolve": true
        }),
        json!({ "event": "judged", "verdict": "pass", "reason": "60 probes, 0 failed" }),
        json!({ "event": "judged", "verdict": "fail", "reason": "4 of 20 probes are slow" }),
        json!({ "event": "judged", "verdict": "inconclusive", "reason": "3 of 20 probes so far" }),
        json!({ "event": "diagnosed", "evolution": evolution, "context": "sha256:c" }),
        json!({ "event": "aimed", "evolution": evolution, "rev": "9f86d0819f86d081", "tree": "7a7a7a7a" }),
        json!({ "event": "agent_ran", "evolution": evolution, "took_ms": 1200 }),
        json!({ "event": "stage_reached", "evolution": evolution, "stage": "edit", "checkpoint": "{}" }),
        json!({
            "event": "built", "evolution": evolution, "version": version(), "base_rev": "9f86", "files_changed": []
        }),
        json!({ "event": "build_paused", "evolution": evolution, "stage": "edit", "checkpoint": "{}" }),
        json!({ "event": "build_failed", "evolution": evolution, "reason": "the agent changed nothing" }),
        json!({ "event": "validated", "evolution": evolution, "report": report("pass", "") }),
        json!({ "event": "validated", "evolution": evolution, "report": report("fail", "boot: exit code 1") }),
        json!({ "event": "validated", "evolution": evolution, "report": report("inconclusive", "no space left") }),
        json!({ "event": "generation_prepared", "store_path": "/nix/store/b-greeter", "generation": 3 }),
        json!({ "event": "generation_failed", "store_path": "/nix/store/b-greeter", "reason": "no space left" }),
        json!({
            "event": "started", "slot": "A", "instance": { "id": "inst_0001", "pid": 4711, "start_ticks": 1 }
        }),
        json!({ "event": "start_failed", "slot": "A", "reason": "bin/greeter is no program" }),
        json!({ "event": "ready", "slot": "B" }),
        json!({ "event": "extended", "slot": "B", "by_ms": 2500 }),
        json!({ "event": "exited", "slot": "A", "exit": "signal 11 (SIGSEGV)", "ran_ms": 900 }),
        json!({ "event": "stopped", "slot": "A" }),
        json!({ "event": "stopped", "slot": "A", "waiting": true }),
        json!({ "event": "carried", "plan": 3, "took_us": 377 }),
        json!({ "event": "plan_busy", "plan": 3, "reason": "another program holds the lock of the profile" }),
        json!({ "event": "plan_failed", "plan": 3, "reason": "the profile is locked" }),
        json!({ "event": "due", "window": null }),
        asks(json!("ada"), json!({ "request": "approve", "id": "evo_0002" })),
        asks(json!({ "pid": 4711 }), json!({ "request": "approve", "id": "evo_0002" })),
    ]
}

fn effects() -> Vec<Value> {
    let evolution = "evo_0002";
    let routing = |other_ppm: u64| json!({ "main": "A", "other_ppm": other_ppm });
    let reason = json!({ "why": "ends_wait_for_data" });
    let record = |action: &str| {
        json!({
            "effect": "record", "action": action, "evolution": evolution, "incident": null, "candidate": null,
            "report": null, "decided_by": "supervisor", "reason": "60 probes, 0 failed", "from": null, "to": version()
        })
    };
    vec![
        json!({ "effect": "install", "evolution": "evo_0001" }),
        json!({ "effect": "diagnose", "evolution": evolution, "incident": "inc_0001" }),
        json!({ "effect": "diagnose", "evolution": evolution, "incident": null }),
        json!({
            "effect": "build", "evolution": evolution, "candidate": "cand_0001", "blueprint": "repair", "rev": null,
            "checkpoint": null, "approved": false
        }),
        json!({
            "effect": "validate", "evolution": evolution, "candidate": "cand_0001", "version": version(),
            "report": "val_0001"
        }),
        json!({ "effect": "cancel", "evolution": evolution }),
        json!({ "effect": "prepare_generation", "store_path": "/nix/store/b-greeter" }),
        json!({ "effect": "start", "slot": "B", "version": version(), "role": "candidate" }),
        json!({ "effect": "stop", "slot": "B", "drain": false }),
        json!({ "effect": "stop", "slot": "B", "drain": true }),
        json!({ "effect": "drain", "slot": "B", "version": version() }),
        json!({ "effect": "refresh", "slot": "A", "version": version() }),
        json!({
            "effect": "carry", "number": 3, "store_path": "/nix/store/b-greeter", "report": "val_0001", "undo": true,
            "steps": []
        }),
        json!({ "effect": "route", "routing": routing(50_000) }),
        json!({ "effect": "route", "routing": routing(0) }),
        json!({ "effect": "restore", "routing": routing(50_000), "generation": null }),
        json!({ "effect": "restore", "routing": routing(0), "generation": 3 }),
        json!({ "effect": "observe", "slot": "B", "baseline": null }),
        json!({ "effect": "observe", "slot": "B", "baseline": "A" }),
        json!({ "effect": "shadow", "slot": "B", "active": "A" }),
        json!({ "effect": "judge" }),
        json!({ "effect": "set_timer", "timer": "phase", "at": "2026-11-22T15:01:10.250Z", "reason": reason }),
        json!({ "effect": "clear_timer", "timer": "restart_a" }),
        json!({ "effect": "prune", "keep": 10, "in_use": [3] }),
        record("promoted"),
        record("rejected"),
        record("unchanged"),
        record("rolled_back"),
        record("restarted"),
        record("deferred"),
        json!({ "effect": "give_up", "reason": { "why": "first_version_late" } }),
    ]
}

fn requests() -> Vec<Value> {
    vec![
        json!({ "request": "evolve", "rev": null, "blueprint": null }),
        json!({ "request": "evolve", "rev": "v2", "blueprint": "upgrade" }),
        json!({ "request": "approve", "id": "evo_0002" }),
        json!({ "request": "reject", "id": "evo_0002", "reason": "too slow" }),
        json!({ "request": "rollback", "to": null }),
        json!({ "request": "rollback", "to": 3 }),
        json!({ "request": "pause" }),
        json!({ "request": "resume" }),
        json!({ "request": "lift", "content": "7a7a7a7a" }),
        json!({ "request": "settle", "trust": "reality", "reason": "" }),
        json!({ "request": "settle", "trust": "journal", "reason": "the disk was changed" }),
    ]
}

/// The facts that a supervisor has around its events.
fn with_scene(look: impl FnOnce(&Scene<'_>) -> String) -> String {
    let (evolution, incident, candidate) =
        (EvolutionId::numbered(2), IncidentId::numbered(1), CandidateId::numbered(1));
    let why = Reason::RolledBackByOperator;
    look(&Scene {
        phase: Some("Canary"),
        evolution: Some(&evolution),
        rev: Some("9f86d0819f86d081"),
        has_active: true,
        incident: Some((&incident, 1)),
        quarantined: Some((&candidate, &why)),
    })
}

#[test]
fn every_event_has_its_sentence() {
    let words = |scene: &Scene<'_>| sentences("event", &events(), |it: &Event| shown(&event(it, scene)));
    insta::assert_snapshot!("events", with_scene(words));
    insta::assert_snapshot!("events_without_scene", words(&Scene::default()));
}

#[test]
fn every_effect_has_its_sentence() {
    let words = |scene: &Scene<'_>| sentences("effect", &effects(), |it: &Effect| shown(&effect(it, scene)));
    insta::assert_snapshot!("effects", with_scene(words));
}

#[test]
fn every_request_has_its_words() {
    insta::assert_snapshot!("requests", sentences("request", &requests(), |it: &Request| request::request(it)));
}

#[test]
fn no_sentence_shows_debug_output() {
    // The marks of `{:?}`: braces, quotes, the name of a type before a brace.
    let all = with_scene(|scene| {
        let events = sentences("event", &events(), |it: &Event| event(it, scene).sentence);
        let effects = sentences("effect", &effects(), |it: &Effect| effect(it, scene).sentence);
        format!("{events}\n{effects}\n{}", sentences("request", &requests(), |it: &Request| request::request(it)))
    });
    for sign in ["Some(", "None", "{", "}", "\""] {
        assert!(!all.contains(sign), "{sign} in\n{all}");
    }
}
