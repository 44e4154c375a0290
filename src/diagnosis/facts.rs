//! The facts that a context tells an agent, without what differs each time it is collected.
//!
//! An agent that was given a context once learns nothing from another one that says the same of a later occurrence. What
//! counts is the incident's kind and fingerprint, how the process ended, the stack traces, the lines of the log that tell of
//! an error or an end, whether it can be reproduced, and why earlier repairs were refused. Ids, times, counts, health
//! reports, measured numbers and what the runtime says of itself differ each time, and are left out. In doubt a difference
//! counts: an agent that is asked once too often costs a run, and those have a budget.

use std::collections::BTreeSet;

use super::words;
use crate::health::{normalise, normalise_line};
use crate::interface::types::EvolutionContext;
use crate::redact::strip_ansi;

/// Facts of one context: what an incident shows, and the different errors that its log tells of. Of more, these are taken.
const FACTS_MAX: usize = 128;
/// What is taken of a digest, in bytes: enough to tell some hundred facts apart.
const DIGEST_BYTES: usize = 8;

/// Digests of the facts that the context, the log beside it, and the reasons of earlier refusals tell, in order, each once.
pub fn facts<'a>(context: &EvolutionContext, log: &str, refused: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(incident) = &context.incident {
        told.push(format!("incident {:?} {} {}", incident.class, incident.cause, incident.fingerprint));
    }
    told.extend(context.exit_status.iter().map(|status| format!("exit {status}")));
    for trace in &context.stack_traces {
        let frames: Vec<String> = trace.frames.iter().map(|frame| normalise(frame)).collect();
        told.push(format!("trace {} {} {}", trace.language, normalise(&trace.reason), frames.join(" < ")));
    }
    let reproduced = context.reproduction_runs.iter().filter_map(|run| run.reproduces);
    told.extend(reproduced.map(|reproduces| format!("reproduces {reproduces}")));
    for reason in refused {
        told.extend(reason.lines().map(|line| format!("refused {}", normalise_line(line))));
    }
    told.extend(words::telling_lines(&strip_ansi(log)).iter().map(|line| format!("log {}", normalise_line(line))));
    // What is said more often, or in another order, is no other fact.
    let digests: BTreeSet<String> = told.iter().map(|fact| digest(fact)).collect();
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
    fn the_same_fault_later_tells_the_same() {
        assert_eq!(facts(&context(1), &log(1), []), facts(&context(2), &[log(2), log(3)].concat(), []));
        // What a later supervisor does not know any more is no news.
        let less = EvolutionContext { exit_status: None, reproduction_runs: Vec::new(), ..context(2) };
        assert!(facts(&less, "", []).iter().all(|fact| facts(&context(1), &log(1), []).contains(fact)));
    }

    #[test]
    fn what_was_not_known_before_tells_more() {
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
        // The same verdict once more is no news.
        let once = facts(&context(1), &log(1), ["unit: 1 of 3 checks fail in 2 s"]);
        assert_eq!(once, facts(&context(3), &log(3), ["unit: 1 of 3 checks fail in 3 s"; 2]));
    }
}
