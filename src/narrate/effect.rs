//! The words for an effect.

use super::reason::reason;
use super::scene::Scene;
use super::terms;
use super::words::{Kind, Level, Words};
use crate::digest::short;
use crate::interface::types::MaintenanceAction;
use crate::lifecycle::{Effect, Maintenance};

/// An effect in words. No other code has words for effects.
pub fn effect(of: &Effect, scene: &Scene<'_>) -> Words {
    let detail = |kind, sentence| Words::new(kind, Level::Detail, sentence);
    let step = |kind, sentence| Words::new(kind, Level::Step, sentence);
    match of {
        Effect::Install { evolution } => step(Kind::Phase, format!("{evolution}: building the first version")),
        Effect::Diagnose { evolution, incident, .. } => {
            let about = match (incident, scene.rev) {
                (Some(incident), _) => format!("the repair of {incident}"),
                (None, Some(rev)) => format!("the upgrade to commit {}", short(rev)),
                (None, None) => "an evolution that an operator asked for".to_owned(),
            };
            step(Kind::Phase, format!("{evolution}: begins {about}"))
        }
        Effect::Build { evolution, blueprint, .. } => {
            step(Kind::Phase, format!("{evolution}: building by the blueprint {blueprint}"))
        }
        Effect::Validate { evolution, .. } => step(Kind::Phase, format!("{evolution}: judging it in sandboxes")),
        Effect::Cancel { evolution } => detail(Kind::Phase, format!("{evolution}: its work is stopped")),
        Effect::PrepareGeneration { store_path, .. } => {
            detail(Kind::Phase, format!("making a generation of the profile for {store_path}"))
        }
        Effect::Start { slot, version, role } => {
            detail(Kind::Instance, format!("slot {slot}: starting {} as {}", version.store_path, terms::role(*role)))
        }
        Effect::Stop { slot, drain: false } => detail(Kind::Instance, format!("slot {slot}: stopping")),
        Effect::Stop { slot, drain: true } => {
            detail(Kind::Instance, format!("slot {slot}: stopping, after its queue is empty"))
        }
        Effect::Drain { slot, version } => {
            detail(Kind::Instance, format!("slot {slot}: {} empties the queue that is left", version.store_path))
        }
        Effect::Refresh { slot, version } => {
            detail(Kind::Instance, format!("slot {slot}: a fresh instance of {}", version.store_path))
        }
        Effect::Execute(plan) => {
            let text = format!("switching all new connections to {}", plan.store_path);
            detail(Kind::Decision, scene.of_evolution(&text))
        }
        // The format 1.1 had one effect for both.
        Effect::Route { routing } | Effect::Restore { routing, generation: None } if routing.other_ppm > 0 => step(
            Kind::Phase,
            scene.of_evolution(&format!("gets {} of new connections", terms::percent(routing.other_ppm))),
        ),
        Effect::Route { routing } => {
            let share = terms::percent(routing.share_ppm(routing.main));
            detail(Kind::Phase, format!("slot {}: gets {share} of new connections", routing.main))
        }
        Effect::Restore { routing, generation } => {
            let profile = generation.map_or_else(String::new, |it| format!(", and generation {it} is current"));
            let share = terms::percent(routing.share_ppm(routing.main));
            detail(Kind::Phase, format!("slot {}: gets {share} of new connections{profile}", routing.main))
        }
        Effect::Observe { baseline: None, .. } => {
            step(Kind::Phase, scene.of_evolution("gets all new connections, and is observed"))
        }
        Effect::Observe { slot, baseline: Some(baseline) } => {
            detail(Kind::Phase, format!("slot {slot}: observed beside slot {baseline}"))
        }
        Effect::Shadow { active, .. } => step(
            Kind::Phase,
            scene.of_evolution(&format!(
                "is asked once more what users ask slot {active}, and gets no user's connection"
            )),
        ),
        Effect::Judge => detail(Kind::Verdict, scene.of_evolution("judging what was observed")),
        Effect::SetTimer { timer, at, reason: why } => {
            detail(Kind::Phase, format!("{} ends at {at}: {}", terms::timer(*timer), reason(why)))
        }
        Effect::ClearTimer { timer } => detail(Kind::Phase, format!("{} ends early", terms::timer(*timer))),
        Effect::Prune { keep, .. } => {
            detail(Kind::Phase, format!("deleting generations but the newest {keep} and those in use"))
        }
        Effect::Record(maintenance) => record(maintenance),
        // The supervisor also reports it as its own error when it ends, so the log does not repeat it.
        Effect::GiveUp { reason: why } => {
            let text = format!("given up: {}", reason(why));
            detail(Kind::Decision, scene.of_evolution(&text)).with(text)
        }
    }
}

fn record(maintenance: &Maintenance) -> Words {
    let evolution = maintenance.evolution.as_ref().map_or_else(String::new, |id| format!("{id}: "));
    let why = reason(&maintenance.reason);
    let active = maintenance.to.as_ref().map_or("nothing", |version| &version.store_path);
    let done = terms::action(maintenance.action);
    let (level, sentence) = match maintenance.action {
        MaintenanceAction::Promoted => (Level::Step, format!("{evolution}{done}, Active is {active}: {why}")),
        MaintenanceAction::Unchanged => (Level::Step, format!("{evolution}{done}, Active stays: {why}")),
        MaintenanceAction::Rejected | MaintenanceAction::Deferred => {
            (Level::Warning, format!("{evolution}{done}, Active stays: {why}"))
        }
        MaintenanceAction::RolledBack => {
            (Level::Warning, format!("{evolution}{done}, Active is {active} again: {why}"))
        }
        MaintenanceAction::Restarted => (Level::Warning, format!("Active is {done}: {why}")),
    };
    Words::new(Kind::Decision, level, sentence)
}
