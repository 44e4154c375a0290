//! Which check a step of a plan is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The identity of a step. Plans, reports and verdicts have it as text: `boot`, `golden/NAME`, …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum StepId {
    /// The machine can judge at all.
    Control,
    /// The protected files are as in Active.
    Protected,
    /// The flake's checks, all of them: what is known of them as a whole.
    Units,
    /// One check of the flake.
    Unit(String),
    /// The candidate starts and stops.
    Boot,
    /// The candidate answers a golden run.
    Golden(String),
    /// What failed on Active passes on the candidate.
    Reproduction,
    /// Which exchanges of a recording Active repeats.
    Qualify(String),
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, name) = match self {
            Self::Control => ("sandbox", None),
            Self::Protected => ("protected", None),
            Self::Units => ("unit", None),
            Self::Unit(name) => ("unit", Some(name)),
            Self::Boot => ("boot", None),
            Self::Golden(name) => ("golden", Some(name)),
            Self::Reproduction => ("reproduction", None),
            Self::Qualify(name) => ("qualify", Some(name)),
        };
        match name {
            // With its width, as a table has it.
            None => f.pad(word),
            Some(name) => f.pad(&format!("{word}/{name}")),
        }
    }
}

impl From<StepId> for String {
    fn from(id: StepId) -> Self {
        id.to_string()
    }
}

/// A text that names no step.
#[derive(Debug, thiserror::Error)]
#[error("there is no check of the name {0:?}")]
pub struct UnknownStep(String);

impl TryFrom<String> for StepId {
    type Error = UnknownStep;

    fn try_from(text: String) -> Result<Self, UnknownStep> {
        Ok(match text.split_once('/') {
            Some(("unit", name)) => Self::Unit(name.to_owned()),
            Some(("golden", name)) => Self::Golden(name.to_owned()),
            Some(("qualify", name)) => Self::Qualify(name.to_owned()),
            _ => match text.as_str() {
                "sandbox" => Self::Control,
                "protected" => Self::Protected,
                "unit" => Self::Units,
                "boot" => Self::Boot,
                "reproduction" => Self::Reproduction,
                _ => return Err(UnknownStep(text)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_as_it_is_written() {
        use StepId::{Boot, Control, Golden, Protected, Qualify, Reproduction, Unit, Units};
        let (golden, qualify) = (Golden("greeting".into()), Qualify("a".into()));
        let all = [Control, Protected, Units, Unit("a/b".into()), Boot, golden, Reproduction, qualify];
        let words =
            ["sandbox", "protected", "unit", "unit/a/b", "boot", "golden/greeting", "reproduction", "qualify/a"];
        for (id, word) in all.into_iter().zip(words) {
            assert_eq!(serde_json::to_value(&id).unwrap(), word);
            assert_eq!(StepId::try_from(word.to_owned()).unwrap(), id);
        }
        assert!(StepId::try_from("load".to_owned()).is_err());
    }
}
