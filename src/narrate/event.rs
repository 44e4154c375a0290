//! One event in one line, as `rei monitor` shows it.

use crate::lifecycle::{Caller, Event, Lifecycle};

/// What an event is called and said to be, after it was taken.
pub fn event(of: &Event, core: &Lifecycle) -> (&'static str, String) {
    let phase = core.phase().name();
    match of {
        Event::Configured { .. } => ("phase", "configured".to_owned()),
        Event::Recovered { .. } => ("phase", format!("taken over in phase {phase}")),
        Event::Held(reality) => ("decision", format!("nothing is decided: {}", reality.facts.join("; "))),
        Event::Followed { rev, .. } => ("phase", format!("the followed ref names {rev}")),
        Event::Found { finding, .. } => ("incident", format!("{}: {}", finding.cause, finding.summary)),
        Event::Judged { verdict, reason } => ("verdict", format!("judged {verdict:?}: {reason}")),
        Event::Diagnosed { context, .. } => ("phase", format!("context {context}")),
        Event::Aimed { rev, .. } => ("phase", format!("it is about commit {rev}")),
        Event::AgentRan { took_ms, .. } => ("progress", format!("an agent ran for {took_ms} ms")),
        Event::StageReached { stage, .. } => ("progress", format!("blueprint stage {stage}")),
        Event::Built { version, .. } => ("phase", format!("built {}", version.store_path)),
        Event::BuildPaused { stage, .. } => ("phase", format!("the blueprint waits after stage {stage}")),
        Event::BuildFailed { reason, .. } => ("decision", format!("no candidate: {reason}")),
        Event::Validated { report, .. } => {
            ("verdict", format!("{} {:?}: {}", report.id, report.verdict, report.summary))
        }
        Event::GenerationPrepared { generation, .. } => ("phase", format!("generation {generation} is prepared")),
        Event::GenerationFailed { reason, .. } => ("decision", format!("no generation: {reason}")),
        Event::Started { slot, instance } => ("instance", format!("slot {slot}: started process {}", instance.pid)),
        Event::StartFailed { slot, reason } => ("instance", format!("slot {slot}: not started: {reason}")),
        Event::Ready { slot } => ("instance", format!("slot {slot}: ready")),
        Event::Extended { slot, by_ms } => ("instance", format!("slot {slot}: asks for {by_ms} ms more")),
        Event::Exited { slot, exit, ran_ms } => ("instance", format!("slot {slot}: {exit} after {ran_ms} ms")),
        Event::Stopped { slot, waiting: false } => ("instance", format!("slot {slot}: stopped")),
        Event::Stopped { slot, waiting: true } => ("instance", format!("slot {slot}: stopped, connections wait")),
        Event::PlanDone { plan, took_us } => ("decision", format!("plan {plan} carried out in {took_us} µs")),
        Event::PlanBusy { plan, reason } => ("decision", format!("plan {plan} is tried again: {reason}")),
        Event::PlanFailed { plan, reason } => ("decision", format!("plan {plan} failed: {reason}")),
        Event::Due(timer) => ("phase", format!("{timer:?} is over")),
        Event::Operator { who: Caller::Operator(who), request } => ("decision", format!("{who}: {request:?}")),
        Event::Operator { who: Caller::Supervised { pid }, request } => {
            ("decision", format!("process {pid}, refused: {request:?}"))
        }
    }
}
