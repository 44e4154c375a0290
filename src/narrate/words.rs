//! The words for one event or one effect.

/// The words for one event or one effect. The log, `rei status --watch` and the history each take what they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The subject.
    pub kind: Kind,
    /// The importance.
    pub level: Level,
    /// The whole text, in one line.
    pub sentence: String,
    /// The result of the evolution's present step, if it has one. The history shows it at that step.
    pub detail: Option<String>,
}

/// The subject of an event or effect: the `kind` of a monitor event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The phase of the lifecycle.
    Phase,
    /// A fault of Active.
    Incident,
    /// An instance of the runtime.
    Instance,
    /// The progress of work.
    Progress,
    /// The verdict of a judge.
    Verdict,
    /// A decision of an operator or of the supervisor.
    Decision,
}

impl Kind {
    /// The name in a monitor event.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phase => "phase",
            Self::Incident => "incident",
            Self::Instance => "instance",
            Self::Progress => "progress",
            Self::Verdict => "verdict",
            Self::Decision => "decision",
        }
    }
}

/// The importance to a person who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only for debugging: the log has it at level debug.
    Detail,
    /// A normal step.
    Step,
    /// A fault, or a decision that was reversed.
    Warning,
}

impl Words {
    pub(super) const fn new(kind: Kind, level: Level, sentence: String) -> Self {
        Self { kind, level, sentence, detail: None }
    }

    /// The same words, at level [`Level::Detail`].
    pub(super) fn lowered(self) -> Self {
        Self { level: Level::Detail, ..self }
    }

    /// The same words, with a detail for the history.
    pub(super) fn with(self, detail: String) -> Self {
        Self { detail: Some(detail), ..self }
    }
}
