//! The words for an event.

use super::reason::reason;
use super::request::request;
use super::scene::Scene;
use super::terms;
use super::words::{Kind, Level, Words};
use crate::digest::short;
use crate::interface::types::Verdict;
use crate::lifecycle::{Caller, Event, Finding};

/// An event in words, after the lifecycle took it. No other code has words for events.
pub fn event(of: &Event, scene: &Scene<'_>) -> Words {
    let detail = |kind, sentence| Words::new(kind, Level::Detail, sentence);
    let step = |kind, sentence| Words::new(kind, Level::Step, sentence);
    let warning = |kind, sentence| Words::new(kind, Level::Warning, sentence);
    match of {
        Event::Configured { .. } => detail(Kind::Phase, "the configuration is in force".to_owned()),
        Event::Recovered { .. } => {
            let phase = scene.phase.map_or_else(String::new, |phase| format!(", in phase {phase}"));
            step(Kind::Phase, format!("taken over from an earlier supervisor{phase}"))
        }
        // The record that follows says it at a higher level.
        Event::Held(reality) => {
            detail(Kind::Decision, format!("nothing is decided, the journal is behind: {}", reality.facts.join("; ")))
        }
        Event::Followed { rev, .. } => match scene.quarantined {
            Some((candidate, why)) => warning(
                Kind::Phase,
                format!(
                    "the source is at commit {}, which is in quarantine as {candidate} ({}); release it by `rei lift` to try it again",
                    short(rev),
                    reason(why)
                ),
            ),
            None => step(Kind::Phase, format!("the source is at commit {}", short(rev))),
        },
        Event::Found { finding, .. } => found(finding, scene),
        Event::Judged { verdict, reason } => {
            let words = match verdict {
                Verdict::Pass => step(Kind::Verdict, scene.of_evolution(&format!("judged as good: {reason}"))),
                Verdict::Fail => warning(Kind::Verdict, scene.of_evolution(&format!("judged as failing: {reason}"))),
                Verdict::Inconclusive => {
                    detail(Kind::Verdict, scene.of_evolution(&format!("cannot be judged yet: {reason}")))
                }
            };
            words.with(reason.clone())
        }
        Event::Diagnosed { evolution, .. } => detail(Kind::Phase, format!("{evolution}: the context is collected")),
        Event::Aimed { evolution, rev, .. } => {
            detail(Kind::Phase, format!("{evolution}: it is about commit {}", short(rev)))
        }
        Event::AgentRan { evolution, took_ms, .. } => {
            detail(Kind::Progress, format!("{evolution}: an agent ran for {took_ms} ms"))
        }
        Event::StageReached { evolution, stage, .. } => {
            detail(Kind::Progress, format!("{evolution}: the blueprint is at stage {stage}"))
        }
        Event::Built { evolution, version, .. } => {
            step(Kind::Phase, format!("{evolution}: built {}", version.store_path)).with(version.store_path.clone())
        }
        Event::BuildPaused { evolution, stage, .. } => {
            step(Kind::Phase, format!("{evolution}: waits for `rei approve` after the blueprint's stage {stage}"))
        }
        Event::BuildFailed { evolution, reason, .. } => {
            // The record that follows says it at a higher level.
            detail(Kind::Decision, format!("{evolution}: no candidate: {reason}")).with(reason.clone())
        }
        Event::Validated { evolution, report } => {
            let summary = if report.summary.is_empty() { String::new() } else { format!(": {}", report.summary) };
            let text = format!("{} ({}){summary}", terms::verdict(report.verdict), report.id);
            step(Kind::Verdict, format!("{evolution}: {text}")).with(text)
        }
        Event::GenerationPrepared { generation, .. } => {
            detail(Kind::Phase, format!("generation {generation} is prepared"))
        }
        Event::GenerationFailed { reason, .. } => {
            detail(Kind::Decision, format!("no generation can be made: {reason}"))
        }
        Event::Started { slot, instance } => {
            detail(Kind::Instance, format!("slot {slot}: started process {}", instance.pid))
        }
        Event::StartFailed { slot, reason } => {
            let level = if scene.has_active { Level::Warning } else { Level::Detail };
            Words::new(Kind::Instance, level, format!("slot {slot}: not started: {reason}"))
        }
        Event::Ready { slot } => detail(Kind::Instance, format!("slot {slot}: ready")),
        Event::Extended { slot, by_ms } => {
            step(Kind::Instance, format!("slot {slot}: the instance asks for {} s more", by_ms.div_ceil(1000)))
        }
        Event::Exited { slot, exit, ran_ms } => {
            detail(Kind::Instance, format!("slot {slot}: ended after {ran_ms} ms: {exit}"))
        }
        Event::Stopped { slot, waiting: false } => detail(Kind::Instance, format!("slot {slot}: stopped")),
        Event::Stopped { slot, waiting: true } => {
            detail(Kind::Instance, format!("slot {slot}: stopped, and connections wait in its queue"))
        }
        Event::PlanDone { took_us, .. } => {
            let text = format!("switched in {took_us} µs");
            detail(Kind::Decision, scene.of_evolution(&text)).with(text)
        }
        Event::PlanBusy { reason, .. } => {
            let text = format!("the switch is tried again: {reason}");
            detail(Kind::Decision, scene.of_evolution(&text)).with(text)
        }
        Event::PlanFailed { reason, .. } => {
            let text = format!("the switch failed: {reason}");
            warning(Kind::Decision, scene.of_evolution(&text)).with(text)
        }
        Event::Due(timer) => detail(Kind::Phase, format!("{} is over", terms::timer(*timer))),
        Event::Operator { who: Caller::Operator(who), request: asked } => {
            let words = step(Kind::Decision, format!("{who} asks to {}", request(asked)));
            match terms::approval(asked, who) {
                Some(approval) => words.with(approval),
                None => words,
            }
        }
        Event::Operator { who: Caller::Supervised { pid }, request: asked } => {
            warning(Kind::Decision, format!("process {pid} asked to {}, and was refused", request(asked)))
        }
    }
}

/// A finding in words. It opens an incident, belongs to an open one, or is part of the judgement of a version under
/// trial.
fn found(finding: &Finding, scene: &Scene<'_>) -> Words {
    let Finding { cause, summary, .. } = finding;
    let cause = cause.replace('_', " ");
    match scene.incident {
        Some((id, 1)) => Words::new(Kind::Incident, Level::Warning, format!("{id} opened: {cause}: {summary}")),
        Some((id, times)) => {
            Words::new(Kind::Incident, Level::Detail, format!("{id} found {times} times: {cause}: {summary}"))
        }
        None => Words::new(Kind::Incident, Level::Detail, format!("{cause}: {summary}")),
    }
}
