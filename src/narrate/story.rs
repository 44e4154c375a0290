//! One entry of the journal in words: its event and its effects.

use super::effect::effect;
use super::event::event;
use super::reason::reason;
use super::scene::Scene;
use super::words::{Level, Words};
use crate::interface::types::MaintenanceAction;
use crate::lifecycle::{Effect, Event, Lifecycle, Maintenance};

/// The words for one entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narration {
    /// The event.
    pub event: Words,
    /// The effects, in their order.
    pub effects: Vec<Words>,
}

/// Puts one entry of the journal into words, after `core` took the event. If an event and an effect would say the same
/// to a reader of the log, only one of them says it, and the other becomes a detail.
pub fn narrate(of: &Event, effects: &[Effect], core: &Lifecycle) -> Narration {
    let scene = Scene::of(of, core);
    let all = Narration { event: event(of, &scene), effects: effects.iter().map(|it| effect(it, &scene)).collect() };
    // The supervisor reports a `GiveUp` as its own error when it ends, so the log does not repeat it.
    if effects.iter().any(|it| matches!(it, Effect::GiveUp { .. })) {
        return Narration {
            event: all.event.lowered(),
            effects: all.effects.into_iter().map(Words::lowered).collect(),
        };
    }
    // The record of an evolution's end contains the reason itself.
    if effects.iter().any(ends_evolution) {
        return Narration { event: all.event.lowered(), ..all };
    }
    all
}

fn ends_evolution(effect: &Effect) -> bool {
    matches!(effect, Effect::Record(Maintenance { action, .. }) if *action != MaintenanceAction::Restarted)
}

impl Narration {
    /// The lines for the log: steps and warnings, in their order.
    pub fn lines(&self) -> impl Iterator<Item = &Words> {
        std::iter::once(&self.event).chain(&self.effects).filter(|words| words.level > Level::Detail)
    }
}

/// The phase, and what it waits for, in one line for the service manager.
pub fn status_line(core: &Lifecycle) -> String {
    let phase = core.phase().name();
    match (core.attention(), core.waits_for().0) {
        (Some(attention), _) => format!("{phase}: {}", reason(attention)),
        (None, Some(waits_for)) => format!("{phase}: {}", reason(&waits_for)),
        (None, None) => phase.to_owned(),
    }
}
