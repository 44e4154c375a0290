//! Why work failed, in one line for a person.

use crate::blueprint::Blame;
use crate::report::chain;

/// Separates the failure and the next step in a reason of one line.
pub const HINT: &str = "; hint: ";

/// Why work failed, and which side caused the failure.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The reason, for a person.
    pub reason: String,
    /// The side that caused it.
    pub blame: Blame,
}

impl Failed {
    /// The machine caused the failure.
    pub fn of_machine(reason: String) -> Self {
        Self { reason, blame: Blame::Machine }
    }

    /// The operator's blueprint or request cannot be executed.
    pub fn of_maker(reason: String) -> Self {
        Self { reason, blame: Blame::Maker }
    }
}

impl From<crate::source::Error> for Failed {
    fn from(error: crate::source::Error) -> Self {
        Self { reason: reason(&error, error.hint()), blame: Blame::of_source(&error) }
    }
}

impl From<crate::nix::Error> for Failed {
    fn from(error: crate::nix::Error) -> Self {
        let hint = error.hint();
        Self::of_nix(&error, hint)
    }
}

impl Failed {
    /// A failure of Nix, with this next step.
    pub fn of_nix(error: &crate::nix::Error, hint: Option<String>) -> Self {
        let blame = if error.is_of_the_flake() { Blame::Content } else { Blame::Machine };
        Self { reason: reason(error, hint), blame }
    }
}

/// Why work failed, for a person, with the next step if there is one.
pub fn reason(error: &(dyn std::error::Error + 'static), hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{}{HINT}{hint}", chain(error)),
        None => chain(error),
    }
}
