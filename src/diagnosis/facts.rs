//! The facts of a context for an agent, without values that differ each time it is collected.
//!
//! An agent that got a context once learns nothing from another one that says the same about a later occurrence. Facts
//! are the kind and the fingerprint of the incident, the exit status, the stack traces, the log lines about an error or
//! an end, whether the incident can be reproduced, and why earlier repairs were refused. Ids, times, counts, health
//! reports, measured numbers and the runtime's own context differ each time and are left out. In doubt a difference is
//! a fact: an unnecessary run of an agent only costs a part of a budget.

use std::collections::BTreeSet;

use super::words;
use crate::health::{normalise, normalise_line};
use crate::interface::types::EvolutionContext;
use crate::redact::strip_ansi;

/// Maximum number of facts of one context: facts about the incident and the different errors in its log.
const FACTS_MAX: usize = 128;
/// Number of bytes of a digest that are used: enough to distinguish some hundred facts.
const DIGEST_BYTES: usize = 8;

/// Digests of the facts in the context, in the log beside it, and in the reasons of earlier refusals, sorted, without
/// repetitions.
pub fn facts<'a>(context: &EvolutionContext, log: &str, refused: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(incident) = &context.incident {
        facts.push(format!("incident {:?} {} {}", incident.class, incident.cause, incident.fingerprint));
    }
    facts.extend(context.exit_status.iter().map(|status| format!("exit {status}")));
    for trace in &context.stack_traces {
        let frames: Vec<String> = trace.frames.iter().map(|frame| normalise(frame)).collect();
        facts.push(format!("trace {} {} {}", trace.language, normalise(&trace.reason), frames.join(" < ")));
    }
    let reproduced = context.reproduction_runs.iter().filter_map(|run| run.reproduces);
    facts.extend(reproduced.map(|reproduces| format!("reproduces {reproduces}")));
    for reason in refused {
        facts.extend(reason.lines().map(|line| format!("refused {}", normalise_line(line))));
    }
    facts.extend(words::important_lines(&strip_ansi(log)).iter().map(|line| format!("log {}", normalise_line(line))));
    // A repetition or another order is not another fact.
    let digests: BTreeSet<String> = facts.iter().map(|fact| digest(fact)).collect();
    digests.into_iter().take(FACTS_MAX).collect()
}

fn digest(fact: &str) -> String {
    let mut digest = crate::digest::sha256(fact);
    digest.truncate(2 * DIGEST_BYTES);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Cause, Finding};
    use crate::interface::types::{
        ContextId, IncidentClass, IncidentId, ReproductionRun, RuntimeHealthReport, RuntimeIncident, RuntimeRef,
        Severity, StackTrace,
    };
    use crate::time::Timestamp;

    /// The context of the same fault at its `n`th occurrence.
    fn context(n: u64) -> EvolutionContext {
        let found = Finding {
            class: IncidentClass::RuntimeFailure,
            cause: Cause::Crash,
            severity: Severity::Critical,
            fingerprint: "sha256:00".into(),
            summary: format!("order {n}"),
            occurrence: n,
            evolve: true,
        };
        let incident = found.incident(IncidentId::numbered(1), RuntimeRef::default(), Timestamp::from_unix_ms(n));
        EvolutionContext {
            id: ContextId::numbered(n),
            incident: Some(RuntimeIncident { occurrences: n, last_seen: Timestamp::from_unix_ms(n), ..incident }),
            stack_traces: vec![StackTrace { reason: format!("no order {n}"), ..StackTrace::default() }; 2],
            exit_status: Some("exit code 101".into()),
            reproduction_runs: vec![ReproductionRun { tries: n, reproduces: Some(true), ..ReproductionRun::default() }],
            health: vec![RuntimeHealthReport { seq: n, ..RuntimeHealthReport::default() }; 3],
            digest: format!("sha256:{n}"),
            ..EvolutionContext::default()
        }
    }

    fn log(n: u64) -> String {
        format!(
            "2026-01-01T10:0{n}:00Z INFO listening on 127.0.0.1:80{n}\nGET /{n} 200\n\
             2026-01-01T10:0{n}:01Z ERROR order {n} lost in /nix/store/{n}c0zv5n6k5gdnkgc8v0nz6gk2xvyl2l1-x/bin\n"
        )
    }

    #[test]
    fn a_later_occurrence_of_the_same_fault_has_the_same_facts() {
        assert_eq!(facts(&context(1), &log(1), []), facts(&context(2), &[log(2), log(3)].concat(), []));
        // A later supervisor that knows less has no new fact.
        let less = EvolutionContext { exit_status: None, reproduction_runs: Vec::new(), ..context(2) };
        assert!(facts(&less, "", []).iter().all(|fact| facts(&context(1), &log(1), []).contains(fact)));
    }

    #[test]
    fn new_information_is_a_new_fact() {
        let before = facts(&context(1), &log(1), []);
        let other = |change: &dyn Fn(&mut EvolutionContext)| {
            let mut context = context(1);
            change(&mut context);
            facts(&context, &log(1), [])
        };
        let all = [
            other(&|it| it.exit_status = Some("exit code 102".into())),
            other(&|it| it.stack_traces[0].frames.push("main".into())),
            other(&|it| it.reproduction_runs[0].reproduces = Some(false)),
            other(&|it| it.incident.as_mut().unwrap().fingerprint.push('1')),
            facts(&context(1), &(log(1) + "ERROR no disk\n"), []),
            facts(&context(1), &log(1), ["unit: 1 of 3 checks fail"]),
            facts(&context(1), &log(1), ["golden/answers: 41"]),
        ];
        for more in &all {
            assert_eq!(more.iter().filter(|fact| !before.contains(fact)).count(), 1, "{more:?}");
        }
        let many: String = (0..50_000).map(|n| format!("ERROR {}\n", "x".repeat(n % 500))).collect();
        assert_eq!(facts(&context(1), &many, []).len(), FACTS_MAX);
        // A repetition of the same verdict is no new fact.
        let once = facts(&context(1), &log(1), ["unit: 1 of 3 checks fail in 2 s"]);
        assert_eq!(once, facts(&context(3), &log(3), ["unit: 1 of 3 checks fail in 3 s"; 2]));
    }
}
