//! The log as a story: what a decision means, in lines for a person.

use super::reason::reason;
use crate::digest::short;
use crate::interface::types::{MaintenanceAction, Verdict};
use crate::lifecycle::{Caller, Effect, Event, Lifecycle, Maintenance, WHOLE_PPM};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Something is wrong, or was taken back.
    Warning,
    /// A step of the story.
    Step,
}

/// The lines about one event, after it was taken by `core`. Most events tell nothing that their effects do not.
pub fn lines(event: &Event, effects: &[Effect], core: &Lifecycle) -> Vec<(Weight, String)> {
    // What ends the supervisor is its last word; once is enough.
    if effects.iter().any(|effect| matches!(effect, Effect::GiveUp { .. })) {
        return Vec::new();
    }
    // A record of an evolution's end tells why itself.
    let ended = |effect: &Effect| matches!(effect, Effect::Record(Maintenance { action, .. }) if *action != MaintenanceAction::Restarted);
    let told = if effects.iter().any(ended) { None } else { of_event(event, core) };
    told.into_iter().chain(effects.iter().filter_map(|effect| of_effect(effect, core))).collect()
}

fn step(text: String) -> Option<(Weight, String)> {
    Some((Weight::Step, text))
}

fn warning(text: String) -> Option<(Weight, String)> {
    Some((Weight::Warning, text))
}

fn of_event(event: &Event, core: &Lifecycle) -> Option<(Weight, String)> {
    let evolution = || core.evolution().map_or_else(String::new, |current| format!("{}: ", current.id));
    match event {
        Event::Recovered { .. } => {
            step(format!("taken over from an earlier supervisor, in phase {}", core.phase().name()))
        }
        Event::Followed { rev, tree } => match core.quarantine().iter().find(|entry| entry.tree == *tree) {
            Some(entry) => warning(format!(
                "the source is at commit {}, which is in quarantine as {} ({}); lift it to try it again",
                short(rev),
                entry.candidate,
                reason(&entry.reason)
            )),
            None => step(format!("the source is at commit {}", short(rev))),
        },
        Event::Found { finding, .. } => {
            let open = core.incidents().get(&finding.fingerprint)?;
            let new = open.occurrences == 1;
            warning(format!("{} opened: {}: {}", open.id, finding.cause, finding.summary)).filter(|_| new)
        }
        Event::Judged { verdict: Verdict::Fail, reason } => {
            warning(format!("{}judged as failing: {reason}", evolution()))
        }
        Event::Judged { verdict: Verdict::Pass, reason } => step(format!("{}judged as good: {reason}", evolution())),
        Event::Built { evolution, version, .. } => step(format!("{evolution}: built {}", version.store_path)),
        Event::BuildPaused { evolution, stage, .. } => {
            step(format!("{evolution}: waits for `rei approve` after the blueprint's stage {stage}"))
        }
        Event::Validated { report, .. } => {
            let word = match report.verdict {
                Verdict::Pass => "passed",
                Verdict::Fail => "failed",
                Verdict::Inconclusive => "cannot be judged",
            };
            step(format!("{}{word} ({}): {}", evolution(), report.id, report.summary))
        }
        Event::StartFailed { slot, reason } => {
            warning(format!("slot {slot}: {reason}")).filter(|_| core.active().is_some())
        }
        Event::Extended { slot, by_ms } => {
            step(format!("slot {slot}: the instance asks for {} s more", by_ms.div_ceil(1000)))
        }
        Event::PlanFailed { reason, .. } => warning(format!("{}the switch failed: {reason}", evolution())),
        Event::Operator { who: Caller::Operator(who), request } => step(format!("{who} asks: {request:?}")),
        Event::Operator { who: Caller::Supervised { pid }, request } => {
            warning(format!("process {pid} asked, and was refused: {request:?}"))
        }
        Event::Held(_)
        | Event::Judged { verdict: Verdict::Inconclusive, .. }
        | Event::Configured { .. }
        | Event::Diagnosed { .. }
        | Event::StageReached { .. }
        | Event::Aimed { .. }
        | Event::AgentRan { .. }
        | Event::BuildFailed { .. }
        | Event::GenerationPrepared { .. }
        | Event::GenerationFailed { .. }
        | Event::Started { .. }
        | Event::Ready { .. }
        | Event::Exited { .. }
        | Event::Stopped { .. }
        | Event::PlanDone { .. }
        | Event::PlanBusy { .. }
        | Event::Due(_) => None,
    }
}

fn of_effect(effect: &Effect, core: &Lifecycle) -> Option<(Weight, String)> {
    let evolution = || core.evolution().map_or_else(String::new, |current| format!("{}: ", current.id));
    match effect {
        Effect::Install { evolution } => step(format!("{evolution}: building the first version")),
        Effect::Diagnose { evolution, incident, .. } => {
            let rev = core.evolution().and_then(|current| current.rev.as_deref());
            let about = match (incident, rev) {
                (Some(incident), _) => format!("the repair of {incident}"),
                (None, Some(rev)) => format!("the upgrade to commit {}", short(rev)),
                (None, None) => "an evolution that an operator asked for".to_owned(),
            };
            step(format!("{evolution}: begins {about}"))
        }
        Effect::Build { evolution, blueprint, .. } => {
            step(format!("{evolution}: building by the blueprint {blueprint}"))
        }
        Effect::Validate { evolution, .. } => step(format!("{evolution}: judging it in sandboxes")),
        Effect::Route { routing } if routing.other_ppm > 0 => {
            let percent = f64::from(routing.other_ppm) * 100.0 / f64::from(WHOLE_PPM);
            step(format!("{}gets {percent} % of new connections", evolution()))
        }
        Effect::Observe { baseline: None, .. } => {
            step(format!("{}gets all new connections, and is observed", evolution()))
        }
        Effect::Record(maintenance) => Some(record(maintenance)),
        Effect::Cancel { .. }
        | Effect::PrepareGeneration { .. }
        | Effect::Start { .. }
        | Effect::Stop { .. }
        | Effect::Drain { .. }
        | Effect::Refresh { .. }
        | Effect::Execute(_)
        | Effect::Route { .. }
        | Effect::Restore { .. }
        | Effect::Observe { .. }
        | Effect::Judge
        | Effect::SetTimer { .. }
        | Effect::ClearTimer { .. }
        | Effect::Prune { .. }
        | Effect::GiveUp { .. } => None,
    }
}

fn record(maintenance: &Maintenance) -> (Weight, String) {
    let evolution = maintenance.evolution.as_ref().map_or_else(String::new, |id| format!("{id}: "));
    let reason = reason(&maintenance.reason);
    let active = maintenance.to.as_ref().map_or("nothing", |version| &version.store_path);
    match maintenance.action {
        MaintenanceAction::Promoted => (Weight::Step, format!("{evolution}promoted, Active is {active}: {reason}")),
        MaintenanceAction::Rejected => (Weight::Warning, format!("{evolution}rejected, Active stays: {reason}")),
        MaintenanceAction::Unchanged => (Weight::Step, format!("{evolution}unchanged, Active stays: {reason}")),
        MaintenanceAction::RolledBack => {
            (Weight::Warning, format!("{evolution}rolled back, Active is {active} again: {reason}"))
        }
        MaintenanceAction::Restarted => (Weight::Warning, format!("Active is started again: {reason}")),
        MaintenanceAction::Deferred => (Weight::Warning, format!("{evolution}put off, Active stays: {reason}")),
    }
}
