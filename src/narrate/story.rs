//! One entry of the journal in words: its event, and what follows from it.

use super::effect::effect;
use super::event::event;
use super::reason::reason;
use super::scene::Scene;
use super::words::{Level, Words};
use crate::interface::types::MaintenanceAction;
use crate::lifecycle::{Effect, Event, Lifecycle, Maintenance};

/// The words for one entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event.
    pub event: Words,
    /// The effects, in their order.
    pub effects: Vec<Words>,
}

/// Tells one entry of the journal, after `core` took the event. What two parts of it would both say to a reader of the log
/// is said by one of them; the other is a detail.
pub fn tell(of: &Event, effects: &[Effect], core: &Lifecycle) -> Told {
    let scene = Scene::of(of, core);
    let told = Told { event: event(of, &scene), effects: effects.iter().map(|it| effect(it, &scene)).collect() };
    // What ends the supervisor is its last word; once is enough.
    if effects.iter().any(|it| matches!(it, Effect::GiveUp { .. })) {
        return Told { event: told.event.lowered(), effects: told.effects.into_iter().map(Words::lowered).collect() };
    }
    // A record of an evolution's end tells why itself.
    if effects.iter().any(ends_evolution) {
        return Told { event: told.event.lowered(), ..told };
    }
    told
}

fn ends_evolution(effect: &Effect) -> bool {
    matches!(effect, Effect::Record(Maintenance { action, .. }) if *action != MaintenanceAction::Restarted)
}

impl Told {
    /// What a reader of the log is told: steps and warnings, in their order.
    pub fn lines(&self) -> impl Iterator<Item = &Words> {
        std::iter::once(&self.event).chain(&self.effects).filter(|words| words.level > Level::Detail)
    }
}

/// Where the lifecycle stands, in one line for the service manager.
pub fn status_line(core: &Lifecycle) -> String {
    let phase = core.phase().name();
    match (core.attention(), core.waits_for().0) {
        (Some(attention), _) => format!("{phase}: {}", reason(attention)),
        (None, Some(waits_for)) => format!("{phase}: {}", reason(&waits_for)),
        (None, None) => phase.to_owned(),
    }
}
